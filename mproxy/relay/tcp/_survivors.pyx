"""Pairs of the worker that died: which there are, whether their records are sound, and which descriptors they name.

A pair is taken over whole or not at all; one that is damaged costs no other. What nobody claims is free.
"""

import os

from libc.errno cimport errno
from libc.stddef cimport size_t
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc

from mproxy._inherit cimport ring_sound
from mproxy._pool cimport CHUNK_PAGES, MIN_BLOCK_BYTES, PoolClaim, pool_recover, pool_use_arena
from mproxy._ring cimport Ring
from mproxy.ground._arena cimport (
    RecordTable, arena_base, arena_keep_from_children, arena_map, arena_turn, record_at, record_return, records_used,
)
from mproxy.ground._stores cimport store_whole
from mproxy.relay.tcp._pair_record cimport (
    PIPE_PLACES, PairRecord, PipeRecord, SideRecord, pair_record_give_up, relay_head, use_arena_head,
)


def keep_pairs():
    """Have pairs, and what waits for their sockets, in memory that outlives this process; OSError when the system has
    none. For the keeper, before there are any."""
    if arena_map() < 0:
        raise OSError(errno, os.strerror(errno))
    pool_use_arena()


def whose_turn():
    """For the keeper: the serial of the pair whose turn it is, or was when the worker died; 0: none's."""
    return arena_turn[0]


def find_survivors(condemned):
    """(records of pairs that go on, descriptors that these name, how many were given up, descriptors that only those
    name), for a worker that begins.

    The first thing that it does with the arena. `condemned`: serials of pairs that are to be ended, whatever is in
    their records.
    """
    cdef uint32_t number
    cdef PairRecord *record
    if arena_base == NULL:
        return [], set(), 0, set()
    use_arena_head()
    arena_keep_from_children()
    store_whole(arena_turn, 0)
    found, lost = [], []
    for number in range(1, records_used(RecordTable.PAIR_RECORDS) + 1):
        record = record_of(number)
        if record.number == 0:
            record_return(RecordTable.PAIR_RECORDS, number)
        elif record.serial not in condemned and record_sound(record, number):
            found.append(number)
        else:
            lost.append(number)
    doubles = find_doubles(found)
    lost.extend(doubles)
    found = [number for number in found if number not in doubles]
    unwanted = sockets_of(lost)
    for number in lost:
        give_up(number)
    recover_rings(found)
    named = named_descriptors(found)
    return found, named, len(lost), unwanted - named


cdef inline PairRecord *record_of(uint32_t number) noexcept nogil:
    return <PairRecord *>record_at(RecordTable.PAIR_RECORDS, number)


cdef void give_up(uint32_t number) noexcept nogil:
    pair_record_give_up(record_of(number))
    record_return(RecordTable.PAIR_RECORDS, number)


cdef bint record_sound(const PairRecord *record, uint32_t number) noexcept nogil:
    return (record.number == number and record.serial != 0 and record.client.fd > 0 and record.server.fd >= 0
            and side_sound(&record.client, 2 * number) and side_sound(&record.server, 2 * number + 1))


cdef bint side_sound(const SideRecord *side, uint32_t mark) noexcept nogil:
    """A ring without storage may have been killed between its two offsets."""
    if side.mark != mark or side.ended > 1 or side.broken > 1 or side.waiting.tail < side.waiting.head:
        return False
    return side.waiting.capacity == 0 and side.waiting.block == 0 or ring_sound(&side.waiting, 0)


cdef set find_doubles(list numbers):
    """Pairs that name one descriptor, or one piece of memory, together with another pair."""
    cdef const PairRecord *record
    owners, doubles = {}, set()
    for number in numbers:
        record = record_of(number)
        for fd in (record.client.fd, record.server.fd):
            if fd and owners.setdefault(fd, number) is not number:
                doubles.update((number, owners[fd]))
            elif fd and record.client.fd == record.server.fd:
                doubles.add(number)
    end, last = 0, (0, 0, 0)
    for claim in claims_of(numbers):
        block, size, number = claim
        if block < end or (block // CHUNK_PAGES == last[0] // CHUNK_PAGES and size != last[1]):
            doubles.update((number, last[2]))
        end, last = max(end, block + size // MIN_BLOCK_BYTES), claim
    doubles.discard(0)
    return doubles


cdef list claims_of(list numbers):
    """(block, bytes, record) of every ring with storage, in the order of the blocks."""
    claims = []
    for number in numbers:
        add_claim(claims, &record_of(number).client.waiting, number)
        add_claim(claims, &record_of(number).server.waiting, number)
    return sorted(claims)


cdef add_claim(list claims, const Ring *ring, number):
    if ring.capacity != 0:
        claims.append((ring.block, ring.capacity, number))


cdef recover_rings(list numbers):
    """Memory begins with what these pairs have waiting, and nothing else."""
    claims = claims_of(numbers)
    cdef size_t count = len(claims), i
    cdef PoolClaim *packed = <PoolClaim *>malloc((count + 1) * sizeof(PoolClaim))
    if packed == NULL:
        raise MemoryError
    for i in range(count):
        packed[i].block, packed[i].size, packed[i].owner = claims[i]
    pool_recover(packed, count)
    free(packed)


cdef set named_descriptors(list numbers):
    """Of the pairs' sockets, and of pipes that may have their bytes."""
    cdef const PairRecord *record
    cdef const PipeRecord *pipe
    cdef int i
    named, marks = sockets_of(numbers), set()
    for number in numbers:
        record = record_of(number)
        marks.update((record.client.mark, record.server.mark))
    for i in range(PIPE_PLACES):
        pipe = &relay_head.pipes[i]
        if pipe.read_fd > 0 and pipe.write_fd > 0 and pipe.user in marks:
            named.update((pipe.read_fd - 1, pipe.write_fd - 1))
        else:
            relay_head.pipes[i].read_fd = 0
    return named


cdef set sockets_of(list numbers):
    """The descriptors that these pairs name."""
    return {fd - 1 for number in numbers for fd in (record_of(number).client.fd, record_of(number).server.fd) if fd > 0}
