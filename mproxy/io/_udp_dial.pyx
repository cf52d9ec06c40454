"""Sockets of UDP flows."""

from libc.errno cimport (
    EADDRINUSE, EAGAIN, EINTR, EMFILE, EMSGSIZE, ENFILE, ENOBUFS, ENOMEM, EPERM, errno,
)
from libc.string cimport memset

from mproxy.ground._sockaddr cimport htons, ntohs, sockaddr, socklen_t
from mproxy.io._packets cimport SocketAddress, receive_trains
from mproxy.io._ports cimport MAY_END, RESTED, Rest, port_rests
from mproxy.io._socket cimport (
    SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, SOL_SOCKET, SO_RCVBUF, bind, close, connect, getsockname, is_spare,
    set_option, socket,
)


cdef enum:
    MOST_PORTS = 16           # that the kernel is asked for: if all of these rest, few do not
    FLOW_BUFFER = 1048576  # bytes of a flow's queue: a few trains


cdef bint is_shortage(int error) noexcept nogil:
    """Whether evicting another flow can help one that failed like this (EAGAIN: no port is left, connect(2))."""
    return error in (EMFILE, ENFILE, ENOBUFS, ENOMEM, EAGAIN)


cdef bint is_passing(int error) noexcept nogil:
    """Whether an error of sending says nothing about the flow: no room, a filter on our own host, or too long a
    packet."""
    return error in (EAGAIN, ENOBUFS, ENOMEM, EPERM, EMSGSIZE, EINTR)


cdef int udp_dial(Target target, int index, int64_t now, uint16_t *port) noexcept:
    """A socket connected to address `index`; or -errno, EADDRINUSE: all ports seem to be resting.

    `port`: the one to use, 0: any that has rested, or at need may end its rest; on return the one it has.
    """
    cdef const sockaddr *address = <sockaddr *>&target.addresses[index]
    cdef socklen_t length = target.lengths[index]
    cdef uint16_t port_at_need = 0
    cdef int at_need = -1, fd = -1, _attempt
    cdef Rest rest
    if port[0] != 0:
        fd = connected(address, length, port)
        return prepared(fd) if fd >= 0 else fd
    for _attempt in range(MOST_PORTS):
        port[0] = 0
        fd = connected(address, length, port)
        if fd < 0:
            break
        rest = port_rests(port[0], now)
        if rest == RESTED:
            if at_need >= 0:
                close(at_need)
            return prepared(fd)
        if rest == MAY_END and at_need < 0:  # kept for now, so that the kernel offers another one
            at_need, port_at_need = fd, port[0]
        else:
            close(fd)
    if at_need < 0:
        return fd if fd < 0 else -EADDRINUSE
    port[0] = port_at_need
    return prepared(at_need)


cdef int connected(const sockaddr *address, socklen_t length, uint16_t *port) noexcept nogil:
    """A connected socket with that port (0: any), or -errno."""
    cdef SocketAddress own
    cdef int fd = socket(address.sa_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if fd < 0:
        return -errno
    if is_spare(fd):
        return closed(fd, EMFILE)
    if port[0] != 0:
        memset(&own, 0, sizeof(own))
        own.any.sa_family = address.sa_family
        own.v4.sin_port = htons(port[0])  # at the same place in both families
        if bind(fd, &own.any, length) < 0:
            return closed(fd, errno)
    if connect(fd, address, length) < 0:
        return closed(fd, errno)
    port[0] = port_of(fd)
    return fd


cdef int prepared(int fd) noexcept nogil:
    """The same socket, prepared for what it will receive."""
    receive_trains(fd)
    set_option(fd, SOL_SOCKET, SO_RCVBUF, FLOW_BUFFER)
    return fd


cdef int closed(int fd, int error) noexcept nogil:
    """Close, and return -error."""
    close(fd)
    return -error


cdef uint16_t port_of(int fd) noexcept nogil:
    """The local port; 0 if it cannot be found out."""
    cdef SocketAddress address
    cdef socklen_t length = sizeof(address)
    if getsockname(fd, &address.any, &length) < 0:
        return 0
    return ntohs(address.v4.sin_port)  # at the same place in both families
