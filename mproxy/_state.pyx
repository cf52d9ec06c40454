"""Where the records of _state.pxd come from and go to; nobody else allocates them."""

from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from mproxy._pool cimport pool_at
from mproxy._ring cimport MIN_RING_BYTES, ring_drop, ring_reserve
from mproxy.ground._arena cimport (
    RecordTable, arena_base, in_arena, record_at, record_number, record_return, record_take, shape_records,
)
from mproxy.ground._stores cimport store_whole, stores_done
from mproxy.ground._wipe cimport explicit_bzero


cdef enum:
    MOST_SESSIONS = 131072
    MOST_STREAMS = 4194304


shape_records(RecordTable.SESSION_RECORDS, sizeof(SessionState), MOST_SESSIONS)
shape_records(RecordTable.PROGRAM_RECORDS, sizeof(ProgramRecord), MOST_SESSIONS)
shape_records(RecordTable.STREAM_RECORDS, sizeof(StreamState), MOST_STREAMS)


cdef int compare_places(const void *one, const void *other) noexcept nogil:
    """The order of two StreamPlaces, by session and id."""
    cdef const StreamPlace *a = <const StreamPlace *>one
    cdef const StreamPlace *b = <const StreamPlace *>other
    if a.session != b.session:
        return 1 if a.session > b.session else -1
    return (a.id > b.id) - (a.id < b.id)


cdef StreamState *stream_state_new() noexcept nogil:
    """A record of zeros, or NULL when there is no memory."""
    if arena_base != NULL:
        return <StreamState *>record_take(RecordTable.STREAM_RECORDS)
    return <StreamState *>calloc(1, sizeof(StreamState))


cdef void stream_state_claim(StreamState *state, const SessionState *session) noexcept nogil:
    """It outlives the process from now on, as its session does."""
    stores_done()
    store_whole(&state.session, session.number)


cdef void stream_state_give_up(StreamState *state) noexcept nogil:
    """It ends with the process from now on; so its rings may be emptied."""
    store_whole(&state.session, 0)
    stores_done()


cdef void stream_state_free(StreamState *state) noexcept nogil:
    """Free it; it is given up, and its rings are empty."""
    if in_arena(state):
        record_return(RecordTable.STREAM_RECORDS, record_number(RecordTable.STREAM_RECORDS, state))
    else:
        free(state)


cdef SessionState *session_state_new() noexcept nogil:
    """A record of zeros of a session that is not over, or NULL when there is no memory."""
    cdef SessionState *state
    if arena_base != NULL:
        state = <SessionState *>record_take(RecordTable.SESSION_RECORDS)
    else:
        state = <SessionState *>calloc(1, sizeof(SessionState))
    if state != NULL:
        state.close_code = -1
    return state


cdef void session_state_claim(SessionState *state) noexcept nogil:
    """It outlives the process from now on."""
    if in_arena(state):
        stores_done()
        store_whole(&state.number, record_number(RecordTable.SESSION_RECORDS, state))


cdef void session_state_give_up(SessionState *state) noexcept nogil:
    """It ends with the process from now on, and so do all its streams."""
    store_whole(&state.number, 0)
    stores_done()


cdef void session_state_free(SessionState *state) noexcept nogil:
    """Free it; its secret is wiped, and what the program kept with it."""
    cdef uint32_t number
    session_state_give_up(state)
    ring_drop(&state.targets, NULL)
    explicit_bzero(state, sizeof(SessionState))
    if in_arena(state):
        number = record_number(RecordTable.SESSION_RECORDS, state)
        explicit_bzero(record_at(RecordTable.PROGRAM_RECORDS, number), sizeof(ProgramRecord))
        record_return(RecordTable.SESSION_RECORDS, number)
    else:
        free(state)


cdef void session_note_asked(SessionState *session, StreamState *stream, const uint8_t *text, uint16_t length,
                             size_t *account) noexcept nogil:
    """sproxy: note what the peer's OPEN said, for the next process, if that has anything of this one.

    A peer may think of very many targets; a page of them is kept, and of the others that they are not known any more.
    """
    if session.number == 0 or length == 0:
        return
    if session.targets.tail + sizeof(length) + length > MIN_RING_BYTES or (
            session_note_target(session, stream, text, length, account) < 0):
        stream.target = FORGOTTEN_TARGET


cdef int session_note_target(SessionState *session, StreamState *stream, const uint8_t *text, uint16_t length,
                             size_t *account) noexcept nogil:
    """Have the stream's OPEN say `text`, one of a few, as they come from the command line. -1: no memory."""
    cdef uint64_t at = 0
    cdef uint16_t found
    cdef uint8_t *entry
    while at < session.targets.tail:  # never released, so they are in one piece
        memcpy(&found, pool_at(session.targets.block) + at, sizeof(found))
        at += sizeof(found)
        if found == length and memcmp(pool_at(session.targets.block) + at, text, length) == 0:
            break
        at += found
    else:
        if ring_reserve(&session.targets, <uint32_t>(at + sizeof(length) + length), account) < 0:
            return -1
        entry = pool_at(session.targets.block) + at
        memcpy(entry, &length, sizeof(length))
        memcpy(entry + sizeof(length), text, length)
        at += sizeof(length)
        stores_done()
        session.targets.tail = at + length
    stream.target = <uint32_t>at
    stream.target_bytes = length
    return 0
