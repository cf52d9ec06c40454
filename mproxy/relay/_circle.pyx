"""Circles at run time. The rules: _circle.pxd."""

from libc.stdlib cimport calloc, free
from libc.string cimport memcmp

from mproxy.net._socket cimport sockaddr, sockaddr_storage, socklen_t
from mproxy.relay._proxy_header cimport take_address


cdef extern from "<sys/socket.h>" nogil:
    int getsockname(int fd, sockaddr *address, socklen_t *length)
    int getpeername(int fd, sockaddr *address, socklen_t *length)


cdef bint is_time_to_look(uint64_t total, uint32_t now) noexcept nogil:
    """Whether a rule that has `now` connections, after `total` so far, may be part of a circle."""
    return total % LOOK_EVERY == 0 and now >= LEAST_OPEN


cdef void place_of_peer(int fd, Place *out) noexcept nogil:
    """Whom a connection came from."""
    cdef sockaddr_storage address
    cdef socklen_t length = sizeof(address)
    out.port = 0
    if getpeername(fd, <sockaddr *>&address, &length) == 0:
        take_address(<sockaddr *>&address, out.address, &out.port)


cdef void place_of_own(int fd, Place *out) noexcept nogil:
    """The near end of a connection that we made."""
    cdef sockaddr_storage address
    cdef socklen_t length = sizeof(address)
    out.port = 0
    if getsockname(fd, <sockaddr *>&address, &length) == 0:
        take_address(<sockaddr *>&address, out.address, &out.port)


cdef inline bint same(const Place *one, const Place *other) noexcept nogil:
    return one.port != 0 and one.port == other.port and memcmp(one.address, other.address, 16) == 0


cdef Finding find_circle(
        const Place *peers, const Place *met, const Place *ours, const Place *far, int count) noexcept nogil:
    """Of `count` connections: who came (`peers`) and to which place of ours (`met`), from where we connected (`ours`)
    and to whom (`far`)."""
    cdef int i, j, alike = 0, equal = 0
    for i in range(count):
        for j in range(count):
            if same(&peers[i], &ours[j]):
                alike += 1
                equal += same(&met[i], &far[j])
                break
    return CIRCLE if equal >= MATCHES else MAYBE_CIRCLE if alike >= MATCHES else NO_CIRCLE


cdef class OwnSockets:
    """UDP sockets that send on for others: a datagram that comes from one of them would circulate for ever. Their ports
    are theirs alone, so a match is no chance."""

    def __cinit__(self):
        self.fds = <int *>calloc(65536, sizeof(int))
        if self.fds == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.fds)

    cdef void note(self, uint16_t port, int fd) noexcept:
        """A socket that has this port."""
        self.fds[port] = fd

    cdef void forget(self, uint16_t port, int fd) noexcept:
        """It is about to be closed."""
        if self.fds[port] == fd:
            self.fds[port] = 0

    cdef bint has(self, const uint8_t *address, uint16_t port) noexcept:
        """Whether one has this address, in its IPv6 form, and port."""
        cdef Place own
        if self.fds[port] == 0:
            return False
        place_of_own(self.fds[port], &own)
        return own.port == port and memcmp(own.address, address, 16) == 0
