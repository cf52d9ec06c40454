"""Finding blocks of one file in another. How and why: _rolling.pxd."""

cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from mproxy.ground._siphash cimport siphash13

cdef extern from *:
    r"""
    #include <stdint.h>

    /* The two halves of the sum of a window: all its bytes, and each as often as there are bytes from it to the end. */
    static void rolling_begin(const uint8_t *data, uint32_t length, uint32_t *all, uint32_t *weighted) {
        uint32_t a = 0, b = 0, i;
        for (i = 0; i < length; i++) {
            a += data[i];
            b += (length - i) * data[i];
        }
        *all = a;
        *weighted = b;
    }
    """
    void rolling_begin(const uint8_t *data, uint32_t length, uint32_t *all, uint32_t *weighted) noexcept nogil

cdef enum:
    SUM_SIZE = 8
    KEY_SIZE = 16
    MOST_LOOKS = 16   # at blocks that share a sum: files of one pattern have many
    HASH = 2654435761  # Knuth's multiplier
    FAILED_BYTES = 4  # hashed in vain for each byte of the text, at most: sums may have been made to meet

SUM_BYTES = SUM_SIZE
KEY_BYTES = KEY_SIZE

ctypedef struct Found:
    int64_t at        # in the text
    int64_t offset    # in the old file
    int64_t length


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


def sums_of(const uint8_t[::1] data not None, uint32_t block_bytes, bytes key not None):
    """The sums of all whole blocks of `block_bytes` in `data`, SUM_BYTES for each: the rolling sum (4), half of
    SipHash-1-3 under `key`, KEY_BYTES (4), big-endian. Releases the GIL."""
    cdef size_t count, i
    cdef uint32_t everything, weighted
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
        for i in range(count):
            rolling_begin(begin + i * block_bytes, block_bytes, &everything, &weighted)
            _put(out + i * SUM_SIZE, _sum(everything, weighted), 4)
            _put(out + i * SUM_SIZE + 4, siphash13(secret, begin + i * block_bytes, block_bytes), 4)
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
    cdef uint8_t *filter      # a bit for each of 32 times as many hashes: nearly all windows are not worth a look
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
        self.filter = <uint8_t *>calloc(<size_t>4 << self.bits, 1)
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
            code = self.code(self.weak[i])
            self.filter[code >> 3] |= 1 << (code & 7)
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

    cdef inline uint32_t code(self, uint32_t weak) noexcept nogil:
        return (weak * <uint32_t>HASH) >> (27 - self.bits)

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
        cdef int64_t done = begin       # what lies before it is settled
        cdef int64_t patience = (end - begin) * FAILED_BYTES
        cdef int64_t count = 0, first, last
        cdef int32_t block, likely = -1
        cdef const uint8_t *filtered = self.filter
        cdef int shift = 27 - self.bits
        cdef uint32_t everything, weighted, weak, code
        if size < width:
            return 0
        if 0 <= guess < self.count and begin + width <= size:
            rolling_begin(text + begin, <uint32_t>width, &everything, &weighted)
            if self.weak[guess] == _sum(everything, weighted):
                at, likely = begin, <int32_t>guess
        rolling_begin(text + at, <uint32_t>width, &everything, &weighted)
        while True:
            weak = _sum(everything, weighted)
            code = (weak * <uint32_t>HASH) >> shift
            block = -1
            if filtered[code >> 3] >> (code & 7) & 1:
                block = self.look(text + at, weak, self.heads[code >> 5], likely, &patience)
                if patience < 0:
                    return count
            if block >= 0:
                first, last = max(at, done), min(at + width, end)
                if first < last:
                    if count and found[count - 1].at + found[count - 1].length == first and (
                            found[count - 1].offset + found[count - 1].length == block * width + first - at):
                        found[count - 1].length += last - first
                    elif count < room:
                        found[count].at = first
                        found[count].offset = block * width + first - at
                        found[count].length = last - first
                        count += 1
                    done = last
                at += width
                likely = block + 1 if block + 1 < <int32_t>self.count else -1
                if at >= end or at + width > size:
                    return count
                rolling_begin(text + at, <uint32_t>width, &everything, &weighted)
                continue
            if at + 1 >= end or at + width >= size:
                return count
            everything += text[at + width] - <uint32_t>text[at]
            weighted += everything - <uint32_t>width * text[at]
            at += 1

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
