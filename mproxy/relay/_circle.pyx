"""Circles at run time. The rules: _circle.pxd."""

from libc.errno cimport ESRCH, errno
from libc.string cimport memcmp, memcpy, memset

from mproxy.ground._sockaddr cimport sockaddr, sockaddr_storage, socklen_t, take_address
from mproxy.io._shared cimport shared_zeros
from mproxy.io._socket cimport getpeername, getsockname


cdef extern from "<signal.h>" nogil:
    int kill(int pid, int signal)

cdef extern from "<unistd.h>" nogil:
    int getpid()

cdef enum:
    PORTS = 65536


cdef bint is_time_to_look(uint64_t total, uint32_t now) noexcept nogil:
    """Whether a rule that has `now` connections, after `total` so far, may be part of a circle."""
    return total % LOOK_EVERY == 0 and now >= LEAST_OPEN


cdef void place_of_peer(int fd, Place *out) noexcept nogil:
    """Note whom a connection came from."""
    cdef sockaddr_storage address
    cdef socklen_t length = sizeof(address)
    out.port = 0
    if getpeername(fd, <sockaddr *>&address, &length) == 0:
        take_address(<sockaddr *>&address, out.address, &out.port)


cdef void place_of_own(int fd, Place *out) noexcept nogil:
    """Note the near end of a connection that we made."""
    cdef sockaddr_storage address
    cdef socklen_t length = sizeof(address)
    memset(out, 0, sizeof(Place))
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


# ---- UDP sockets of this relay that send on for clients: a datagram that comes from one would circulate for ever.
# ---- Their ports are theirs alone, so a match is not chance. One table for the process that imports this and its
# ---- workers.

cdef struct Own:
    uint8_t address[16]  # IPv4 in its IPv6 form
    int pid              # whose socket it is; 0: nobody's

cdef Own *_own = <Own *>shared_zeros(PORTS * sizeof(Own))  # by port


cdef void own_note(uint16_t port, int fd) noexcept:
    """Note a socket with this port."""
    cdef Place place
    place_of_own(fd, &place)
    _own[port].pid = 0
    memcpy(_own[port].address, place.address, 16)
    _own[port].pid = getpid()


cdef void own_forget(uint16_t port) noexcept:
    """The socket is about to be closed. Another worker may have the port by now."""
    if _own[port].pid == getpid():
        _own[port].pid = 0


cdef bint own_has(const uint8_t *address, uint16_t port) noexcept:
    """Whether a socket of ours has this address, in its IPv6 form, and port. Those of a killed worker do not count."""
    cdef int pid = _own[port].pid
    if pid == 0 or memcmp(_own[port].address, address, 16) != 0:
        return False
    return pid == getpid() or kill(pid, 0) == 0 or errno != ESRCH
