"""SipHash (Aumasson and Bernstein, 2012): a hash under a key, for inputs that others choose.

Who does not know the key can neither choose inputs that meet in a table nor guess the hash of one. SipHash-1-3, with
fewer rounds, is for tables; SipHash-2-4 is for what a peer sees and must not be able to make.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy


cdef extern from "<endian.h>" nogil:
    uint64_t le64toh(uint64_t value)


cdef inline uint64_t sip_rotate(uint64_t value, int bits) noexcept nogil:
    return value << bits | value >> (64 - bits)


cdef inline void sip_rounds(uint64_t *v, int count) noexcept nogil:
    while count > 0:
        v[0] += v[1]
        v[2] += v[3]
        v[1] = sip_rotate(v[1], 13) ^ v[0]
        v[3] = sip_rotate(v[3], 16) ^ v[2]
        v[0] = sip_rotate(v[0], 32)
        v[2] += v[1]
        v[0] += v[3]
        v[1] = sip_rotate(v[1], 17) ^ v[2]
        v[3] = sip_rotate(v[3], 21) ^ v[0]
        v[2] = sip_rotate(v[2], 32)
        count -= 1


cdef inline void sip_take(uint64_t *v, uint64_t word, int rounds) noexcept nogil:
    v[3] ^= word
    sip_rounds(v, rounds)
    v[0] ^= word


cdef inline uint64_t sip_word(const uint8_t *p, size_t length) noexcept nogil:
    """Up to 8 bytes as a number, the first one lowest."""
    cdef uint64_t word = 0
    memcpy(&word, p, length)
    return le64toh(word)


cdef inline uint64_t siphash(const uint8_t *key, const uint8_t *data, size_t length, int rounds,
                             int last_rounds) noexcept nogil:
    cdef uint64_t k0 = sip_word(key, 8), k1 = sip_word(key + 8, 8)
    cdef uint64_t v[4]
    cdef size_t at = 0
    v[0] = k0 ^ 0x736F6D6570736575U
    v[1] = k1 ^ 0x646F72616E646F6DU
    v[2] = k0 ^ 0x6C7967656E657261U
    v[3] = k1 ^ 0x7465646279746573U
    while at + 8 <= length:
        sip_take(v, sip_word(data + at, 8), rounds)
        at += 8
    sip_take(v, sip_word(data + at, length - at) | <uint64_t>length << 56, rounds)
    v[2] ^= 0xFF
    sip_rounds(v, last_rounds)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


cdef inline uint64_t siphash13(const uint8_t *key, const void *data, size_t length) noexcept nogil:
    """SipHash-1-3 of `length` bytes under a key of 16."""
    return siphash(key, <const uint8_t *>data, length, 1, 3)


cdef inline uint64_t siphash24(const uint8_t *key, const void *data, size_t length) noexcept nogil:
    """SipHash-2-4 of `length` bytes under a key of 16."""
    return siphash(key, <const uint8_t *>data, length, 2, 4)
