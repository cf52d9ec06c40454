"""The session: state machine of one cproxy-sproxy association, without I/O and without a clock.

Kinds of method and their order:

* input:    `receive` (bytes of the carrier), then `poll_event` until it says NOTHING, each DATA event answered by
            `take`; `handle_timeout` when `deadline` is reached; `carrier_lost` when the carrier ended.
* commands: `open_stream`, `close`; `attach` puts the session on a new carrier. Of `streams`: `room` and `wrote`, `end`,
            `handed` and `end_handed`, `reset`, `discard`, `release`.
* output:   `poll_space` of `streams` (whose application may be read again), then `poll_transmit` and `transmitted`.
* getters:  everything else.

Times are microseconds of a monotonic clock; sizes are bytes.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from mproxy._frames cimport Frame, Parser
from mproxy._liveness cimport Liveness
from mproxy._rest cimport SessionRest
from mproxy._resume cimport PeerList
from mproxy._ring cimport iovec
from mproxy._state cimport SessionState
from mproxy._stream cimport Stream
from mproxy._streams cimport StreamSet
from mproxy._transmit cimport Transmitter


cpdef enum EventKind:
    NOTHING   # input used up
    OPENED    # the peer opened `stream`; `data` is the target, empty for the default daemon
    DATA      # `data` goes to the stream's application; with `ends` nothing comes after it
    RESET     # the stream was reset; `code` is a ResetCode
    RESUMED   # the peer's list is complete: streams flow on this carrier
    LISTEN    # sproxy: the peer asks to listen at `data`, which has number `code`; with `ends` nowhere else
    LISTENING  # cproxy: about number `code`: it listens at `data`, or, unless `ends`, does not, and `data` says why
    ASSOCIATE  # sproxy: datagrams with number `code` are to go to `data`; with `ends` no others
    ASSOCIATED  # cproxy: about number `code`: they go to `data`, or, unless `ends`, do not, and `data` says why
    DATAGRAM  # `data` is a whole datagram of `flow`, with number `code`
    CLOSED    # the session is over; `code` is a CloseCode, `local` says who found the reason


cpdef enum CarrierState:
    NO_CARRIER  # between carriers: streams go on buffering
    RESUMING    # carrier attached, the peer's list of streams not complete
    ACTIVE      # streams flow
    CLOSED_FOR_GOOD


cdef struct SessionEvent:
    EventKind kind        # what happened
    Stream *stream        # OPENED, DATA, RESET
    const uint8_t *data   # DATA, OPENED, RESET and CLOSED (reason text): valid until the next call
    uint32_t length       # bytes at `data`
    bint ends             # DATA: the direction ends after these bytes; LISTEN, LISTENING, ASSOCIATE, ASSOCIATED
    int code              # RESET, CLOSED, LISTEN, LISTENING, ASSOCIATE, ASSOCIATED, DATAGRAM
    uint32_t flow         # DATAGRAM
    bint local            # CLOSED: this side found the reason


cdef class Session:
    cdef readonly StreamSet streams        # its streams, and what applications do to them
    cdef Transmitter transmitter           # of `streams`; the session's own frames go through it, too
    # identity
    cdef SessionState *lasting             # what of it must outlive the process; freed with `streams`
    cdef readonly bint is_server           # sproxy's end
    cdef public bint is_served             # cproxy: sproxy may open streams, for it may have been asked to listen
    cdef readonly bytes secret             # proves the right to resume; empty before the first WELCOME
    # limits
    cdef readonly uint32_t window          # what this side holds for one stream, each direction
    cdef readonly uint64_t budget          # what this side holds for all streams, each direction
    cdef readonly uint32_t max_streams     # open at once
    # carrier
    cdef readonly CarrierState state       # between carriers, resuming, active or over
    cdef Parser parser                     # of this carrier's input
    cdef const uint8_t *input              # not yet parsed
    cdef const uint8_t *input_end          # end of it
    cdef Stream *current                   # stream of the last DATA event
    cdef const uint8_t *current_data       # its bytes not yet taken or kept
    cdef uint32_t current_left             # number of those
    cdef bint current_ends                 # the direction ends after them
    cdef bint comparing                    # the peer's list is being compared with ours
    cdef PeerList listed                   # what it covers
    cdef readonly bint met                 # the peer has named the session: the WELCOME of a new one has arrived
    cdef bytes close_reason                # why the session ended, in words
    cdef bint close_told                   # the CLOSED event was given
    # time
    cdef Liveness life                     # how long the peer has been silent
    cdef SessionRest rest                  # whether heartbeats may go less often
    cdef readonly int64_t received_at      # when the peer's last byte arrived
    cdef int64_t barrier_sent_at           # timestamp of the unanswered barrier; 0: none
    cdef int64_t reply_to                  # timestamp to echo; -1: none
    # counters
    cdef uint64_t sent_bytes               # bytes that carriers took

    cdef begin(self, config, SessionState *lasting)
    # carrier
    cpdef attach(self, uint64_t epoch, uint32_t peer_window, uint64_t peer_budget, bytes first, int64_t now)
    cpdef carrier_lost(self)
    cdef void receive(self, const uint8_t *data, size_t length, int64_t now) noexcept
    cdef void poll_event(self, SessionEvent *event) noexcept
    cdef int take(self, uint32_t length) noexcept
    cdef int poll_transmit(self, size_t most, bint bulk_too, iovec *out) noexcept
    cdef void transmitted(self, size_t length) noexcept
    cdef void echo(self) noexcept
    cdef uint64_t moved_bytes(self) noexcept
    cpdef bint wants_transmit(self) noexcept
    # time
    cpdef int64_t deadline(self) noexcept
    cpdef handle_timeout(self, int64_t now)
    cpdef probe(self, int64_t now)
    # streams
    cdef Stream *open_stream(self, bytes target, void *owner) noexcept
    cpdef close(self, int code, str reason)

    # inner
    cdef bint on_frame(self, SessionEvent *event) noexcept
    cdef bint on_data_part(self, SessionEvent *event) noexcept
    cdef bint on_resume(self, SessionEvent *event) noexcept
    cdef bint on_open(self, SessionEvent *event) noexcept
    cdef bint on_reset(self, SessionEvent *event) noexcept
    cdef bint on_listen(self, SessionEvent *event) noexcept
    cdef bint on_datagram(self, const Frame *frame, const uint8_t *payload, SessionEvent *event) noexcept
    cdef bint on_heartbeat(self) noexcept
    cdef bint check_forgotten(self) noexcept
    cdef bint on_ack(self, Stream *stream, uint64_t ack) noexcept
    cdef bint compare_next(self, SessionEvent *event) noexcept
    cdef bint fail(self, int code, const char *reason) noexcept
    cdef void tell_closed(self, SessionEvent *event) noexcept
    cdef void tell_reset(self, SessionEvent *event, Stream *stream, int code) noexcept
    cdef void add_heartbeat(self, int flags, uint64_t seq, uint64_t ack) noexcept
