"""Where the records of _state.pxd come from and go to; nobody else allocates them."""

from libc.string cimport memcmp, memcpy

from mproxy._pool cimport pool_at
from mproxy._ring cimport MIN_RING_BYTES, ring_drop, ring_reserve
from mproxy.ground._arena cimport (
    RecordTable, in_arena, record_at, record_claim, record_free, record_new, record_number, shape_records,
)
from mproxy.ground._stores cimport stores_done
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
    return <StreamState *>record_new(RecordTable.STREAM_RECORDS)


cdef void stream_state_free(StreamState *state) noexcept nogil:
    """Free it; it is given up, and its rings are empty."""
    record_free(RecordTable.STREAM_RECORDS, state)


cdef SessionState *session_state_new() noexcept nogil:
    """A record of zeros of a session that is not over, or NULL when there is no memory."""
    cdef SessionState *state = <SessionState *>record_new(RecordTable.SESSION_RECORDS)
    if state != NULL:
        state.close_code = -1
    return state


cdef void session_state_claim(SessionState *state) noexcept nogil:
    """It outlives the process from now on."""
    record_claim(RecordTable.SESSION_RECORDS, state, &state.number)


cdef void session_state_free(SessionState *state) noexcept nogil:
    """Free it; its secret is wiped, and what the program kept with it."""
    session_state_give_up(state)
    ring_drop(&state.targets, NULL)
    explicit_bzero(state, sizeof(SessionState))
    if in_arena(state):
        explicit_bzero(
            record_at(RecordTable.PROGRAM_RECORDS, record_number(RecordTable.SESSION_RECORDS, state)),
            sizeof(ProgramRecord))
    record_free(RecordTable.SESSION_RECORDS, state)


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
