"""What has come from a socket: _arrivals.pxd."""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset

from mproxy.ground._sockaddr cimport is_mapped
from mproxy.io._udp_socket cimport peer_of, peer_pair, peer_set, udp_source
from mproxy.transport._packet cimport MIN_PACKET_BYTES, packet_id


cdef uint32_t end_of_run(const Slot *slot, uint32_t begin) noexcept nogil:
    """Where the packets of a train that are for the same connection as the one at `begin` end."""
    cdef uint32_t at = begin + slot.segment
    if slot.length - begin < MIN_PACKET_BYTES:
        return slot.length
    while at < slot.length and slot.length - at >= MIN_PACKET_BYTES \
            and packet_id(slot.data + at) == packet_id(slot.data + begin):
        at += slot.segment
    return min(at, slot.length)


cdef bytes source_of(const PeerAddress *address):
    """What counts as one source: an IPv4 address, or the /64 that an IPv6 host may use."""
    cdef const uint8_t *raw = address.bytes + 8
    return raw[:16 if is_mapped(raw) else 8]


cdef void sender_of(const Slot *slot, PeerAddress *out) noexcept:
    """Who has sent a train."""
    cdef Peer peer
    peer_of(&peer, slot)
    to_engine(&peer, out)


cdef void address_of(Target target, PeerAddress *out) noexcept:
    """The first address of a target."""
    cdef Peer peer
    peer_set(&peer, &target.addresses[0])
    to_engine(&peer, out)


cdef tuple pair_of(const PeerAddress *address):
    """(host, port)."""
    cdef Peer peer
    memcpy(&peer.name, address.bytes, 28)
    return peer_pair(&peer)


cdef void own_source(int fd, const PeerAddress *peer, LocalAddress *out) noexcept:
    """Which of our addresses a packet from the socket to the peer would have; zeros where there is no way."""
    cdef Peer to
    memset(&to, 0, sizeof(to))
    memcpy(&to.name, peer.bytes, 28)
    udp_source(fd, &to, out)


cdef void to_engine(const Peer *peer, PeerAddress *out) noexcept:
    """An address as the engine compares it: without the parts that only mean something here."""
    memset(out, 0, sizeof(PeerAddress))
    out.length = 28
    memcpy(out.bytes, &peer.name, 28)
