"""DATA and ACK frames out of order. Contract: _parcel_reader.pxd.

What differs from frames in order: a gap is no fault, old acks are not either, a frame for a stream that is not there
belongs to one that has ended (the carrier gives no parcel to the session before the OPEN that it relies on), and the
budget may be exceeded by bytes that have overtaken a RESET: then the parcel comes again.
"""

from libc.stdint cimport uint64_t

from mproxy._disorder cimport Disorder, Early, disorder_join, disorder_reach, disorder_take
from mproxy._frames cimport Frame, frame_of_packet
from mproxy._liveness cimport liveness_heard
from mproxy._session cimport CarrierState, EventKind, Session, SessionEvent
from mproxy._state cimport StreamState
from mproxy._stream cimport Stream, stream_disorder, table_find
from mproxy._streams cimport StreamSet
from mproxy._wire cimport MIN_WINDOW_BYTES, CloseCode, FrameFlag, FrameType


cdef class ParcelReader:
    """Of one session and carrier."""

    def __init__(self, Session session not None):
        self.session = session

    cdef void begin(self, const uint8_t *data, uint32_t length, int64_t now) noexcept:
        """A parcel came; it must stay where it is until `poll_event` says NOTHING."""
        cdef Session session = self.session
        self.at = data
        self.end = data + length
        self.refused = session.state == CarrierState.RESUMING or session.streams.receive_room() < length
        session.received_at = now
        liveness_heard(&session.life, now)

    cdef void poll_event(self, SessionEvent *event) noexcept:
        """Parse until there is something the caller must act on; fills `event`."""
        cdef Session session = self.session
        cdef const uint8_t *payload
        cdef Frame frame
        cdef const char *wrong
        event.kind = EventKind.NOTHING
        event.length = 0
        if session.current != NULL:
            session.take(0)
        while self.at < self.end and session.state == CarrierState.ACTIVE and not self.refused:
            wrong = frame_of_packet(&self.at, self.end, &frame, &payload)
            if wrong != NULL:
                session.fail(CloseCode.FRAME_ERROR, wrong)
            elif frame.type == FrameType.DATA:
                if self.on_data(&frame, payload, event):
                    return
            elif frame.type == FrameType.ACK:
                self.on_ack(&frame)
            elif frame.type == FrameType.DATAGRAM:
                if session.on_datagram(&frame, payload, event):
                    break
            else:
                session.fail(CloseCode.STATE_ERROR, "frame that must keep its order came outside of it")
        if session.state == CarrierState.CLOSED_FOR_GOOD and not session.close_told:
            session.tell_closed(event)

    cdef bint on_ack(self, const Frame *frame) noexcept:
        """The ack of a frame; false when the session is over because of it. An old one says nothing."""
        cdef Session session = self.session
        cdef Stream *stream = table_find(&session.streams.table, frame.stream)
        cdef StreamState *state
        if stream == NULL:
            return True
        state = stream.state
        state.confirmed = True
        if frame.type == FrameType.ACK and frame.flags & FrameFlag.WANT_ACK and not state.aborted:
            stream.want_ack_at = max(stream.want_ack_at, max(frame.seq, state.inp.tail))
            session.streams.acknowledge(stream)
        if frame.ack > state.out.head + state.out_done:
            session.on_ack(stream, frame.ack)
        return session.state == CarrierState.ACTIVE

    cdef bint on_data(self, const Frame *frame, const uint8_t *payload, SessionEvent *event) noexcept:
        """Act on a DATA frame; true when `event` was filled."""
        cdef Session session = self.session
        cdef uint64_t end = frame.seq + frame.length
        cdef bint ends = frame.flags & FrameFlag.FIN != 0
        cdef Stream *stream
        cdef StreamState *state
        cdef int result
        if not self.on_ack(frame):
            return False
        stream = table_find(&session.streams.table, frame.stream)
        if stream == NULL or stream.state.aborted:
            return False
        state = stream.state
        if end < frame.seq or end > state.inp.head + session.window:
            session.fail(CloseCode.LIMIT_ERROR, "more DATA than the window")
            return False
        if frame.flags & FrameFlag.WANT_ACK:
            stream.want_ack_at = max(stream.want_ack_at, end)
        if end <= state.inp.tail and not ends or state.in_ended and end == state.inp.tail:
            stream.ack_due = True  # a repetition: the ack may have been lost
            session.streams.revive(stream)
            session.transmitter.ready(stream)
            return False
        if frame.seq <= state.inp.tail and not state.in_ended and (
                stream.disorder == NULL or not (stream.disorder.early.count > 0 or stream.disorder.ends)):
            result = self.take_in_order(stream, frame, payload)
        else:
            result = self.take_early(stream, frame, payload)
        if result == Early.EARLY_WRONG:
            session.fail(CloseCode.OFFSET_ERROR, "DATA after the end of its direction, or a different end than before")
        self.refused = result == Early.EARLY_NO_ROOM
        if result <= 0:
            return False
        if state.deaf:
            session.take(0)
            return False
        event.kind = EventKind.DATA
        event.stream = stream
        event.data = session.current_data
        event.length = session.current_left
        event.ends = session.current_ends
        return True

    cdef bint fits(self, const Stream *stream, uint64_t end) noexcept:
        """Whether this side may hold the stream's bytes up to `end`, gaps included."""
        cdef StreamSet streams = self.session.streams
        cdef const StreamState *state = stream.state
        cdef uint64_t budget = self.session.budget + <uint64_t>streams.open_list.count * MIN_WINDOW_BYTES
        cdef uint64_t reach = disorder_reach(stream.disorder, state), more = 0
        if end > state.inp.tail + reach:
            more = end - state.inp.tail - reach
        return streams.in_held + streams.early_held + more <= budget and (
            end - state.inp.head <= state.inp.capacity or streams.may_hold(end - state.inp.head))

    cdef int take_in_order(self, Stream *stream, const Frame *frame, const uint8_t *payload) noexcept:
        """Nothing is missing: the application gets the bytes from where they are. Returns 1, or an Early."""
        cdef Session session = self.session
        cdef uint32_t skip = <uint32_t>(stream.state.inp.tail - frame.seq)
        cdef uint64_t end = frame.seq + frame.length
        if end < stream.state.inp.tail:
            return Early.EARLY_WRONG  # a FIN below what has come
        if not self.fits(stream, end):
            return Early.EARLY_NO_ROOM
        session.current = stream
        session.current_data = payload + skip
        session.current_left = frame.length - skip
        session.current_ends = frame.flags & FrameFlag.FIN != 0
        return 1

    cdef int take_early(self, Stream *stream, const Frame *frame, const uint8_t *payload) noexcept:
        """Something is or was missing: the bytes go to their places in the stream's ring.

        Returns 1 when more is in order now than before, 0 when not, or an Early.
        """
        cdef Session session = self.session
        cdef StreamSet streams = session.streams
        cdef StreamState *state = stream.state
        cdef Disorder *disorder = stream_disorder(stream)
        cdef uint64_t before = disorder_reach(disorder, state)
        cdef uint32_t joined
        cdef int result
        if disorder == NULL or not self.fits(stream, frame.seq + frame.length):
            return Early.EARLY_NO_ROOM
        result = disorder_take(disorder, state, frame.seq, payload, frame.length, frame.flags & FrameFlag.FIN != 0,
                               &streams.storage_bytes)
        if result < 0:
            return result
        joined = disorder_join(disorder, state)
        streams.lasting.in_bytes += joined
        streams.in_held += joined if not state.deaf else 0
        streams.early_held += disorder_reach(disorder, state)
        streams.early_held -= before
        session.current_ends = disorder.ends and not state.in_ended and state.inp.tail == disorder.end_at
        if joined == 0 and not session.current_ends:
            return 0
        session.current = stream
        session.current_data = payload
        session.current_left = 0
        return 1
