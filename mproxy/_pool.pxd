"""Storage for rings: blocks in powers of two, returned memory really given back.

A proxy with 10,000 streams borrows and returns a small ring with every request, and after a burst should be as small
as before it. malloc(3) cannot promise that: small rings and long-lived records would share pages. So blocks up to
CHUNK_BLOCK_BYTES are cut from large chunks of their own. The pages of a returned block go back to the system
(MADV_DONTNEED) when `pool_trim` finds that they were not needed since its last call, and at once beyond KEPT_BYTES
(BULK_KEPT_BYTES for large blocks); the address range stays for the next ring.

A block is named by a number, not by its address: so what refers to it means the same to whoever has the same chunks,
wherever they lie there. A number is that of a page: CHUNK_PAGES in each chunk; chunk 0 is never used, so no block
has number 0.

One account for the process: what rings hold and what records are charged for, against a limit. A part of the limit
is promised to the sessions, the same to each; `pool_free_bytes` says how much is left of the rest. Who asks before it
grows, and takes beyond its promise no more than is left, leaves as much again for all others, and their promises whole.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t


cdef enum:
    MIN_BLOCK_BYTES = 4096       # one page
    CHUNK_PAGES = 4096           # 16 MiB of address range asked for at a time; its pages cost nothing until used
    MOST_CHUNKS = 65536          # 1 TiB; a block that no chunk is cut for counts as one


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
