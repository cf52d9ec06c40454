"""Finding blocks of one file in another. How and why: _rolling.pxd."""

cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from mproxy.ground._lanes cimport lanes_are_fast
from mproxy.ground._siphash cimport siphash13

cdef extern from *:
    r"""
    #if defined(__x86_64__)
    #include <immintrin.h>
    #endif

    /* The two halves of the sum of a window: all its bytes, and each as often as there are bytes from it to the end.
       Each byte more adds all bytes so far to the second. */
    static void rolling_bytes(const uint8_t *data, uint32_t length, uint32_t *all, uint32_t *weighted) {
        uint32_t i;
        for (i = 0; i < length; i++) {
            *all += data[i];
            *weighted += *all;
        }
    }

    #if defined(__x86_64__)
    FOR_LANES static uint32_t rolling_total(__m256i numbers) {
        uint64_t parts[4];
        _mm256_storeu_si256((__m256i *)parts, numbers);
        return (uint32_t)(parts[0] + parts[1] + parts[2] + parts[3]);
    }

    FOR_LANES static void rolling_lanes(const uint8_t *data, uint32_t length, uint32_t *all, uint32_t *weighted) {
        const __m256i weights = _mm256_setr_epi8(32, 31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17,
                                                 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1);
        const __m256i zero = _mm256_setzero_si256(), one = _mm256_set1_epi16(1);
        __m256i total = zero, before = zero, within = zero;
        uint32_t done = 0, parts[8], i;
        for (; done + 32 <= length; done += 32) {
            __m256i part = _mm256_loadu_si256((const __m256i *)(data + done));
            before = _mm256_add_epi64(before, total);
            total = _mm256_add_epi64(total, _mm256_sad_epu8(part, zero));
            within = _mm256_add_epi32(within, _mm256_madd_epi16(_mm256_maddubs_epi16(part, weights), one));
        }
        *all = rolling_total(total);
        *weighted = 32 * rolling_total(before);
        _mm256_storeu_si256((__m256i *)parts, within);
        for (i = 0; i < 8; i++)
            *weighted += parts[i];
        rolling_bytes(data + done, length - done, all, weighted);
    }
    #endif

    static void rolling_begin(const uint8_t *data, uint32_t length, uint32_t *all, uint32_t *weighted) {
        *all = *weighted = 0;
    #if defined(__x86_64__)
        if (lanes_are_fast())
            rolling_lanes(data, length, all, weighted);
        else
    #endif
            rolling_bytes(data, length, all, weighted);
    }

    /* Where a window's sum is in the filter: its bit. */
    #define ROLLING_CODE(all, weighted, shift) (((((all) & 0xFFFF) | (weighted) << 16) * 2654435761u) >> (shift))

    static int64_t roll_bytes(const uint8_t *text, int64_t most, uint32_t width, const uint32_t *filter, int shift,
                              uint32_t *all, uint32_t *weighted) {
        int64_t at;
        for (at = 0; at < most; at++) {
            uint32_t code;
            *all += text[at + width] - (uint32_t)text[at];
            *weighted += *all - width * text[at];
            code = ROLLING_CODE(*all, *weighted, shift);
            if (filter[code >> 5] >> (code & 31) & 1)
                return at + 1;
        }
        return most;
    }

    #if defined(__x86_64__)
    /* Each number plus all before it. */
    FOR_LANES static inline __m256i rolling_totals(__m256i numbers) {
        numbers = _mm256_add_epi32(numbers, _mm256_slli_si256(numbers, 4));
        numbers = _mm256_add_epi32(numbers, _mm256_slli_si256(numbers, 8));
        return _mm256_add_epi32(numbers, _mm256_permutevar8x32_epi32(
            _mm256_blend_epi32(_mm256_setzero_si256(), numbers, 0x08), _mm256_setr_epi32(0, 0, 0, 0, 3, 3, 3, 3)));
    }

    FOR_LANES static int64_t roll_lanes(const uint8_t *text, int64_t most, uint32_t width, const uint32_t *filter,
                                        int shift, uint32_t *all, uint32_t *weighted) {
        const __m256i widths = _mm256_set1_epi32((int)width), hash = _mm256_set1_epi32((int)2654435761u);
        const __m256i low = _mm256_set1_epi32(0xFFFF), bits = _mm256_set1_epi32(31), last = _mm256_set1_epi32(7);
        const __m128i by = _mm_cvtsi32_si128(shift);
        __m256i all_before = _mm256_set1_epi32((int)*all), weighted_before = _mm256_set1_epi32((int)*weighted);
        uint32_t alls[8], weighteds[8];
        int64_t at = 0;
        for (; at + 8 <= most; at += 8) {
            __m256i in = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(text + at + width)));
            __m256i out = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(text + at)));
            __m256i one = _mm256_add_epi32(all_before, rolling_totals(_mm256_sub_epi32(in, out)));
            __m256i two = _mm256_add_epi32(weighted_before, rolling_totals(
                _mm256_sub_epi32(one, _mm256_mullo_epi32(widths, out))));
            __m256i code = _mm256_srl_epi32(_mm256_mullo_epi32(hash, _mm256_or_si256(
                _mm256_and_si256(one, low), _mm256_slli_epi32(two, 16))), by);
            __m256i word = _mm256_i32gather_epi32((const int *)filter, _mm256_srli_epi32(code, 5), 4);
            /* The bit that is meant goes to the top. */
            word = _mm256_sllv_epi32(word, _mm256_xor_si256(_mm256_and_si256(code, bits), bits));
            int found = _mm256_movemask_ps(_mm256_castsi256_ps(word));
            if (found) {
                int lane = __builtin_ctz((unsigned)found);
                _mm256_storeu_si256((__m256i *)alls, one);
                _mm256_storeu_si256((__m256i *)weighteds, two);
                *all = alls[lane];
                *weighted = weighteds[lane];
                return at + lane + 1;
            }
            all_before = _mm256_permutevar8x32_epi32(one, last);
            weighted_before = _mm256_permutevar8x32_epi32(two, last);
        }
        *all = (uint32_t)_mm256_cvtsi256_si32(all_before);
        *weighted = (uint32_t)_mm256_cvtsi256_si32(weighted_before);
        return at + roll_bytes(text + at, most - at, width, filter, shift, all, weighted);
    }
    #endif

    /* Move a window on, by a byte or more and at most by `most`, until its sum is in the filter; by how much. */
    static int64_t roll_on(const uint8_t *text, int64_t most, uint32_t width, const uint32_t *filter, int shift,
                           uint32_t *all, uint32_t *weighted) {
    #if defined(__x86_64__)
        if (lanes_are_fast())
            return roll_lanes(text, most, width, filter, shift, all, weighted);
    #endif
        return roll_bytes(text, most, width, filter, shift, all, weighted);
    }

    /* SipHash-1-3 (ground/_siphash) of four blocks that follow each other. Only where lanes_are_fast. */
    #define SIP_ROT(x, n) ((x) << (n) | (x) >> (64 - (n)))
    #define SIP_ROT16(x) BY_BYTES(x, \
        6,7,0,1,2,3,4,5, 14,15,8,9,10,11,12,13, 22,23,16,17,18,19,20,21, 30,31,24,25,26,27,28,29)
    #define SIP_ROT32(x) BY_BYTES(x, \
        4,5,6,7,0,1,2,3, 12,13,14,15,8,9,10,11, 20,21,22,23,16,17,18,19, 28,29,30,31,24,25,26,27)
    #define SIP_ROUND \
        v0 += v1; v2 += v3; v1 = SIP_ROT(v1, 13) ^ v0; v3 = SIP_ROT16(v3) ^ v2; v0 = SIP_ROT32(v0); \
        v2 += v1; v0 += v3; v1 = SIP_ROT(v1, 17) ^ v2; v3 = SIP_ROT(v3, 21) ^ v0; v2 = SIP_ROT32(v2);
    #define SIP_TAKE(word) v3 ^= (word); SIP_ROUND v0 ^= (word);

    FOR_LANES static void sip_lanes(const uint8_t *key, const uint8_t *data, uint64_t size, uint64_t *sums) {
        lanes v0, v1, v2, v3, m[4];
        uint64_t k[2], done, word[4];
        int lane;
        memcpy(k, key, sizeof k);
        v0 = SAME(k[0] ^ 0x736f6d6570736575);
        v1 = SAME(k[1] ^ 0x646f72616e646f6d);
        v2 = SAME(k[0] ^ 0x6c7967656e657261);
        v3 = SAME(k[1] ^ 0x7465646279746573);
        for (done = 0; done + 32 <= size; done += 32) {
            lanes_load(m, data + done, size);
            SIP_TAKE(m[0]) SIP_TAKE(m[1]) SIP_TAKE(m[2]) SIP_TAKE(m[3])
        }
        for (; done + 8 <= size; done += 8) {
            for (lane = 0; lane < 4; lane++)
                memcpy(&word[lane], data + (uint64_t)lane * size + done, 8);
            memcpy(m, word, sizeof word);
            SIP_TAKE(m[0])
        }
        for (lane = 0; lane < 4; lane++) {
            word[lane] = 0;
            memcpy(&word[lane], data + (uint64_t)lane * size + done, size - done);
            word[lane] |= size << 56;
        }
        memcpy(m, word, sizeof word);
        SIP_TAKE(m[0])
        v2 ^= SAME(0xff);
        SIP_ROUND SIP_ROUND SIP_ROUND
        v0 ^= v1 ^ v2 ^ v3;
        memcpy(sums, &v0, sizeof v0);
    }
    """
    void rolling_begin(const uint8_t *data, uint32_t length, uint32_t *all, uint32_t *weighted) noexcept nogil
    int64_t roll_on(const uint8_t *text, int64_t most, uint32_t width, const uint32_t *filter, int shift,
                    uint32_t *all, uint32_t *weighted) noexcept nogil
    uint32_t ROLLING_CODE(uint32_t all, uint32_t weighted, int shift) noexcept nogil
    void sip_lanes(const uint8_t *key, const uint8_t *data, uint64_t size, uint64_t *sums) noexcept nogil

cdef enum:
    SUM_SIZE = 8
    KEY_SIZE = 16
    LANES = 4         # blocks that are hashed at once
    MOST_LOOKS = 16   # at blocks that share a sum: files of one pattern have many
    FAILED_BYTES = 4  # hashed in vain for each byte of the text, at most: sums may have been made to meet

SUM_BYTES = SUM_SIZE
KEY_BYTES = KEY_SIZE

ctypedef struct Found:
    int64_t at        # in the text
    int64_t offset    # in the old file
    int64_t length


ctypedef struct Places:
    Found *found
    int64_t room, count
    int64_t done, end  # of the text: what is settled, and how far it is looked at


cdef inline void _note(Places *places, int64_t at, int64_t offset, int64_t length) noexcept nogil:
    """Blocks of the old file are there: as far as that is not settled."""
    cdef int64_t first = max(at, places.done), last = min(at + length, places.end)
    cdef Found *before = places.found + places.count - 1
    if first >= last:
        return
    offset += first - at
    if places.count and before.at + before.length == first and before.offset + before.length == offset:
        before.length += last - first
    elif places.count < places.room:
        places.found[places.count].at = first
        places.found[places.count].offset = offset
        places.found[places.count].length = last - first
        places.count += 1
    places.done = last


cdef inline uint32_t _sum(uint32_t everything, uint32_t weighted) noexcept nogil:
    return (everything & 0xFFFF) | weighted << 16


cdef inline void _put(uint8_t *p, uint64_t value, int length) noexcept nogil:
    while length > 0:
        length -= 1
        p[length] = <uint8_t>value
        value >>= 8


cdef inline uint64_t _get(const uint8_t *p, int length) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    for i in range(length):
        value = value << 8 | p[i]
    return value


cdef void _hash_blocks(const uint8_t *key, const uint8_t *blocks, size_t block_bytes, int count,
                       uint32_t *strong) noexcept nogil:
    """The strong sums of up to LANES blocks that follow each other."""
    cdef uint64_t hashes[LANES]
    cdef int i
    if count == LANES and lanes_are_fast():
        sip_lanes(key, blocks, block_bytes, hashes)
        for i in range(LANES):
            strong[i] = <uint32_t>hashes[i]
        return
    for i in range(count):
        strong[i] = <uint32_t>siphash13(key, blocks + <size_t>i * block_bytes, block_bytes)


def sums_of(const uint8_t[::1] data not None, uint32_t block_bytes, bytes key not None):
    """The sums of all whole blocks of `block_bytes` in `data`, SUM_BYTES for each: the rolling sum (4), half of
    SipHash-1-3 under `key`, KEY_BYTES (4), big-endian. Releases the GIL."""
    cdef size_t count, i, first = 0
    cdef int some, k
    cdef uint32_t everything, weighted
    cdef uint32_t strong[LANES]
    cdef const uint8_t *begin
    cdef const uint8_t *secret = key
    cdef uint8_t *out
    if block_bytes == 0 or len(key) != KEY_SIZE:
        raise ValueError("sums need blocks of some bytes, and a key of 16")
    count = <size_t>data.shape[0] // block_bytes
    if count == 0:
        return b""
    result = bytearray(count * SUM_SIZE)
    out = result
    begin = &data[0]
    with nogil:
        while first < count:
            some = <int>min(count - first, <size_t>LANES)
            _hash_blocks(secret, begin + first * block_bytes, block_bytes, some, strong)
            for k in range(some):
                i = first + <size_t>k
                rolling_begin(begin + i * block_bytes, block_bytes, &everything, &weighted)
                _put(out + i * SUM_SIZE, _sum(everything, weighted), 4)
                _put(out + i * SUM_SIZE + 4, strong[k], 4)
            first += <size_t>some
    return bytes(result)


@cython.final
cdef class Sketch:
    """An old file, as far as its sums tell. `find` may be called by several threads at a time."""

    cdef readonly uint32_t block_bytes
    cdef readonly uint32_t count  # of whole blocks, from the beginning of the file
    cdef uint8_t key[KEY_SIZE]
    cdef uint32_t *weak       # of each block
    cdef uint32_t *strong
    cdef int32_t *heads       # by the hash of a weak sum: the first block; -1: none
    cdef int32_t *following   # the next block of the same hash
    cdef uint32_t *filter     # a bit for each of 32 times as many hashes: nearly all windows are not worth a look
    cdef int bits             # of a hash that `heads` has room for; the filter has room for five more

    def __cinit__(self, uint32_t block_bytes, bytes key not None, sums not None):
        cdef const uint8_t[::1] data = sums
        cdef size_t count = <size_t>data.shape[0] // SUM_SIZE
        cdef size_t i
        cdef uint32_t code
        if (block_bytes == 0 or block_bytes > 1 << 30 or len(key) != KEY_SIZE or count == 0 or count > 1 << 24
                or <size_t>data.shape[0] != count * SUM_SIZE):
            raise ValueError("a sketch needs blocks of some bytes, a key of 16, and 8 bytes for each block")
        self.block_bytes, self.count = block_bytes, <uint32_t>count
        for i in range(<size_t>KEY_SIZE):
            self.key[i] = key[i]
        self.bits = 8
        while self.bits < 22 and <size_t>1 << self.bits < count * 2:
            self.bits += 1
        self.weak = <uint32_t *>malloc(count * sizeof(uint32_t))
        self.strong = <uint32_t *>malloc(count * sizeof(uint32_t))
        self.following = <int32_t *>malloc(count * sizeof(int32_t))
        self.heads = <int32_t *>malloc(sizeof(int32_t) << self.bits)
        self.filter = <uint32_t *>calloc(<size_t>1 << self.bits, sizeof(uint32_t))
        if not (self.weak and self.strong and self.following and self.heads and self.filter):
            raise MemoryError
        for i in range(<size_t>1 << self.bits):
            self.heads[i] = -1
        for i in range(count):
            self.weak[i] = <uint32_t>_get(&data[i * SUM_SIZE], 4)
            self.strong[i] = <uint32_t>_get(&data[i * SUM_SIZE + 4], 4)
        # From the end, so that of equal blocks the first is found first.
        i = count
        while i > 0:
            i -= 1
            code = ROLLING_CODE(self.weak[i], self.weak[i] >> 16, 27 - self.bits)
            self.filter[code >> 5] |= <uint32_t>1 << (code & 31)
            code >>= 5
            if self.heads[code] >= 0 and self.is_same(self.heads[code], <int32_t>i):
                self.following[i] = self.following[self.heads[code]]
            else:
                self.following[i] = self.heads[code]
            self.heads[code] = <int32_t>i

    def __dealloc__(self):
        free(self.weak)
        free(self.strong)
        free(self.following)
        free(self.heads)
        free(self.filter)

    cdef inline bint is_same(self, int32_t one, int32_t other) noexcept nogil:
        return self.weak[one] == self.weak[other] and self.strong[one] == self.strong[other]

    def find(self, const uint8_t[::1] text not None, int64_t begin, int64_t end, int64_t guess):
        """[(where in the text, offset in the old file, bytes), ...] of what the old file has of text[begin:end], in
        order. What lies around it in the text serves to find blocks that begin before it, or end behind. `guess`: the
        block of the old file that is likely to be at `begin`; -1: none. Releases the GIL."""
        cdef int64_t size = text.shape[0]
        cdef int64_t room, count, i
        cdef Found *found
        if not 0 <= begin <= end <= size:
            raise ValueError("what is looked for lies outside the text")
        if begin == end:
            return []
        room = size // self.block_bytes + 2
        found = <Found *>malloc(room * sizeof(Found))
        if found == NULL:
            raise MemoryError
        try:
            with nogil:
                count = self.search(&text[0], size, begin, end, guess, found, room)
            return [(found[i].at, found[i].offset, found[i].length) for i in range(count)]
        finally:
            free(found)

    cdef int64_t search(self, const uint8_t *text, int64_t size, int64_t begin, int64_t end, int64_t guess,
                        Found *found, int64_t room) noexcept nogil:
        """How many places were found."""
        cdef int64_t width = self.block_bytes
        cdef int64_t at = begin - width + 1 if begin >= width else 0
        cdef int64_t patience = (end - begin) * FAILED_BYTES
        cdef int32_t block, likely = -1, run
        cdef const uint32_t *filtered = self.filter
        cdef int shift = 27 - self.bits
        cdef uint32_t everything, weighted, weak, code
        cdef int64_t ahead
        cdef Places places
        places.found, places.room, places.count, places.done, places.end = found, room, 0, begin, end
        if size < width:
            return 0
        if 0 <= guess < self.count and begin + width <= size:
            rolling_begin(text + begin, <uint32_t>width, &everything, &weighted)
            if self.weak[guess] == _sum(everything, weighted):
                at, likely = begin, <int32_t>guess
        rolling_begin(text + at, <uint32_t>width, &everything, &weighted)
        while True:
            weak = _sum(everything, weighted)
            code = ROLLING_CODE(everything, weighted, shift)
            block = -1
            if filtered[code >> 5] >> (code & 31) & 1:
                block = self.look(text + at, weak, self.heads[code >> 5], likely, &patience)
                if patience < 0:
                    return places.count
            if block >= 0:
                run = 1
                while run > 0:
                    _note(&places, at, block * width, run * width)
                    at += run * width
                    likely = block + run if block + run < <int32_t>self.count else -1
                    if at >= end or at + width > size:
                        return places.count
                    block = likely
                    run = self.follow(text + at, min(end - at + width - 1, size - at), likely)
                rolling_begin(text + at, <uint32_t>width, &everything, &weighted)
                continue
            ahead = min(end - 1, size - width) - at
            if ahead <= 0:
                return places.count
            at += roll_on(text + at, ahead, <uint32_t>width, filtered, shift, &everything, &weighted)

    cdef int32_t follow(self, const uint8_t *text, int64_t size, int32_t likely) noexcept nogil:
        """How many blocks, up to LANES, this text begins with: those of the old file from `likely` on."""
        cdef size_t width = self.block_bytes
        cdef uint32_t everything, weighted
        cdef uint32_t strong[LANES]
        cdef int32_t count = 0, same = 0
        if likely < 0:
            return 0
        while count < LANES and likely + count < <int32_t>self.count and (count + 1) * <int64_t>width <= size:
            rolling_begin(text + <size_t>count * width, <uint32_t>width, &everything, &weighted)
            if self.weak[likely + count] != _sum(everything, weighted):
                break
            count += 1
        _hash_blocks(self.key, text, width, count, strong)
        while same < count and strong[same] == self.strong[likely + same]:
            same += 1
        return same

    cdef int32_t look(self, const uint8_t *window, uint32_t weak, int32_t head, int32_t likely,
                      int64_t *patience) noexcept nogil:
        """The block that is in this window, of those in the list that begins with `head`; -1: none. `likely` is tried
        first."""
        cdef uint32_t strong = 0
        cdef bint hashed = False
        cdef uint32_t looks = 0
        if likely >= 0 and self.weak[likely] == weak:
            strong, hashed = <uint32_t>siphash13(self.key, window, self.block_bytes), True
            if self.strong[likely] == strong:
                return likely
        while head >= 0 and looks < MOST_LOOKS:
            if self.weak[head] == weak:
                if not hashed:
                    strong, hashed = <uint32_t>siphash13(self.key, window, self.block_bytes), True
                if self.strong[head] == strong:
                    return head
            head = self.following[head]
            looks += 1
        if hashed:
            patience[0] -= self.block_bytes
        return -1
