"""Where the records of _state.pxd come from and go to; nobody else allocates them."""

from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from mproxy._pool cimport pool_at
from mproxy._ring cimport ring_append, ring_drop
from mproxy.ground._wipe cimport explicit_bzero


cdef StreamState *stream_state_new() noexcept nogil:
    """A record of zeros, or NULL when there is no memory."""
    return <StreamState *>calloc(1, sizeof(StreamState))


cdef void stream_state_free(StreamState *state) noexcept nogil:
    """Free it; its rings are empty."""
    free(state)


cdef SessionState *session_state_new() noexcept nogil:
    """A record of zeros of a session that is not over, or NULL when there is no memory."""
    cdef SessionState *state = <SessionState *>calloc(1, sizeof(SessionState))
    if state != NULL:
        state.close_code = -1
    return state


cdef void session_state_free(SessionState *state) noexcept nogil:
    """Free it; its secret is wiped."""
    ring_drop(&state.targets, NULL)
    explicit_bzero(state, sizeof(SessionState))
    free(state)


cdef int session_note_target(SessionState *session, StreamState *stream, const uint8_t *text, uint16_t length,
                             size_t *account) noexcept nogil:
    """Have the stream's OPEN say `text`, one of a few, as they come from the command line. -1: no memory."""
    cdef uint64_t at = 0
    cdef uint16_t found
    while at < session.targets.tail:  # never released, so they are in one piece
        memcpy(&found, pool_at(session.targets.block) + at, sizeof(found))
        at += sizeof(found)
        if found == length and memcmp(pool_at(session.targets.block) + at, text, length) == 0:
            break
        at += found
    else:
        if ring_append(&session.targets, <const uint8_t *>&length, sizeof(length), account) < 0:
            return -1
        at = session.targets.tail
        if ring_append(&session.targets, text, length, account) < 0:
            session.targets.tail -= sizeof(length)
            return -1
    stream.target = <uint32_t>at
    stream.target_bytes = length
    return 0
