"""Sessions of the worker that died: which there are, whether they are sound, and what is free beside them.

A session is taken over whole or not at all: when one number of it cannot be right, nothing of it is used, and no other
session suffers. Whatever nobody claims is free, and goes back to the system.
"""

import os

from libc.errno cimport errno
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, qsort
from libc.string cimport memcpy

from mproxy._pool cimport CHUNK_PAGES, MIN_BLOCK_BYTES, PoolClaim, pool_has_begun, pool_recover, pool_use_arena
from mproxy._ring cimport Ring
from mproxy._session cimport Session
from mproxy._state cimport ProgramRecord, SessionState, StreamPlace, StreamState, compare_places
from mproxy._wire cimport MAX_DATA_BYTES, MAX_WINDOW_BYTES, SECRET_BYTES, SESSION_ID_BYTES, CloseCode, ResetCode
from mproxy.ground._arena cimport (
    ARENA_PAGE_BYTES, OWN_RECORD_AT, RECORD_CHUNKS, RecordTable, arena_base, arena_bytes, arena_keep_from_children,
    arena_map, arena_punch, arena_turn, arena_unmap, record_at, record_give_up, record_return, records_used,
)
from mproxy.ground._stores cimport store_whole, stores_done
from mproxy.ground._wipe cimport explicit_bzero
from mproxy.ground.errors import LocalError


cdef struct Findings:
    uint32_t sessions    # records to look at
    uint32_t streams     # records to look at
    uint8_t *damaged     # of each session
    StreamPlace *heirs   # streams, by session and id
    size_t heir_count    # entries
    PoolClaim *claims    # what their rings hold, by block
    size_t claim_count   # entries


cdef Findings found


def map_arena():
    """Have all records and rings in memory that outlives this process; OSError when the system has none.

    For the keeper, before there is any.
    """
    if arena_base != NULL or pool_has_begun():
        raise LocalError("memory was taken before there was an arena")
    if arena_map() < 0:
        raise OSError(errno, os.strerror(errno))
    pool_use_arena()


def forget_arena():
    """Have no arena any more, and nothing that lies there: another process has it all. For the keeper."""
    arena_unmap()


def empty_arena():
    """Have nothing in the arena any more, as when it was mapped. For the keeper, before there is a worker."""
    arena_punch(arena_base, arena_bytes)


def recover():
    """Find what the worker before this one left. Returns (numbers of its sessions, how many others were damaged).

    The first thing that any worker does; from then on nothing in the arena is taken that is not claimed.
    """
    cdef uint32_t number
    if arena_base == NULL:
        return [], 0
    arena_keep_from_children()
    note_death()
    begin()
    find_sessions()
    find_streams()
    find_doubles()
    find_claims()
    lost = sum(found.damaged[number] for number in range(1, found.sessions + 1))
    drop_damaged()
    pool_recover(found.claims, found.claim_count)
    return [number for number in range(1, found.sessions + 1) if session_of(number).number == number], lost


def inherit(config, uint32_t number, int64_t now):
    """Go on with a session that `recover` named, once; its streams are for whoever has their applications."""
    return adopt_session(config, session_of(number), now)


cdef Session adopt_session(config, SessionState *lasting, int64_t now):
    """Go on with the session of a process that is gone, whose state is now ours. `streams.adopt` brings its streams."""
    cdef Session session = Session.__new__(Session)
    session.begin(config, lasting)
    session.received_at, session.met = now, True
    if lasting.known:
        session.secret = lasting.secret[:SECRET_BYTES]
    return session


def named_descriptors(uint32_t number):
    """The descriptors of its applications."""
    cdef const StreamState *state
    cdef uint32_t nth = 0
    found = set()
    while True:
        state = inherited_stream(number, nth)
        if state == NULL:
            return found
        if state.fd > 0:
            found.add(state.fd - 1)
        nth += 1


def give_up(uint32_t number):
    """End a session that `recover` named without a look at what is in it; its descriptors are the caller's to close.

    What its rings held is free again from the next recovery on.
    """
    cdef size_t i
    drop_session(number)
    for i in range(found.heir_count):
        if found.heirs[i].session == number:
            drop_stream(found.heirs[i].record)


def mark(uint32_t number):
    """A number for the session that no other one ever has; 0 while it has no identity. Those of records come again."""
    cdef const SessionState *state = session_of(number)
    return int.from_bytes(state.session_id[:SESSION_ID_BYTES]) if state.known else 0


def culprit():
    """For the keeper: the mark of the session whose turn it was; 0: none's."""
    cdef uint32_t number = arena_turn[0]
    return mark(number) if 0 < number <= records_used(RecordTable.SESSION_RECORDS) else 0


def deaths(uint32_t number):
    """How many workers have died in the session's turn."""
    return session_of(number).deaths


cdef StreamState *inherited_stream(uint32_t number, uint32_t nth) noexcept nogil:
    """The nth of its streams, in the order of their ids; NULL after the last."""
    cdef size_t low = 0, high = found.heir_count, middle
    while low < high:
        middle = (low + high) // 2
        if found.heirs[middle].session < number:
            low = middle + 1
        else:
            high = middle
    if low + nth >= found.heir_count or found.heirs[low + nth].session != number:
        return NULL
    return stream_of(found.heirs[low + nth].record)


# ---- what the program knows

def keep_record(Session session, bytes data, bytes history=b""):
    """Have `data` outlive the process with the session, instead of what was kept before; nothing without an arena.

    `history` is for those who ask, and nothing depends on it: it is left out where there is no room, and of a dump.
    """
    if session.lasting.number != 0:
        write_record(<ProgramRecord *>record_at(RecordTable.PROGRAM_RECORDS, session.lasting.number), data, history)


def kept_record(uint32_t number):
    """What was kept with a session that `recover` named; nothing at all when it died before that."""
    return read_record(<const ProgramRecord *>record_at(RecordTable.PROGRAM_RECORDS, number))


def kept_history(uint32_t number):
    """The history that was kept with it; nothing at all when there is none."""
    return read_history(<const ProgramRecord *>record_at(RecordTable.PROGRAM_RECORDS, number))


def keep_own_record(bytes data):
    """Have `data` outlive the process with no session, instead of what was kept before; nothing without an arena."""
    if arena_base != NULL:
        write_record(own_record(), data, read_history(own_record()))


def keep_own_history(bytes history):
    """The same of a history beside that, which is left out where there is no room."""
    if arena_base != NULL:
        write_record(own_record(), read_record(own_record()), history)


def kept_own_record():
    """What was kept by that, also by this process; nothing at all when nothing was."""
    return read_record(own_record()) if arena_base != NULL else b""


def kept_own_history():
    """What was kept by that, also by this process; nothing at all when nothing was."""
    return read_history(own_record()) if arena_base != NULL else b""


cdef inline ProgramRecord *own_record() noexcept nogil:
    return <ProgramRecord *>(arena_base + OWN_RECORD_AT)


cdef write_record(ProgramRecord *record, bytes data, bytes history):
    cdef uint32_t half = 1 - ((record.current >> 16) & 1), length = <uint32_t>len(data)
    cdef uint32_t behind = <uint32_t>len(history)
    if len(data) > <Py_ssize_t>sizeof(record.halves[0]):
        raise LocalError("a program's record is too long")
    if len(history) > <Py_ssize_t>sizeof(record.halves[0]) - length:
        behind = 0
    memcpy(record.halves[half], <const char *>data, length)
    memcpy(&record.halves[half][length], <const char *>history, behind)
    stores_done()
    store_whole(&record.current, behind << 17 | half << 16 | length)


cdef bytes read_record(const ProgramRecord *record):
    cdef uint32_t half = record.current >> 16 & 1, length = record.current & 0xFFFF
    if length > sizeof(record.halves[0]):
        return b""
    return (<const char *>record.halves[half])[:length]


cdef bytes read_history(const ProgramRecord *record):
    cdef uint32_t half = record.current >> 16 & 1, length = record.current & 0xFFFF, behind = record.current >> 17
    if length + behind > sizeof(record.halves[0]):
        return b""
    return (<const char *>&record.halves[half][length])[:behind]


# ---- what there is

cdef inline SessionState *session_of(uint32_t number) noexcept nogil:
    return <SessionState *>record_at(RecordTable.SESSION_RECORDS, number)


cdef inline StreamState *stream_of(uint32_t record) noexcept nogil:
    return <StreamState *>record_at(RecordTable.STREAM_RECORDS, record)


cdef void note_death() noexcept nogil:
    """In whose turn the worker died. First the count, then that it is counted: at worst it counts twice."""
    cdef uint32_t number = arena_turn[0]
    cdef SessionState *state
    if 0 < number <= records_used(RecordTable.SESSION_RECORDS):
        state = session_of(number)
        state.deaths += state.number == number and state.deaths < 255
    stores_done()
    store_whole(arena_turn, 0)


cdef begin():
    """Room for everything that can be found."""
    free(found.damaged)
    free(found.heirs)
    free(found.claims)
    found.sessions = records_used(RecordTable.SESSION_RECORDS)
    found.streams = records_used(RecordTable.STREAM_RECORDS)
    found.heir_count = found.claim_count = 0
    found.damaged = <uint8_t *>calloc(found.sessions + 1, 1)
    found.heirs = <StreamPlace *>malloc((found.streams + 1) * sizeof(StreamPlace))
    found.claims = <PoolClaim *>malloc((found.sessions + 2 * <size_t>found.streams + 1) * sizeof(PoolClaim))
    if found.damaged == NULL or found.heirs == NULL or found.claims == NULL:
        raise MemoryError


cdef void find_sessions() noexcept nogil:
    cdef uint32_t number
    for number in range(1, found.sessions + 1):
        if session_of(number).number == 0:
            drop_session(number)
        else:
            found.damaged[number] = not session_sound(session_of(number), number)


cdef void find_streams() noexcept nogil:
    cdef uint32_t record, session
    cdef StreamState *state
    for record in range(1, found.streams + 1):
        state = stream_of(record)
        session = state.session
        if session == 0 or session > found.sessions or session_of(session).number == 0:
            drop_stream(record)
        elif found.damaged[session] or not stream_sound(state, session_of(session)):
            found.damaged[session] = True
        else:
            found.heirs[found.heir_count].session = session
            found.heirs[found.heir_count].id = state.id
            found.heirs[found.heir_count].record = record
            found.heir_count += 1


cdef void find_doubles() noexcept nogil:
    """Order the streams; a session with two of one id is damaged."""
    cdef size_t i
    qsort(found.heirs, found.heir_count, sizeof(StreamPlace), compare_places)
    for i in range(1, found.heir_count):
        if compare_places(&found.heirs[i - 1], &found.heirs[i]) == 0:
            found.damaged[found.heirs[i].session] = True


cdef void find_claims() noexcept nogil:
    """Order the blocks; two sessions that claim the same memory are damaged, for nobody can tell whose it is."""
    cdef StreamState *state
    cdef PoolClaim *claim
    cdef size_t i
    cdef uint32_t number, end = 0
    cdef PoolClaim *last = NULL  # that reached farthest
    for number in range(1, found.sessions + 1):
        if session_of(number).number != 0 and not found.damaged[number]:
            add_claim(&session_of(number).targets, number)
    for i in range(found.heir_count):
        state = stream_of(found.heirs[i].record)
        if not found.damaged[state.session]:
            add_claim(&state.out, state.session)
            add_claim(&state.inp, state.session)
    qsort(found.claims, found.claim_count, sizeof(PoolClaim), compare_claims)
    for i in range(found.claim_count):
        claim = &found.claims[i]
        if last != NULL and (claim.block < end or (
                claim.block // CHUNK_PAGES == last.block // CHUNK_PAGES and claim.size != last.size)):
            found.damaged[last.owner] = found.damaged[claim.owner] = True
        if claim.block + claim.size // MIN_BLOCK_BYTES > end:
            end = claim.block + claim.size // MIN_BLOCK_BYTES
            last = claim


cdef void add_claim(const Ring *ring, uint32_t session) noexcept nogil:
    if ring.capacity != 0:
        found.claims[found.claim_count].block = ring.block
        found.claims[found.claim_count].size = ring.capacity
        found.claims[found.claim_count].owner = session
        found.claim_count += 1


cdef int compare_claims(const void *one, const void *other) noexcept nogil:
    cdef uint32_t a = (<const PoolClaim *>one).block, b = (<const PoolClaim *>other).block
    return (a > b) - (a < b)


# ---- what is given up

cdef void drop_damaged() noexcept nogil:
    """Give up the damaged sessions with their streams, and forget what was found of them."""
    cdef uint32_t number
    cdef size_t i, kept = 0
    for number in range(1, found.sessions + 1):
        if found.damaged[number]:
            drop_session(number)
    for number in range(1, found.streams + 1):
        if found.damaged[stream_of(number).session]:
            drop_stream(number)
    for i in range(found.heir_count):
        if not found.damaged[found.heirs[i].session]:
            found.heirs[kept] = found.heirs[i]
            kept += 1
    found.heir_count = kept
    kept = 0
    for i in range(found.claim_count):
        if not found.damaged[found.claims[i].owner]:
            found.claims[kept] = found.claims[i]
            kept += 1
    found.claim_count = kept


cdef void drop_session(uint32_t number) noexcept nogil:
    """It is gone from here on, and its secrets with it."""
    record_give_up(&session_of(number).number)
    explicit_bzero(session_of(number), sizeof(SessionState))
    explicit_bzero(record_at(RecordTable.PROGRAM_RECORDS, number), sizeof(ProgramRecord))
    record_return(RecordTable.SESSION_RECORDS, number)


cdef void drop_stream(uint32_t record) noexcept nogil:
    record_give_up(&stream_of(record).session)
    record_return(RecordTable.STREAM_RECORDS, record)


# ---- what can be right

cdef bint session_sound(const SessionState *state, uint32_t number) noexcept nogil:
    return (state.number == number and state.known <= 1 and state.is_server <= 1
            and -1 <= state.close_code <= <int>CloseCode.TWIN
            and state.targets.head == 0 and ring_sound(&state.targets, 0) and targets_sound(&state.targets))


cdef bint targets_sound(const Ring *ring) noexcept nogil:
    """Whether the texts, each after its length, end where the ring does."""
    cdef uint64_t at = 0
    cdef uint16_t length
    while at + sizeof(length) <= ring.tail:
        memcpy(&length, arena_base + <size_t>ring.block * MIN_BLOCK_BYTES + at, sizeof(length))
        at += sizeof(length) + length
    return at == ring.tail


cdef bint stream_sound(const StreamState *state, const SessionState *session) noexcept nogil:
    """Whether a process can have stopped with these numbers, at whatever instruction."""
    cdef uint8_t flags = (
        state.out_ended | state.out_done | state.in_ended | state.in_done | state.open_due | state.confirmed
        | state.unheard | state.aborted | state.reset_ours | state.deaf | state.drain_reset | state.retired)
    if flags > 1 or state.reset_code > ResetCode.KILLED or state.id == 0:
        return False
    if not ring_sound(&state.out, 0) or not ring_sound(&state.inp, MAX_DATA_BYTES):
        return False
    if state.target_bytes and <uint64_t>state.target + state.target_bytes > session.targets.tail:
        return False
    if state.out_done and not (state.out_ended and state.out.head == state.out.tail):
        return False
    if state.in_done and not (state.in_ended and state.inp.head == state.inp.tail):
        return False
    return (state.sent <= state.out.tail + state.out_ended and state.peak <= state.out.tail + state.out_ended
            and state.acked <= state.inp.head + state.in_done)


cdef bint ring_sound(const Ring *ring, uint32_t passed) noexcept nogil:
    """Whether the storage can be the ring's. `passed`: bytes that may have been counted in and not yet out, though the
    ring never had them."""
    cdef uint32_t pages = ring.capacity // MIN_BLOCK_BYTES
    if ring.tail < ring.head:
        return False
    if ring.capacity == 0:
        return ring.block == 0 and ring.tail - ring.head <= passed
    return (MIN_BLOCK_BYTES <= ring.capacity <= 2 * <uint32_t>MAX_WINDOW_BYTES
            and ring.capacity & (ring.capacity - 1) == 0 and ring.tail - ring.head <= ring.capacity
            and ring.block >= RECORD_CHUNKS * CHUNK_PAGES
            and ring.block % (pages if pages < CHUNK_PAGES else <uint32_t>CHUNK_PAGES) == 0
            and <uint64_t>ring.block + pages <= arena_bytes // ARENA_PAGE_BYTES)
