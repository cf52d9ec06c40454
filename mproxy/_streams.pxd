"""The streams of a session, and what their applications do to them: what a Session has as `streams`.

Streams are named by pointer; the I/O layer holds one from OPENED or `open_stream` on until it calls `release`. Kinds of
method and their order are those of the session (_session.pxd), which calls what is under "the peer" and "the carrier".
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from mproxy._ring cimport iovec
from mproxy._state cimport SessionState, StreamState
from mproxy._stream cimport Stream, StreamTable
from mproxy._transmit cimport Transmitter
from mproxy.ground._list cimport LinkedList


cdef class StreamSet:
    cdef SessionState *lasting             # what of the session must outlive the process; freed with its streams
    # limits and what is known of the path
    cdef uint32_t ack_bytes                # delivered without an ack that call for a bare ACK; from the smaller window
    cdef uint32_t send_window              # the smaller of our window and the peer's
    cdef uint64_t send_budget              # the smaller of our budget and the peer's
    cdef readonly int64_t rtt_us           # shortest recent round trip: more is our queue; -1 before the first echo
    cdef bint active                       # there is a carrier for streams
    cdef public bint sealed                # the carrier is encrypted
    cdef public bint unordered             # the carrier does not keep the order of DATA and ACK frames
    cdef public bint stalled               # the carrier did not take all it was offered
    # streams
    cdef Transmitter transmitter           # send queues, and the batch on its way to the carrier
    cdef StreamTable table                 # by id
    cdef LinkedList open_list              # not finished, oldest first
    cdef LinkedList finished_list          # finished, kept until the peer certainly knows
    cdef LinkedList with_space             # those whose applications may be read again
    cdef Stream *unlisted                  # after the end mark: next stream to compare with the peer's list
    cdef uint64_t barriers                 # barriers sent, ever
    # accounts
    cdef readonly uint64_t out_held        # bytes in the streams' `out` rings
    cdef readonly uint64_t in_held         # bytes in the streams' `inp` rings
    cdef readonly uint64_t early_held      # offsets from what each `inp` ring holds to the last byte that came early
    cdef readonly uint64_t resend_bytes    # bytes sent before that the last resume found missing
    cdef readonly size_t storage_bytes     # memory of all its rings and records
    cdef size_t redeemed_bytes             # the part of `storage_bytes` that its promise covers, as the account knows
    cdef readonly bint starved             # for want of memory a stream that holds nothing was refused room

    # application -> peer
    cdef Stream *open(self, bytes target, void *owner) noexcept
    cdef uint32_t turn_bytes(self, Stream *stream, uint32_t most) noexcept
    cdef uint32_t room(self, Stream *stream, uint32_t want) noexcept
    cdef void wrote(self, Stream *stream, uint32_t length) noexcept
    cdef void end(self, Stream *stream) noexcept
    cdef Stream *poll_space(self) noexcept
    cdef bint has_space(self) noexcept
    # peer -> application
    cdef void handed(self, Stream *stream, uint32_t length) noexcept
    cdef void end_handed(self, Stream *stream) noexcept
    # ends
    cdef void reset(self, Stream *stream, int code) noexcept
    cdef void kill(self, Stream *stream, bytes why) noexcept
    cdef void deafen(self, Stream *stream) noexcept
    cdef void discard(self, Stream *stream, int code) noexcept
    cdef void release(self, Stream *stream) noexcept
    # memory
    cdef bint may_hold(self, size_t more) noexcept
    cdef void settle(self) noexcept
    cpdef bint relieve(self) noexcept
    cdef size_t receive_room(self) noexcept
    # the peer
    cdef Stream *add_stream(self, uint32_t id) noexcept
    cdef int acked(self, Stream *stream, uint64_t ack) noexcept
    cdef int arrived(self, Stream *stream, const uint8_t *data, uint32_t length, uint32_t taken, bint ends) noexcept
    cdef void acknowledge(self, Stream *stream) noexcept
    cdef void abort(self, Stream *stream, int code, bint tell_peer) noexcept
    cdef void revive(self, Stream *stream) noexcept
    # the carrier
    cdef void use_carrier(self, uint32_t send_window, uint64_t send_budget) noexcept
    cdef void carrier_lost(self) noexcept
    cdef int poll_transmit(self, size_t most, bint streams_too, bint bulk_too, iovec *out) noexcept
    cdef void barrier_passed(self) noexcept
    cpdef bytes resume_list(self)
    cpdef bint owes_reset(self) noexcept
    # another process
    cdef Stream *adopt(self, StreamState *state) noexcept

    # inner
    cdef bint enough_waits(self) noexcept
    cdef uint32_t useful_bytes(self) noexcept
    cdef uint32_t no_room(self, Stream *stream) noexcept
    cdef void space(self, Stream *stream) noexcept
    cdef void leave_space(self, Stream *stream) noexcept
    cdef void ask_ack(self, Stream *stream) noexcept
    cdef Stream *enter(self, StreamState *state) noexcept
    cdef void retire_if_finished(self, Stream *stream) noexcept  # may free the stream
    cdef void leave_open_list(self, Stream *stream) noexcept
    cdef void forget(self, Stream *stream) noexcept


cdef StreamSet new_streams(SessionState *lasting)
