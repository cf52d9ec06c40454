"""UDP sockets, and peers' addresses in a single form: IPv6, with IPv4 mapped into it (RFC 4291, 2.5.5.2).

A socket is for IPv6 and IPv4, or for IPv4 alone on a host without IPv6; `peer_name` gives the form that it needs.
"""

from libc.stdint cimport uint64_t

from mproxy.ground._sockaddr cimport sockaddr_in6, sockaddr_storage, socklen_t
from mproxy.io._packets cimport LocalAddress, Slot, SocketAddress


cdef struct Peer:
    sockaddr_in6 name     # the peer
    LocalAddress local    # to which of our addresses it wrote: the answer must come from there; zeros: any


cdef void peer_set(Peer *peer, const sockaddr_storage *name) noexcept nogil
cdef void peer_of(Peer *peer, const Slot *slot) noexcept nogil
cdef socklen_t peer_name(const Peer *peer, bint v4, SocketAddress *out) noexcept nogil
cdef uint64_t peer_hash(const Peer *peer) noexcept nogil
cdef bint peer_same(const Peer *one, const Peer *other) noexcept nogil
cdef tuple peer_pair(const Peer *peer)

cdef int udp_socket() noexcept nogil
cdef bint udp_is_v4(int fd) noexcept nogil
cdef void udp_source(int fd, const Peer *peer, LocalAddress *out) noexcept nogil
cdef bint udp_has_no_way(int error) noexcept nogil
cdef int udp_connect(int fd, const Peer *peer) noexcept nogil
cdef void udp_fragment(int fd, bint allowed) noexcept nogil
cdef void udp_buffers(int fd, int size) noexcept nogil
