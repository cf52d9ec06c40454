"""Memory that outlives a worker: one mapping, which every process that its keeper makes has at the same address.

Chunk 0 is the head; after it the tables of records; after them what rings hold (_pool.pxd). The range is reserved as a
whole and costs nothing until it is used; no file system has a name for it, and it is in no core dump.

In it are bytes and records, and no free lists: what is free follows from what records claim, so that a process killed
at any instruction leaves nothing half done. A record is claimed by one store, its last, and given up by one, its first;
what lies in a record that is not claimed means nothing. Without a keeper there is no arena, and all is `malloc`ed.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

from mproxy.ground._stores cimport store_whole, stores_done


cdef enum:
    ARENA_PAGE_BYTES = 4096
    ARENA_CHUNK_BYTES = 16777216  # as the pool counts
    ARENA_CHUNKS = 65536          # 1 TiB, where that much may be reserved
    LEAST_ARENA_CHUNKS = 1024     # 16 GiB
    TABLE_CHUNKS = 32             # address range of a table: 512 MiB
    RECORD_CHUNKS = 161           # the head's and the tables'
    OWN_RECORD_AT = 4096          # in the head: what the program keeps that is no session's


cdef enum RecordTable:
    SESSION_RECORDS
    PROGRAM_RECORDS               # one beside every session's, of the same number
    STREAM_RECORDS
    PAIR_RECORDS                  # of the relay's TCP
    FLOW_RECORDS                  # of its UDP
    RECORD_TABLES


cdef struct ArenaHead:
    uint32_t turn                 # session whose turn it is; 0: none's
    uint32_t used[RECORD_TABLES]  # records of each table that were ever claimed: numbers from 1 to this


cdef struct Records:
    uint32_t record_bytes         # of one
    uint32_t most                 # of them
    uint32_t *free_numbers        # up to the head's `used`
    uint32_t free_count           # entries
    uint32_t free_size            # room for entries


cdef uint8_t *arena_base          # NULL: there is none
cdef size_t arena_bytes           # of the mapping; 0: there is none
cdef uint32_t *arena_turn         # the head's `turn`, or a place that nobody reads


cdef inline bint in_arena(const void *place) noexcept nogil:
    return <size_t>(<const uint8_t *>place - arena_base) < arena_bytes


cdef inline void record_name(uint32_t *claim, uint32_t number) noexcept nogil:
    """The record with that field counts from now on, for whoever knows it by this number; all else of it is there."""
    stores_done()
    store_whole(claim, number)
    stores_done()


cdef inline void record_give_up(uint32_t *claim) noexcept nogil:
    """The record with that field ends with the process from now on: what it names may be closed or emptied."""
    store_whole(claim, 0)
    stores_done()


cdef int arena_map() noexcept
cdef void arena_unmap() noexcept nogil
cdef void arena_keep_from_children() noexcept nogil
cdef void arena_punch(void *start, size_t length) noexcept nogil
cdef void shape_records(RecordTable table, uint32_t record_bytes, uint32_t most) noexcept nogil
cdef void *record_at(RecordTable table, uint32_t number) noexcept nogil
cdef uint32_t record_number(RecordTable table, const void *record) noexcept nogil
cdef uint32_t records_used(RecordTable table) noexcept nogil
cdef void *record_take(RecordTable table) noexcept nogil
cdef void *record_new(RecordTable table) noexcept nogil
cdef void record_claim(RecordTable table, const void *record, uint32_t *claim) noexcept nogil
cdef void record_free(RecordTable table, void *record) noexcept nogil
cdef void record_return(RecordTable table, uint32_t number) noexcept nogil
