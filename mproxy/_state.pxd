"""What of a session must outlive its process, and nothing else: plain records without a pointer.

A copy of a SessionState, of the StreamStates of its streams, and of the bytes in their rings is the session: on the
next carrier it goes on exactly where it was (`adopt_session` in _inherit.pxd, `adopt` in _streams.pxd). What a resume
finds out again, or what belongs to a carrier or a process, is not here but in Stream, StreamSet and Session.

Every number has a fixed width, and storage is named by its number in the pool (_pool.pxd). With a keeper the records
are in the arena (mproxy/ground/_arena.pxd), and the next worker finds them there (_inherit.pxd).
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from mproxy._ring cimport Ring
from mproxy._wire cimport SECRET_BYTES, SERVER_STREAM_BIT, SESSION_ID_BYTES
from mproxy.ground._arena cimport record_give_up, record_name


cdef enum:
    FORGOTTEN_TARGET = 0xFFFFFFFF  # sproxy: the stream had a target, and nobody knows which


cdef struct StreamState:
    # application -> carrier.   out.head + out_done <= sent, peak <= out.tail + out_ended
    Ring out              # head: acknowledged by the peer; tail: written by the application
    uint64_t sent         # next offset to plan for this carrier
    uint64_t peak         # every offset below has left on some carrier
    # carrier -> application.   acked <= inp.head + in_done <= inp.tail + in_ended
    Ring inp              # head: handed to the application; tail: received
    uint64_t acked        # last ack put on a carrier
    # identity
    uint32_t id           # never 0
    uint32_t target       # where OPEN's payload is in the session's `targets`; or FORGOTTEN_TARGET
    int32_t fd            # the application's descriptor + 1, from before its first byte to before its closing; 0: none
    uint16_t target_bytes  # its length; 0: the default daemon
    # flags
    uint8_t out_ended     # the application ended its direction: FIN has offset out.tail
    uint8_t out_done      # ... and the peer acknowledged it
    uint8_t in_ended      # FIN received; its offset is inp.tail
    uint8_t in_done       # ... and handed to the application
    uint8_t open_due      # OPEN must still be put on this carrier
    uint8_t confirmed     # the peer has shown that it knows the stream
    uint8_t unheard       # ended before the peer can have heard of it: nothing to remember
    uint8_t aborted       # ended by a reset, ours or the peer's; no byte moves any more
    uint8_t reset_ours    # the reset began on this side: the peer has to be told
    uint8_t reset_code    # a ResetCode
    uint8_t deaf          # the application takes no more: what the peer sends is acknowledged and goes nowhere
    uint8_t drain_reset   # the application vanished: reset once all that it wrote is acknowledged
    uint8_t retired       # in the session's list of finished streams
    uint8_t dialling      # the peer's: `fd` is being connected, or will be: as far as is known nobody has answered
    # what the application's connection carried that is no part of the stream, before its first byte
    uint16_t read_before  # from the application: what it said to have the stream opened
    uint16_t written_before  # to it
    # in the arena
    uint32_t session      # whose it is, by number; 0: the record counts for nothing


cdef struct SessionState:
    uint8_t session_id[SESSION_ID_BYTES]  # random; zeros before the first WELCOME
    uint8_t secret[SECRET_BYTES]  # proves the right to resume
    uint64_t epoch        # of the newest carrier
    # counters
    uint64_t out_bytes    # application bytes taken for the peer
    uint64_t in_bytes     # application bytes received
    uint64_t opened       # streams ever
    # streams
    Ring targets          # payloads of OPENs, each once, after its length (2 bytes); none is released
    uint32_t last_id      # last id given, without SERVER_STREAM_BIT
    uint32_t highest_id   # highest id that the peer has opened
    int32_t close_code    # a CloseCode: why the session is over; -1: it is not
    uint8_t is_server     # sproxy's end
    uint8_t known         # there has been a WELCOME: id and secret are valid
    # in the arena
    uint8_t deaths        # workers that have died in its turn
    uint32_t number       # of its record; 0: that counts for nothing, nor do the streams' of this number


cdef struct ProgramRecord:
    uint32_t current           # the length of what is there, bit 16: which half, above it: of the history behind it
    uint8_t halves[2][2040]    # what a program keeps with a session; the other half is for the next version


cdef struct StreamPlace:  # for whoever goes through all streams; itself it is not kept
    uint32_t session      # a stream of this session,
    uint32_t id           # its id there,
    uint32_t record       # and where it is


cdef int compare_places(const void *one, const void *other) noexcept nogil
cdef StreamState *stream_state_new() noexcept nogil
cdef void stream_state_free(StreamState *state) noexcept nogil
cdef SessionState *session_state_new() noexcept nogil
cdef void session_state_claim(SessionState *state) noexcept nogil
cdef void session_state_free(SessionState *state) noexcept nogil
cdef void session_note_asked(SessionState *session, StreamState *stream, const uint8_t *text, uint16_t length,
                             size_t *account) noexcept nogil
cdef int session_note_target(SessionState *session, StreamState *stream, const uint8_t *text, uint16_t length,
                             size_t *account) noexcept nogil


cdef inline void stream_state_claim(StreamState *state, const SessionState *session) noexcept nogil:
    """It outlives the process from now on, as its session does."""
    record_name(&state.session, session.number)


cdef inline void stream_state_give_up(StreamState *state) noexcept nogil:
    """It ends with the process from now on; so its rings may be emptied."""
    record_give_up(&state.session)


cdef inline void session_state_give_up(SessionState *state) noexcept nogil:
    """It ends with the process from now on, and so do all its streams."""
    record_give_up(&state.number)


cdef inline bint opened_here(const SessionState *session, uint32_t id) noexcept nogil:
    """Whether it is an id of streams that this side opens."""
    return id >> SERVER_STREAM_BIT == session.is_server


cdef inline uint32_t id_here(const SessionState *session, uint32_t number) noexcept nogil:
    """The id of this side's stream of that number, which is below 2^31; and the other way round."""
    return number ^ (<uint32_t>session.is_server << SERVER_STREAM_BIT)
