"""What has come from a socket: from which address, as the engine compares it and as strangers are counted, and how far
the packets of one connection go in a train.
"""

from libc.stdint cimport uint32_t

from mproxy.io._packets cimport LocalAddress, Slot
from mproxy.io._socket cimport Target
from mproxy.io._udp_socket cimport Peer
from mproxy.transport._packet cimport PeerAddress


cdef uint32_t end_of_run(const Slot *slot, uint32_t begin) noexcept nogil
cdef bytes source_of(const PeerAddress *address)
cdef void sender_of(const Slot *slot, PeerAddress *out) noexcept
cdef void address_of(Target target, PeerAddress *out) noexcept
cdef tuple pair_of(const PeerAddress *address)
cdef void own_source(int fd, const PeerAddress *peer, LocalAddress *out) noexcept
cdef void to_engine(const Peer *peer, PeerAddress *out) noexcept
