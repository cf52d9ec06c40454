"""Sockets of UDP sessions."""

from libc.errno cimport EADDRINUSE, EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM, errno

from mproxy.net._packets cimport Address, receive_trains
from mproxy.net._socket cimport (
    SOCK_CLOEXEC, SOCK_NONBLOCK, SOL_SOCKET, close, connect, is_spare, set_option, sockaddr, socket, socklen_t,
)
from mproxy.relay._ports cimport port_rests


cdef extern from "<sys/socket.h>" nogil:
    int SOCK_DGRAM, SO_RCVBUF
    int getsockname(int fd, sockaddr *address, socklen_t *length)

cdef extern from "<arpa/inet.h>" nogil:
    uint16_t ntohs(uint16_t value)

cdef enum:
    MOST_PORTS = 16           # that the kernel is asked for: when so many rest, few do not
    SESSION_BUFFER = 1048576  # bytes of a session's queue: a few trains


cdef bint is_shortage(int error) noexcept nogil:
    """Whether another session can make room for one that failed so (EAGAIN: no port is left, connect(2))."""
    return error in (EMFILE, ENFILE, ENOBUFS, ENOMEM, EAGAIN)


cdef int udp_dial(Target target, int index, int64_t now, uint16_t *port) noexcept:
    """A socket connected to address `index`, from a port that doesn't rest; or -errno, EADDRINUSE: all seem to rest."""
    cdef const sockaddr *address = <sockaddr *>&target.addresses[index]
    cdef int fd, _attempt
    for _attempt in range(MOST_PORTS):
        fd = socket(address.sa_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
        if fd < 0:
            return -errno
        if is_spare(fd):
            return closed(fd, EMFILE)
        if connect(fd, address, target.lengths[index]) < 0:
            return closed(fd, errno)
        port[0] = port_of(fd)
        if not port_rests(port[0], now):
            receive_trains(fd)
            set_option(fd, SOL_SOCKET, SO_RCVBUF, SESSION_BUFFER)
            return fd
        close(fd)
    return -EADDRINUSE


cdef int closed(int fd, int error) noexcept nogil:
    """Close, and return -error."""
    close(fd)
    return -error


cdef uint16_t port_of(int fd) noexcept nogil:
    """The local port, 0 when it can't be told."""
    cdef Address address
    cdef socklen_t length = sizeof(address)
    if getsockname(fd, &address.any, &length) < 0:
        return 0
    return ntohs(address.v4.sin_port)  # at the same place in both families
