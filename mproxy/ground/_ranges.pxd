"""A set of 64-bit numbers kept as sorted ranges: packet numbers received, bytes received, acknowledged, lost.

    first <= i:  items[i].start < items[i].end < items[i + 1].start

At the ends, where almost everything happens, every operation takes constant time.
"""

from libc.stdint cimport uint32_t, uint64_t


cdef struct Range:
    uint64_t start  # the first number
    uint64_t end    # one past the last


cdef struct RangeSet:
    Range *items     # storage
    uint32_t first   # index of the lowest range
    uint32_t count   # ranges
    uint32_t room    # ranges that the storage holds


cdef inline Range *ranges_at(const RangeSet *ranges, uint32_t index) noexcept nogil:
    return ranges.items + ranges.first + index

cdef inline Range *ranges_last(const RangeSet *ranges) noexcept nogil:
    return ranges.items + ranges.first + ranges.count - 1

cdef void ranges_init(RangeSet *ranges) noexcept nogil
cdef void ranges_free(RangeSet *ranges) noexcept nogil
cdef int ranges_add(RangeSet *ranges, uint64_t start, uint64_t end) noexcept nogil
cdef int ranges_remove(RangeSet *ranges, uint64_t start, uint64_t end) noexcept nogil
cdef void ranges_drop_below(RangeSet *ranges, uint64_t number) noexcept nogil
cdef void ranges_drop_lowest(RangeSet *ranges) noexcept nogil
cdef bint ranges_has(const RangeSet *ranges, uint64_t number) noexcept nogil
cdef bint ranges_overlap(const RangeSet *ranges, uint64_t start, uint64_t end) noexcept nogil
cdef uint32_t ranges_find(const RangeSet *ranges, uint64_t number) noexcept nogil
