"""Codec and checksum of packets; layout: _packet.pxd.

CRC32C (RFC 9260 appendix A) by the processor's own instruction where there is one (x86-64 with SSE 4.2), else by a
table. The instruction has a latency of three cycles and a throughput of one, so a long block is computed as three
adjacent parts side by side; tables of what a run of zero bytes does to a register join their results.
"""

from libc.string cimport memcpy

from mproxy._ring cimport iovec
from mproxy._wire cimport get32, put32


cdef extern from *:
    """
    #include <stdint.h>
    #include <stddef.h>
    #include <string.h>

    static uint32_t crc_bytes[256];         /* what one byte makes of a register */
    static uint32_t crc_long[4][256];       /* what CRC_LONG zero bytes make of it, by byte of the register */
    static uint32_t crc_short[4][256];      /* the same for CRC_SHORT */
    enum { CRC_LONG = 1024, CRC_SHORT = 128 };

    static uint32_t crc_by_table(uint32_t r, const uint8_t *p, size_t n) {
        while (n--) r = (r >> 8) ^ crc_bytes[(r ^ *p++) & 0xff];
        return r;
    }

    static void crc_fill_zeros(uint32_t table[4][256], int zeros) {
        uint32_t of_bit[32];
        for (int bit = 0; bit < 32; bit++) {
            uint32_t r = (uint32_t)1 << bit;
            for (int i = 0; i < zeros; i++) r = (r >> 8) ^ crc_bytes[r & 0xff];
            of_bit[bit] = r;
        }
        for (int byte = 0; byte < 4; byte++)
            for (int value = 0; value < 256; value++) {
                uint32_t r = 0;
                for (int bit = 0; bit < 8; bit++) if (value >> bit & 1) r ^= of_bit[byte * 8 + bit];
                table[byte][value] = r;
            }
    }

    static void crc_fill(void) {
        for (int value = 0; value < 256; value++) {
            uint32_t r = value;
            for (int bit = 0; bit < 8; bit++) r = r & 1 ? (r >> 1) ^ 0x82f63b78u : r >> 1;
            crc_bytes[value] = r;
        }
        crc_fill_zeros(crc_long, CRC_LONG);
        crc_fill_zeros(crc_short, CRC_SHORT);
    }

    #if defined(__x86_64__)
    static inline uint32_t crc_past_zeros(uint32_t table[4][256], uint32_t r) {
        return table[0][r & 0xff] ^ table[1][r >> 8 & 0xff] ^ table[2][r >> 16 & 0xff] ^ table[3][r >> 24];
    }

    static inline uint64_t crc_load(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return v; }

    #define CRC_THREE(BLOCK, TABLE) \\
        while (n >= 3 * BLOCK) { \\
            uint64_t one = r, two = 0, three = 0; \\
            for (int i = 0; i < BLOCK; i += 8) { \\
                one = __builtin_ia32_crc32di(one, crc_load(p + i)); \\
                two = __builtin_ia32_crc32di(two, crc_load(p + BLOCK + i)); \\
                three = __builtin_ia32_crc32di(three, crc_load(p + 2 * BLOCK + i)); \\
            } \\
            r = crc_past_zeros(TABLE, (uint32_t)one) ^ (uint32_t)two; \\
            r = crc_past_zeros(TABLE, r) ^ (uint32_t)three; \\
            p += 3 * BLOCK; n -= 3 * BLOCK; \\
        }

    __attribute__((target("sse4.2")))
    static uint32_t crc_by_instruction(uint32_t r, const uint8_t *p, size_t n) {
        uint64_t wide;
        CRC_THREE(CRC_LONG, crc_long)
        CRC_THREE(CRC_SHORT, crc_short)
        for (wide = r; n >= 8; p += 8, n -= 8) wide = __builtin_ia32_crc32di(wide, crc_load(p));
        for (r = (uint32_t)wide; n > 0; p++, n--) r = __builtin_ia32_crc32qi(r, *p);
        return r;
    }
    static int crc_has_instruction(void) { __builtin_cpu_init(); return __builtin_cpu_supports("sse4.2") != 0; }
    #else
    #define crc_by_instruction crc_by_table
    static int crc_has_instruction(void) { return 0; }
    #endif
    """
    void crc_fill() nogil
    bint crc_has_instruction() nogil
    uint32_t crc_by_table(uint32_t register, const uint8_t *data, size_t length) nogil
    uint32_t crc_by_instruction(uint32_t register, const uint8_t *data, size_t length) nogil


crc_fill()
cdef bint has_instruction = crc_has_instruction()


cdef inline uint32_t crc_step(uint32_t crc_register, const uint8_t *data, size_t length) noexcept nogil:
    if has_instruction:
        return crc_by_instruction(crc_register, data, length)
    return crc_by_table(crc_register, data, length)


cdef uint32_t crc32c(uint32_t crc, const uint8_t *data, size_t length) noexcept nogil:
    """Continue the checksum `crc` (0 at first) over `length` bytes."""
    return crc_step(crc ^ 0xFFFFFFFFU, data, length) ^ 0xFFFFFFFFU


cdef int crc_seal_packet(void *context, uint64_t number, const uint8_t *header, uint32_t header_bytes,
                         const iovec *parts, int count, uint8_t *out) noexcept nogil:
    cdef uint32_t crc = crc32c(0, header, header_bytes)
    cdef int i
    for i in range(count):
        if parts[i].iov_base != out:
            memcpy(out, parts[i].iov_base, parts[i].iov_len)
        crc = crc32c(crc, out, parts[i].iov_len)
        out += parts[i].iov_len
    put32(out, crc)
    return 0


cdef int crc_open_packet(void *context, uint64_t number, const uint8_t *header, uint32_t header_bytes,
                         const uint8_t *data, uint32_t length, const iovec *parts, int count) noexcept nogil:
    cdef uint32_t crc = crc32c(0, header, header_bytes)
    cdef int i
    if length < CRC_BYTES or crc32c(crc, data, length - CRC_BYTES) != get32(data + length - CRC_BYTES):
        return -1
    for i in range(count):
        if parts[i].iov_base != data:
            memcpy(parts[i].iov_base, data, parts[i].iov_len)
        data += parts[i].iov_len
    return 0


cdef void crc_seal(Seal *seal) noexcept nogil:
    """The sealing of connections without keys: it hides nothing, but finds accidents."""
    seal.seal = crc_seal_packet
    seal.open = crc_open_packet
    seal.context = NULL
    seal.trailer_bytes = CRC_BYTES
    seal.veils = False


cdef int put_varint(uint8_t *p, uint64_t value) noexcept nogil:
    """Write 7 bits a byte, the lowest first, 0x80 on all but the last; returns the length (1..10)."""
    cdef int length = 0
    while value >= 0x80:
        p[length] = <uint8_t>(value | 0x80)
        value >>= 7
        length += 1
    p[length] = <uint8_t>value
    return length + 1


cdef int get_varint(const uint8_t *p, const uint8_t *end, uint64_t *value) noexcept nogil:
    """Read what `put_varint` wrote; returns its length, 0 when it is truncated or exceeds 63 bits."""
    cdef int length = 0
    value[0] = 0
    while p + length < end and length < 9:
        value[0] |= <uint64_t>(p[length] & 0x7F) << (7 * length)
        length += 1
        if not p[length - 1] & 0x80:
            return length
    return 0


# ---- for tests and tools

def checksum(bytes data, crc=0, *, bint by_table=False):
    """CRC32C of `data`, continued from `crc`."""
    cdef const uint8_t *at = data
    if by_table:
        return crc_by_table(<uint32_t>crc ^ 0xFFFFFFFFU, at, len(data)) ^ 0xFFFFFFFFU
    return crc32c(<uint32_t>crc, at, len(data))
