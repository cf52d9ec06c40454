"""Byte ring with absolute 64-bit offsets, whose storage is borrowed from a pool.

    head <= tail <= head + capacity

Bytes [head, tail) are kept; byte `offset` lives at place (offset mod capacity) of the storage. A ring without bytes
owns no storage. A ring holds no pointer: its storage is named by its number in the pool, so a copy of the ring and of
the bytes means the same elsewhere. `block` and `capacity` change by one store, for which they lie side by side.

`account`: bytes of storage of all rings of one owner, to be updated; NULL: not counted.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len


cdef enum:
    MIN_RING_BYTES = 4096     # smallest storage: one page
    SMALL_RING_BYTES = 65536  # storage up to this size is left to a ring that is almost empty
    SPARSE = 8                # almost empty: one part in this many is used


cdef struct Ring:
    uint64_t head        # offset of the oldest byte kept
    uint64_t tail        # offset after the newest byte kept
    uint32_t block       # storage: a block of the pool; 0 while capacity is 0
    uint32_t capacity    # bytes of storage: a power of two, or 0


cdef inline uint32_t ring_used(const Ring *ring) noexcept nogil:
    return <uint32_t>(ring.tail - ring.head)

cdef inline uint32_t ring_free(const Ring *ring) noexcept nogil:
    return ring.capacity - <uint32_t>(ring.tail - ring.head)

cdef void ring_init(Ring *ring, uint64_t offset) noexcept nogil
cdef int ring_reserve(Ring *ring, uint32_t capacity, size_t *account) noexcept nogil
cdef int ring_reach(Ring *ring, uint64_t end, uint64_t kept, size_t *account) noexcept nogil
cdef int ring_space(const Ring *ring, uint32_t most, iovec *out) noexcept nogil
cdef int ring_view(const Ring *ring, uint64_t offset, uint32_t length, iovec *out) noexcept nogil
cdef int ring_append(Ring *ring, const uint8_t *data, uint32_t length, size_t *account) noexcept nogil
cdef void ring_release(Ring *ring, uint64_t offset, size_t *account) noexcept nogil
cdef void ring_drop(Ring *ring, size_t *account) noexcept nogil
