"""Connecting to targets."""

import ipaddress

from libc.errno cimport EINPROGRESS, EMFILE, errno
from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memcpy

from mproxy.ground._sockaddr cimport AF_INET, AF_INET6, sockaddr, sockaddr_in, sockaddr_in6, socklen_t
from mproxy.io._socket cimport (
    IPPROTO_IP, IPPROTO_TCP, IP_BIND_ADDRESS_NO_PORT, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET,
    SO_OOBINLINE, TCP_NODELAY, bind, close, connect, is_reserved, reset_on_close, set_errno, set_option, socket,
)
from mproxy.relay._hops cimport set_hops


cdef extern from "<netinet/tcp.h>" nogil:
    int TCP_QUICKACK


cdef class SourceAddresses:
    """Addresses (text) from which to connect, at most one of each family; the last of a family counts."""

    def __init__(self, addresses=()):
        cdef const uint8_t *packed
        for text in addresses:
            address = ipaddress.ip_address(text)
            data = address.packed  # `packed` points into it
            packed = data
            if address.version == 4:
                self.four.ss_family = <uint16_t>AF_INET
                memcpy(&(<sockaddr_in *>&self.four).sin_addr, packed, 4)
            else:
                self.six.ss_family = <uint16_t>AF_INET6
                memcpy(&(<sockaddr_in6 *>&self.six).sin6_addr, packed, 16)


cdef int dial(Target target, int index, SourceAddresses sources, bint with_data, int hops) noexcept:
    """Start to connect to address `index`; returns the descriptor, or -1 with errno.

    `with_data`: bytes follow as soon as the target has answered, so the last packet of the handshake can travel with
    them (tcp(7), TCP_QUICKACK): one packet less, and the server wakes up once instead of twice. After sending them,
    `acknowledge_at_once`. `hops`: how many its packets may go; -1: the system's default.
    IP_BIND_ADDRESS_NO_PORT leaves the choice of the port to connect(2): otherwise a source address could have no more
    connections than ports, whatever the number of targets.
    """
    cdef bint is_four = target.addresses[index].ss_family == AF_INET
    cdef sockaddr_storage *source = &sources.four if is_four else &sources.six
    cdef socklen_t size = sizeof(sockaddr_in) if is_four else sizeof(sockaddr_in6)
    cdef int fd = socket(target.addresses[index].ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if fd < 0:
        return -1
    if is_reserved(fd):  # accepting stops at the first spare one: the last caller needs one or two of them here
        close(fd)
        set_errno(EMFILE)
        return -1
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1)
    set_option(fd, SOL_SOCKET, SO_OOBINLINE, 1)  # else urgent bytes (telnet sends some) would not be read
    reset_on_close(fd)  # even if this process is killed: see _closing.pyx
    if hops > 0:
        set_hops(fd, target.addresses[index].ss_family, hops)
    if with_data:
        set_option(fd, IPPROTO_TCP, TCP_QUICKACK, 0)
    if source.ss_family:
        set_option(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        if bind(fd, <sockaddr *>source, size) < 0:
            return failed(fd)
    if connect(fd, <sockaddr *>&target.addresses[index], target.lengths[index]) < 0 and errno != EINPROGRESS:
        return failed(fd)
    return fd


cdef void acknowledge_at_once(int fd) noexcept:
    """Undo `with_data`: a server that writes its answer in two pieces, with Nagle's algorithm, would wait 40 ms for the
    acknowledgement of the first one."""
    set_option(fd, IPPROTO_TCP, TCP_QUICKACK, 1)


cdef int failed(int fd) noexcept:
    cdef int error = errno
    close(fd)
    set_errno(error)
    return -1
