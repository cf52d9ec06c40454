"""Going on with a pair that another worker has left, by its record and by what the kernel says of its sockets.

Every flag of a Side follows from these two. Whoever dies in here leaves what the next one finds right as well.
"""

from libc.stdint cimport int64_t, uint32_t

from mproxy.relay.tcp._tcp_rule cimport TcpRule


cdef int64_t key_of(uint32_t number) noexcept
cdef bint go_on(TcpRule rule, uint32_t number) noexcept
cdef void take_in(TcpRule rule, int fd) noexcept
