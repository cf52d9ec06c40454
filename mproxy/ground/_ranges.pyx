"""Sorted, disjoint, never touching ranges of numbers; invariant: _ranges.pxd."""

from libc.stdlib cimport free, realloc
from libc.string cimport memmove


cdef void ranges_init(RangeSet *ranges) noexcept nogil:
    """Make an empty set."""
    ranges.items = NULL
    ranges.first = ranges.count = ranges.room = 0


cdef void ranges_free(RangeSet *ranges) noexcept nogil:
    """Give the storage back; the set is empty then."""
    free(ranges.items)
    ranges_init(ranges)


cdef uint32_t ranges_find(const RangeSet *ranges, uint64_t number) noexcept nogil:
    """Index of the first range that ends behind `number` (`count` when there is none)."""
    cdef uint32_t low = 0, high = ranges.count, middle
    if high == 0 or ranges_last(ranges).end <= number:
        return high
    while low < high:
        middle = (low + high) // 2
        if ranges_at(ranges, middle).end <= number:
            low = middle + 1
        else:
            high = middle
    return low


cdef bint ranges_has(const RangeSet *ranges, uint64_t number) noexcept nogil:
    """Whether `number` is in the set."""
    cdef uint32_t index = ranges_find(ranges, number)
    return index < ranges.count and ranges_at(ranges, index).start <= number


cdef bint ranges_overlap(const RangeSet *ranges, uint64_t start, uint64_t end) noexcept nogil:
    """Whether any number of [start, end) is in the set."""
    cdef uint32_t index = ranges_find(ranges, start)
    return index < ranges.count and ranges_at(ranges, index).start < end


cdef int open_gap(RangeSet *ranges, uint32_t index) noexcept nogil:
    """Make room for one range before `index`; -1 when there is no memory."""
    cdef uint32_t room
    cdef Range *items
    if index == 0 and ranges.first > 0:
        ranges.first -= 1
        ranges.count += 1
        return 0
    if ranges.first + ranges.count == ranges.room:
        if ranges.first > ranges.room // 2:
            memmove(ranges.items, ranges.items + ranges.first, ranges.count * sizeof(Range))
            ranges.first = 0
        else:
            room = ranges.room * 2 + 8
            items = <Range *>realloc(ranges.items, room * sizeof(Range))
            if items == NULL:
                return -1
            ranges.items = items
            ranges.room = room
    memmove(ranges_at(ranges, index + 1), ranges_at(ranges, index), (ranges.count - index) * sizeof(Range))
    ranges.count += 1
    return 0


cdef void close_gap(RangeSet *ranges, uint32_t index, uint32_t count) noexcept nogil:
    """Remove `count` ranges from `index` on."""
    if index == 0:
        ranges.first += count
    else:
        memmove(ranges_at(ranges, index), ranges_at(ranges, index + count),
                (ranges.count - index - count) * sizeof(Range))
    ranges.count -= count
    if ranges.count == 0:
        ranges.first = 0


cdef int ranges_add(RangeSet *ranges, uint64_t start, uint64_t end) noexcept nogil:
    """Add [start, end) to the set; -1 when there is no memory, and then nothing has changed."""
    cdef uint32_t index, last
    cdef Range *found
    if start >= end:
        return 0
    if ranges.count > 0 and ranges_last(ranges).end == start:
        ranges_last(ranges).end = end
        return 0
    index = ranges_find(ranges, start - 1 if start > 0 else 0)  # the first range that touches it or lies beyond
    if index == ranges.count or ranges_at(ranges, index).start > end:
        if open_gap(ranges, index) < 0:
            return -1
        found = ranges_at(ranges, index)
        found.start = start
        found.end = end
        return 0
    found = ranges_at(ranges, index)
    last = index
    while last + 1 < ranges.count and ranges_at(ranges, last + 1).start <= end:
        last += 1
    if start < found.start:
        found.start = start
    if ranges_at(ranges, last).end > end:
        end = ranges_at(ranges, last).end
    found.end = end
    if last > index:
        close_gap(ranges, index + 1, last - index)
    return 0


cdef int ranges_remove(RangeSet *ranges, uint64_t start, uint64_t end) noexcept nogil:
    """Remove [start, end) from the set; -1 when there is no memory to split a range, and then nothing has changed."""
    cdef uint32_t index = ranges_find(ranges, start), count = 0
    cdef uint64_t behind
    cdef Range *found
    if start >= end or index == ranges.count:
        return 0
    found = ranges_at(ranges, index)
    if found.start < start:
        behind = found.end
        if behind > end:
            if open_gap(ranges, index + 1) < 0:
                return -1
            ranges_at(ranges, index).end = start
            ranges_at(ranges, index + 1).start = end
            ranges_at(ranges, index + 1).end = behind
            return 0
        found.end = start
        index += 1
    while index + count < ranges.count and ranges_at(ranges, index + count).end <= end:
        count += 1
    if count > 0:
        close_gap(ranges, index, count)
    if index < ranges.count and ranges_at(ranges, index).start < end:
        ranges_at(ranges, index).start = end
    return 0


cdef void ranges_drop_below(RangeSet *ranges, uint64_t number) noexcept nogil:
    """Forget every number below `number`."""
    cdef uint32_t index = ranges_find(ranges, number)
    if index > 0:
        close_gap(ranges, 0, index)
    if ranges.count > 0 and ranges_at(ranges, 0).start < number:
        ranges_at(ranges, 0).start = number


cdef void ranges_drop_lowest(RangeSet *ranges) noexcept nogil:
    """Forget the lowest range, if there is one."""
    if ranges.count > 0:
        close_gap(ranges, 0, 1)
