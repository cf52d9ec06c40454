"""UDP sockets and their peers."""

import socket as _python_socket

from libc.errno cimport EADDRNOTAVAIL, EHOSTUNREACH, EINVAL, ENETDOWN, ENETUNREACH
from libc.string cimport memcmp, memcpy, memset

from mproxy.ground._sockaddr cimport (
    AF_INET, AF_INET6, is_link_local, is_mapped, map_v4, ntohs, sockaddr, sockaddr_in,
)
from mproxy.io._packets cimport receive_trains, report_local_address
from mproxy.io._socket cimport (
    IPPROTO_IP, IPPROTO_IPV6, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, SOL_SOCKET, close, connect, getsockname,
    set_option, set_receive_queue, setsockopt, socket,
)


cdef extern from "<sys/socket.h>" nogil:
    int SO_SNDBUF, SO_SNDBUFFORCE

cdef extern from "<netinet/in.h>" nogil:
    int IPV6_V6ONLY, IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, IP_PMTUDISC_DONT, IP_PMTUDISC_PROBE


# ---- peers

cdef void peer_set(Peer *peer, const sockaddr_storage *name) noexcept nogil:
    """Take a socket address of either family."""
    cdef sockaddr_in *v4 = <sockaddr_in *>name
    memset(peer, 0, sizeof(Peer))
    if name.ss_family == AF_INET:
        peer.name.sin6_family = AF_INET6
        peer.name.sin6_port = v4.sin_port
        map_v4(peer.name.sin6_addr.s6_addr, &v4.sin_addr)
    elif name.ss_family == AF_INET6:
        memcpy(&peer.name, name, sizeof(sockaddr_in6))
        peer.name.sin6_flowinfo = 0
        if is_link_local(peer.name.sin6_addr.s6_addr):
            peer.local.interface = peer.name.sin6_scope_id


cdef void peer_of(Peer *peer, const Slot *slot) noexcept nogil:
    """Who sent what is in the slot, and to which address."""
    peer_set(peer, <const sockaddr_storage *>&slot.sender)
    memcpy(peer.local.bytes, slot.local.bytes, 16)
    if slot.local.interface:
        peer.local.interface = slot.local.interface


cdef socklen_t peer_name(const Peer *peer, bint v4, SocketAddress *out) noexcept nogil:
    """Write the peer's address in the form of a socket's family; returns its length."""
    memset(out, 0, sizeof(SocketAddress))
    if v4:
        out.v4.sin_family = AF_INET
        out.v4.sin_port = peer.name.sin6_port
        memcpy(&out.v4.sin_addr, peer.name.sin6_addr.s6_addr + 12, 4)
        return sizeof(sockaddr_in)
    out.v6 = peer.name
    return sizeof(sockaddr_in6)


cdef uint64_t peer_hash(const Peer *peer) noexcept nogil:
    """A hash of the peer's address and port (the finaliser of MurmurHash3, public domain, over both halves)."""
    cdef uint64_t halves[2]
    cdef uint64_t value
    memcpy(halves, &peer.name.sin6_addr, 16)
    value = halves[0] ^ (halves[1] * <uint64_t>0x9E3779B97F4A7C15) ^ (<uint64_t>peer.name.sin6_port << 17)
    value = (value ^ (value >> 33)) * <uint64_t>0xFF51AFD7ED558CCD
    value = (value ^ (value >> 33)) * <uint64_t>0xC4CEB9FE1A85EC53
    return value ^ (value >> 33)


cdef bint peer_same(const Peer *one, const Peer *other) noexcept nogil:
    """Whether it is the same peer, and the same address of ours."""
    return (one.name.sin6_port == other.name.sin6_port and one.local.interface == other.local.interface
            and memcmp(&one.name.sin6_addr, &other.name.sin6_addr, 16) == 0
            and memcmp(one.local.bytes, other.local.bytes, 16) == 0)


cdef tuple peer_pair(const Peer *peer):
    """(host as text, port)."""
    cdef bytes raw = (<char *>&peer.name.sin6_addr)[:16]
    if is_mapped(peer.name.sin6_addr.s6_addr):
        return _python_socket.inet_ntop(_python_socket.AF_INET, raw[12:]), ntohs(peer.name.sin6_port)
    return _python_socket.inet_ntop(_python_socket.AF_INET6, raw), ntohs(peer.name.sin6_port)


# ---- sockets

cdef int udp_socket() noexcept nogil:
    """A UDP socket for IPv6 and IPv4, or for IPv4 alone where there is no IPv6; -1 with errno."""
    cdef int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    cdef int family = AF_INET6
    if fd >= 0:
        set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0)
    else:
        family = AF_INET
        fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    report_local_address(fd, family)
    receive_trains(fd)
    return fd


cdef bint udp_is_v4(int fd) noexcept nogil:
    """Whether it is a socket for IPv4 alone."""
    cdef sockaddr_storage own
    cdef socklen_t length = sizeof(own)
    return getsockname(fd, <sockaddr *>&own, &length) == 0 and own.ss_family == AF_INET


cdef int udp_connect(int fd, const Peer *peer) noexcept nogil:
    """connect(2); -1 with errno."""
    cdef SocketAddress name
    cdef socklen_t length = peer_name(peer, udp_is_v4(fd), &name)
    return connect(fd, <sockaddr *>&name, length)


cdef bint get_own(int fd, LocalAddress *out) noexcept nogil:
    """The address that a socket has; false if it has any."""
    cdef sockaddr_storage own
    cdef socklen_t length = sizeof(own)
    cdef Peer us
    if getsockname(fd, <sockaddr *>&own, &length) < 0:
        return False
    peer_set(&us, &own)
    memcpy(out.bytes, &us.name.sin6_addr, 16)
    out.interface = us.local.interface
    return out.bytes[0] | out.bytes[12] | out.bytes[13] | out.bytes[14] | out.bytes[15]


cdef void udp_source(int fd, const Peer *peer, LocalAddress *out) noexcept nogil:
    """Which of our addresses packets from a socket to `peer` have: the one to which it is bound, or else the one that
    the kernel would choose; zeros where there is no way."""
    cdef int trial
    memset(out, 0, sizeof(LocalAddress))
    if get_own(fd, out):
        return
    memset(out, 0, sizeof(LocalAddress))
    trial = udp_socket()
    if trial < 0:
        return
    if udp_connect(trial, peer) == 0:
        get_own(trial, out)
    close(trial)


cdef bint udp_has_no_way(int error) noexcept nogil:
    """Whether an error of sendmsg(2) means that no packet gets to the peer for now."""
    return error in (ENETUNREACH, EHOSTUNREACH, ENETDOWN, EADDRNOTAVAIL, EINVAL)


cdef void udp_fragment(int fd, bint allowed) noexcept nogil:
    """Let routers fragment packets (ip(7), IP_MTU_DISCOVER), or have packets that are too large dropped, whatever the
    kernel has heard about the path: RFC 8899 section 4.1 wants this for probes."""
    cdef int how = IP_PMTUDISC_DONT if allowed else IP_PMTUDISC_PROBE
    set_option(fd, IPPROTO_IP, IP_MTU_DISCOVER, how)
    set_option(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, how)


cdef void udp_buffers(int fd, int size) noexcept nogil:
    """Ask for socket buffers of `size` bytes each; without privileges the system may grant less."""
    set_receive_queue(fd, size)
    if setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0:
        set_option(fd, SOL_SOCKET, SO_SNDBUF, size)
