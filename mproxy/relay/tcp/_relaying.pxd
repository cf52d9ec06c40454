"""A pair from the accepted connection to its end: what its events and time-outs lead to."""

from libc.stdint cimport int64_t

from mproxy.ground._sockaddr cimport sockaddr_storage
from mproxy.relay.tcp._pair cimport Pair
from mproxy.relay.tcp._pair_record cimport PairRecord
from mproxy.relay.tcp._tcp_rule cimport TcpRule


cdef void prepare_client(int fd) noexcept nogil
cdef void accepted(void *owner, int fd, sockaddr_storage *address) noexcept
cdef void begin(TcpRule rule, int fd, const sockaddr_storage *address) noexcept
cdef Pair *pair_new(TcpRule rule, PairRecord *record, int fd) noexcept
cdef void note(Pair *pair, const sockaddr_storage *address) noexcept nogil
cdef void pair_due(Pair *pair, int64_t now) noexcept
