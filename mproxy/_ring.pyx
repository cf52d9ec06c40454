"""Byte ring with absolute offsets. Storage comes from `_pool` in powers of two from MIN_RING_BYTES up.

At every instruction a ring is whole: bytes are where they belong before `tail` counts them, storage is changed by one
store, and goes back to the pool after it.
"""

from libc.string cimport memcpy

from mproxy._pool cimport pool_at, pool_return, pool_take
from mproxy.ground._stores cimport store_pair, stores_done


cdef void ring_init(Ring *ring, uint64_t offset) noexcept nogil:
    """Make an empty ring whose next byte has `offset`."""
    ring.block = ring.capacity = 0
    ring.head = ring.tail = offset


cdef inline void change_storage(Ring *ring, uint32_t block, uint32_t capacity, size_t *account) noexcept nogil:
    """Have the bytes, which are there already, in another block, or in none, and return the one before."""
    cdef uint32_t old = ring.block, old_capacity = ring.capacity
    stores_done()
    store_pair(&ring.block, block, capacity)
    stores_done()
    if account != NULL:
        account[0] += capacity
        account[0] -= old_capacity
    if old_capacity != 0:
        pool_return(old, old_capacity)


cdef int ring_reserve(Ring *ring, uint32_t capacity, size_t *account) noexcept nogil:
    """Have storage for at least `capacity` bytes (rounded up to a power of two); -1 when there is no memory.

    The ring keeps its bytes; iovecs taken before become invalid.
    """
    return 0 if capacity <= ring.capacity else move(ring, capacity, ring_used(ring), account)


cdef int ring_reach(Ring *ring, uint64_t end, uint64_t kept, size_t *account) noexcept nogil:
    """Have storage for every byte below `end`, and not many times as much; -1 when there is no memory.

    Everything below `kept` keeps its place: somebody may have put bytes behind `tail` that are not counted yet.
    """
    cdef uint64_t reach = end - ring.head
    if reach <= ring.capacity <= SMALL_RING_BYTES or reach <= ring.capacity < SPARSE * reach:
        return 0
    return move(ring, <uint32_t>(reach if reach > ring.capacity else 2 * reach), <uint32_t>(kept - ring.head), account)


cdef int move(Ring *ring, uint32_t capacity, uint32_t kept, size_t *account) noexcept nogil:
    """Move with the first `kept` bytes to storage for `capacity` bytes, rounded up; -1 when there is no memory."""
    cdef uint8_t *base
    cdef iovec old[2]
    cdef uint32_t size = MIN_RING_BYTES, first, mask, block
    cdef int i, n
    cdef uint64_t at = ring.head
    while size < capacity:
        size <<= 1
    block = pool_take(size)
    if block == 0:
        return -1
    base = pool_at(block)
    mask = size - 1
    n = ring_view(ring, ring.head, kept, old)
    for i in range(n):
        first = size - (at & mask)
        if first > old[i].iov_len:
            first = <uint32_t>old[i].iov_len
        memcpy(base + (at & mask), old[i].iov_base, first)
        memcpy(base, <uint8_t *>old[i].iov_base + first, old[i].iov_len - first)
        at += old[i].iov_len
    change_storage(ring, block, size, account)
    return 0


cdef inline int cut(const Ring *ring, uint64_t offset, uint32_t length, iovec *out) noexcept nogil:
    """Describe `length` bytes of storage from `offset` on as 0, 1 or 2 segments."""
    cdef uint32_t at, first
    cdef uint8_t *base
    if length == 0:
        return 0
    base = pool_at(ring.block)
    at = <uint32_t>(offset & (ring.capacity - 1))
    first = ring.capacity - at
    out[0].iov_base = base + at
    if length <= first:
        out[0].iov_len = length
        return 1
    out[0].iov_len = first
    out[1].iov_base = base
    out[1].iov_len = length - first
    return 2


cdef int ring_space(const Ring *ring, uint32_t most, iovec *out) noexcept nogil:
    """Describe the free space, at most `most` bytes; returns the number of segments (0..2).

    What is written there becomes part of the ring when the caller moves `tail`.
    """
    cdef uint32_t length = ring_free(ring)
    return cut(ring, ring.tail, length if length < most else most, out)


cdef int ring_view(const Ring *ring, uint64_t offset, uint32_t length, iovec *out) noexcept nogil:
    """Describe kept bytes [offset, offset + length); returns the number of segments (0..2)."""
    return cut(ring, offset, length, out)


cdef int ring_append(Ring *ring, const uint8_t *data, uint32_t length, size_t *account) noexcept nogil:
    """Append a copy of `length` bytes, growing the storage; -1 when there is no memory."""
    cdef iovec space[2]
    cdef int i, n
    if ring_free(ring) < length and ring_reserve(ring, ring_used(ring) + length, account) < 0:
        return -1
    n = ring_space(ring, length, space)
    for i in range(n):
        memcpy(space[i].iov_base, data, space[i].iov_len)
        data += space[i].iov_len
    stores_done()
    ring.tail += length
    return 0


cdef void ring_release(Ring *ring, uint64_t offset, size_t *account) noexcept nogil:
    """Forget every byte below `offset`; an empty ring gives its storage back, an almost empty one most of it.

    Without the latter many streams could each hold a window of storage for one last byte, far beyond the budget.
    Iovecs taken before become invalid.
    """
    cdef uint32_t used
    ring.head = offset
    used = ring_used(ring)
    if used == 0 and ring.capacity != 0:
        change_storage(ring, 0, 0, account)
    elif ring.capacity > SMALL_RING_BYTES and used <= ring.capacity // SPARSE:
        move(ring, 2 * used, used, account)


cdef void ring_drop(Ring *ring, size_t *account) noexcept nogil:
    """Forget every byte."""
    ring_release(ring, ring.tail, account)
