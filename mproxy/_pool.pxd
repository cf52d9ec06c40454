"""Storage for rings: blocks in powers of two, whose memory really goes back to the system.

A proxy with 10,000 streams borrows and returns a small ring with every request, and after a burst should be as small as
before. malloc(3) cannot promise that: small rings and long-lived records would share pages. So blocks up to
CHUNK_BLOCK_BYTES are cut from large chunks of their own. The pages of a returned block go back to the system
(MADV_DONTNEED) when `pool_trim` finds that they were not needed since its last call, and at once if more than
KEPT_BYTES (BULK_KEPT_BYTES for large blocks) are unused; the address range stays for the next ring.

A block is named by a number, not by its address, so that a reference to it means the same wherever the chunks are
mapped. The number is that of its first page, CHUNK_PAGES to a chunk; chunk 0 is never used, so no block has number 0.

There is one account for the process: what rings hold and records are charged, against a limit. A part of the limit is
promised to the sessions, the same to each; `pool_free_bytes` says how much is left of the rest. A session that asks
before it grows, and beyond its promise takes no more than is left, leaves as much again for all others, and their
promises untouched.

A program with a keeper has its chunks in the arena (mproxy/ground/_arena.pxd), so that what rings hold outlives the
process. Which blocks are lent is known there to nobody but the rings themselves: the next process begins with what
they claim (`pool_recover`).
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t


cdef enum:
    MIN_BLOCK_BYTES = 4096       # one page
    CHUNK_PAGES = 4096           # 16 MiB of address range at a time; its pages cost nothing until they are used
    MOST_CHUNKS = 65536          # 1 TiB; a block too large to be cut from a chunk counts as one


cdef struct PoolClaim:
    uint32_t block       # its number
    uint32_t size        # its bytes
    uint32_t owner       # whose it is; nothing to the pool


cdef uint8_t *chunks[MOST_CHUNKS]  # where they lie; NULL: not used


cdef inline uint8_t *pool_at(uint32_t block) noexcept nogil:
    """Where a block lies."""
    return chunks[block // CHUNK_PAGES] + <size_t>(block % CHUNK_PAGES) * MIN_BLOCK_BYTES


cdef uint32_t pool_take(uint32_t size) noexcept nogil
cdef void pool_return(uint32_t block, uint32_t size) noexcept nogil
cdef void pool_trim() noexcept nogil
cdef size_t pool_lent_bytes() noexcept nogil
cdef size_t pool_kept_bytes() noexcept nogil
cdef void pool_set_limit(size_t limit) noexcept nogil
cdef void pool_charge(int64_t size) noexcept nogil
cdef size_t pool_free_bytes() noexcept nogil
cdef size_t pool_session_bytes() noexcept nogil
cdef size_t pool_redeem(size_t held, size_t before) noexcept nogil
cdef bint pool_has_begun() noexcept nogil
cdef void pool_use_arena() noexcept nogil
cdef void pool_recover(const PoolClaim *claims, size_t count) noexcept nogil
