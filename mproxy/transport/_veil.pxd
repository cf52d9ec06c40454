"""Numbers of sealed packets are veiled: they count on when a peer moves to another network, and would show there that
it is the same one. As the header protection of RFC 9001, section 5.4, with SipHash in the place of a block cipher.

Number and offset, the last 16 bytes of the header, are changed by a mask that follows from the tag of the packet, which
is never the same, and a key of 32 bytes for each direction that comes with the key of the sealing. What is
authenticated is the header without the veil.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from mproxy.ground._siphash cimport siphash24


cdef enum:
    VEILED_AT = 12     # number and offset
    VEILED_LEAST = 44  # bytes of a packet with header and tag


cdef inline void veil(const uint8_t *key, uint8_t *packet, uint32_t length) noexcept nogil:
    """Put the veil on a packet of VEILED_LEAST bytes at least, or take it off."""
    cdef const uint8_t *tag = packet + length - 16
    cdef uint64_t words[2]
    memcpy(words, packet + VEILED_AT, 16)
    words[0] ^= siphash24(key, tag, 16)
    words[1] ^= siphash24(key + 16, tag, 16)
    memcpy(packet + VEILED_AT, words, 16)
