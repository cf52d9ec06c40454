"""Hops: _hops.pxd."""

from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memcmp

from mproxy.ground._sockaddr cimport AF_INET, sockaddr, socklen_t, take_address
from mproxy.io._socket cimport IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, IP_TTL, getsockopt, set_option
from mproxy.relay._balance cimport TargetAddress


cdef extern from "<netinet/in.h>" nogil:
    int IPV6_UNICAST_HOPS

cdef extern from "<netinet/tcp.h>" nogil:
    int TCP_SAVE_SYN, TCP_SAVED_SYN

cdef enum:
    HEADERS_BYTES = 256  # of a first packet; with more options than that its hops are not known
    TTL_AT = 8           # in an IPv4 header (RFC 791, section 3.1)
    HOP_LIMIT_AT = 7     # in an IPv6 header (RFC 8200, section 3)


cdef class HopCount:
    """The counting of hops for one rule."""

    cdef bint look(self, int64_t standing) noexcept:
        """LOOK_EVERY of them began since the last look, and this many have not ended. True: `counting` has changed."""
        cdef bint piled_up = standing - self.standing >= PILED_UP
        cdef bint changed = piled_up != self.counting
        self.standing = standing
        self.counting = piled_up
        self.falls = 0
        return changed

    cdef bint note(self, int hops) noexcept:
        """One came with this many hops left. True: it is part of a circle."""
        self.falls = self.falls + 1 if hops < self.last else 0
        self.last = hops
        return self.falls >= FALLS


cdef bint may_come_round(const Place *peer, const Place *met, Balance balance) noexcept:
    """Whether somebody who comes from there to that address of ours can be part of a circle."""
    cdef TargetAddress address
    cdef uint8_t bytes[16]
    cdef uint16_t port
    if memcmp(peer.address, met.address, 16) == 0:
        return True
    for address in balance.addresses:
        take_address(<const sockaddr *>&address.target.addresses[address.index], bytes, &port)
        if memcmp(peer.address, bytes, 16) == 0:
            return True
    return False


cdef void save_hops(int listener, bint on) noexcept nogil:
    """Have the system keep the first packet of each connection, or no more (tcp(7), TCP_SAVE_SYN)."""
    set_option(listener, IPPROTO_TCP, TCP_SAVE_SYN, on)


cdef int saved_hops(int fd) noexcept nogil:
    """The hops that the first packet of a connection had left; 0: unknown."""
    cdef uint8_t headers[HEADERS_BYTES]
    cdef socklen_t length = HEADERS_BYTES
    if getsockopt(fd, IPPROTO_TCP, TCP_SAVED_SYN, headers, &length) < 0 or length < 20:
        return 0
    return headers[TTL_AT] if headers[0] >> 4 == 4 else headers[HOP_LIMIT_AT]


cdef void set_hops(int fd, int family, int hops) noexcept nogil:
    """Packets that leave the socket have this many hops."""
    if family == AF_INET:
        set_option(fd, IPPROTO_IP, IP_TTL, hops)
    else:
        set_option(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, hops)
