"""The session's state machine. Everything that changes its state lives here; call order: _session.pxd.

Theory. The peer's application has received exactly the bytes below some offset, and this side keeps every byte above
the last such offset that it was told (the ack). So a carrier may vanish at any moment: on the next one both sides first
say how far they have received (RESUME, one for each stream), and sending goes on from there. A byte is released only by
an ack that covers it, and accepted only at the expected offset, so none is lost, repeated or reordered.

    state            input that is valid           goes to
    NO_CARRIER       none                          RESUMING by `attach`
    RESUMING         RESUME HEARTBEAT GOODBYE      ACTIVE at the peer's end mark
    ACTIVE           all but HELLO WELCOME RESUME  NO_CARRIER by `carrier_lost`
    CLOSED_FOR_GOOD  none                          nowhere; entered by GOODBYE, `close`, or a fault of the peer

A finished stream is kept, without its rings, until a heartbeat sent after its last frame is echoed: the carrier keeps
order, so the peer has then read that frame, and a resume can no longer ask about the stream. (docs/protocol.md)
"""

cimport cython

from libc.stdint cimport INT64_MAX, int32_t, uint8_t, uint16_t
from libc.string cimport memcmp, memcpy

from mproxy._datagrams cimport datagrams_attach, datagrams_take, datagrams_tidy
from mproxy._frames cimport Frame, ParseResult, encode_header, parser_free, parser_init, parser_next
from mproxy._liveness cimport liveness_check, liveness_deadline, liveness_heard, liveness_init
from mproxy._rest cimport rest_ask, rest_attach, rest_heard, rest_look, rest_spares, rest_take
from mproxy._resume cimport PeerList, resume_settle
from mproxy._ring cimport iovec, ring_used
from mproxy._state cimport (
    SessionState, StreamState, id_here, opened_here, session_note_asked, session_state_claim, session_state_new,
    stream_state_claim,
)
from mproxy._stream cimport Stream, stream_receive, stream_rewind, table_find
from mproxy._streams cimport StreamSet, new_streams
from mproxy._wire cimport (
    HEADER_BYTES, HEARTBEAT_BYTES, MAX_PLACES, MAX_REASON_BYTES, MIN_WINDOW_BYTES, SECRET_BYTES, SESSION_ID_BYTES,
    CloseCode, FrameFlag, FrameType, ResetCode,
)
from mproxy.ground._clock cimport NEVER
from mproxy.ground._stores cimport stores_done
from mproxy.ground._wipe cimport explicit_bzero
from mproxy.ground._wipe import wipe
from mproxy.ground.errors import LocalError


cdef enum:
    FINISHED_FEW = 256             # finished streams that a session may leave behind when memory is short
    FINISHED_MANY = 1024           # finished streams that call for a heartbeat before its time
    FINISHED_MOST = 16384          # finished streams beyond which the peer cannot be honest
    CONTROL_BYTES = 65536          # of the session's own frames waiting: beyond this no heartbeat is added


@cython.final
@cython.no_gc_clear  # whoever has a session may still call it
cdef class Session:
    """One association. `config` is a `mproxy.ground.config.SessionConfig`."""

    def __init__(self, config, *, bint is_server, bytes session_id=b"", bytes secret=b""):
        cdef SessionState *lasting = session_state_new()
        if lasting == NULL:
            raise MemoryError
        lasting.is_server = is_server
        self.begin(config, lasting)
        if session_id:
            self.learn_identity(session_id, secret)
        session_state_claim(lasting)

    cdef begin(self, config, SessionState *lasting):
        """Take the session's state over, and have no carrier."""
        self.lasting = lasting
        self.streams = new_streams(lasting)
        self.transmitter = self.streams.transmitter
        self.is_server = lasting.is_server
        self.secret = b""
        self.window, self.budget = config.window_bytes, config.session_budget_bytes
        self.max_streams = config.max_streams
        liveness_init(&self.life, config.heartbeat_us, config.misses)
        self.rest.wanted_us = 0 if self.is_server else config.idle_heartbeat_us
        self.close_reason, self.reply_to = b"", -1
        self.state = CarrierState.NO_CARRIER if lasting.close_code < 0 else CarrierState.CLOSED_FOR_GOOD

    def __dealloc__(self):
        parser_free(&self.parser)

    # ---- carrier

    def learn_identity(self, bytes session_id, bytes secret):
        """cproxy: take the id and secret that the first WELCOME gave."""
        cdef SessionState *lasting = self.lasting
        if lasting.known:
            raise LocalError("the session has an identity already")
        if len(session_id) != SESSION_ID_BYTES or len(secret) != SECRET_BYTES:
            raise LocalError("a session's id has 16 bytes and its secret has 32")
        memcpy(lasting.session_id, <const char *>session_id, SESSION_ID_BYTES)
        memcpy(lasting.secret, <const char *>secret, SECRET_BYTES)
        stores_done()
        lasting.known = True
        self.secret = secret

    def forget_secret(self):
        """Overwrite the secret, the caller's included: the session is over."""
        wipe(self.secret)
        explicit_bzero(self.lasting.secret, SECRET_BYTES)

    @property
    def session_id(self):
        return self.lasting.session_id[:SESSION_ID_BYTES] if self.lasting.known else b""

    @property
    def epoch(self):
        return self.lasting.epoch

    cpdef attach(self, uint64_t epoch, uint32_t peer_window, uint64_t peer_budget, bytes first, int64_t now):
        """Go on over a new carrier, on which `first` is sent before all else.

        The old carrier must not bring or take bytes any more. Limits are what the peer offered (HELLO or WELCOME).
        """
        if self.state == CarrierState.CLOSED_FOR_GOOD:
            raise LocalError("the session is closed")
        if epoch <= self.lasting.epoch:
            raise LocalError("the epoch of a carrier is higher than those before it")
        if not self.lasting.known:
            raise LocalError("the session has no identity yet")
        self.carrier_lost()
        self.lasting.epoch = epoch
        self.streams.use_carrier(min(self.window, peer_window), min(self.budget, peer_budget))
        parser_init(&self.parser)
        if self.transmitter.add_control(first, len(first)) < 0:
            raise MemoryError
        self.state = CarrierState.RESUMING
        self.received_at = now
        datagrams_attach(&self.transmitter.datagrams, now)
        rest_attach(&self.rest, &self.life, now)
        self.barrier_sent_at, self.reply_to = 0, -1

    cpdef carrier_lost(self):
        """The carrier ended or is given up; streams go on buffering."""
        self.streams.carrier_lost()
        self.input = self.input_end = NULL
        self.current = NULL
        self.comparing = self.life.suspect = self.life.dead = False
        if self.state != CarrierState.CLOSED_FOR_GOOD:
            self.state = CarrierState.NO_CARRIER

    cdef void receive(self, const uint8_t *data, size_t length, int64_t now) noexcept:
        """Pass in what the carrier brought; it must stay where it is until `poll_event` says NOTHING."""
        self.input = data
        self.input_end = data + length
        self.received_at = now
        liveness_heard(&self.life, now)
        if self.streams.finished_list.count > FINISHED_MANY and self.barrier_sent_at == 0:
            self.add_heartbeat(0, now, 0)

    cdef void poll_event(self, SessionEvent *event) noexcept:
        """Parse until there is something the caller must act on; fills `event`."""
        cdef ParseResult result
        event.kind = EventKind.NOTHING
        event.length = 0
        if self.current != NULL:
            self.take(0)
        if self.comparing and self.compare_next(event):
            return
        while self.state != CarrierState.CLOSED_FOR_GOOD and self.state != CarrierState.NO_CARRIER:
            result = parser_next(&self.parser, &self.input, self.input_end)
            if result == ParseResult.NEED_MORE:
                return
            if result == ParseResult.BROKEN:
                self.fail(self.parser.error, self.parser.reason)
            elif result == ParseResult.DATA_PART:
                if self.on_data_part(event):
                    break
            elif self.on_frame(event):
                break
        if self.state == CarrierState.CLOSED_FOR_GOOD and not self.close_told:
            self.tell_closed(event)

    cdef int take(self, uint32_t length) noexcept:
        """The application took the first `length` bytes of the DATA event; the rest is kept for it.

        `length` must be 0 while earlier bytes are kept. -1 when there was no memory: the session is then closed.
        """
        cdef Stream *stream = self.current
        self.current = NULL
        if stream == NULL or stream.state.aborted:
            return 0
        if self.streams.arrived(stream, self.current_data, self.current_left, length, self.current_ends) < 0:
            self.fail(CloseCode.INTERNAL, "out of memory")
            return -1
        return 0

    cdef int poll_transmit(self, size_t most, bint bulk_too, iovec *out) noexcept:
        """Describe what the carrier is to send next, about `most` bytes; 0 iovecs when there is nothing.

        Without `bulk_too` streams that have much to send wait.
        """
        if self.state == CarrierState.NO_CARRIER:
            return 0
        self.echo()
        return self.streams.poll_transmit(most, self.state == CarrierState.ACTIVE, bulk_too, out)

    cdef void echo(self) noexcept:
        """Queue the echo that the peer waits for, if it does."""
        if self.reply_to >= 0:
            self.add_heartbeat(FrameFlag.REPLY, 0, self.reply_to)
            self.reply_to = -1

    cdef void transmitted(self, size_t length) noexcept:
        """The carrier took `length` bytes of what was described last."""
        self.sent_bytes += length
        self.transmitter.sent(length)

    cdef uint64_t moved_bytes(self) noexcept:
        """Bytes from and to applications, and to carriers, ever."""
        return self.lasting.out_bytes + self.lasting.in_bytes + self.sent_bytes

    cpdef bint wants_transmit(self) noexcept:
        """Whether there is something to send on this carrier."""
        if self.state == CarrierState.NO_CARRIER:
            return False
        return self.reply_to >= 0 or self.transmitter.has_work(self.state == CarrierState.ACTIVE)

    # ---- time

    cpdef int64_t deadline(self) noexcept:
        """When `handle_timeout` is to be called next; far in the future without a carrier."""
        if self.state == CarrierState.NO_CARRIER or self.state == CarrierState.CLOSED_FOR_GOOD:
            return NEVER
        return liveness_deadline(&self.life)

    cpdef handle_timeout(self, int64_t now):
        """Send what is due and look at the silence: `suspect` and `dead` may become true."""
        rest_look(&self.rest, &self.life, self.streams, now)
        datagrams_tidy(&self.transmitter.datagrams, False, self.transmitter.account)
        if liveness_check(&self.life, now) and not rest_spares(&self.rest, &self.life, self.streams, now):
            self.probe(now)

    @property
    def suspect(self):
        return self.life.suspect

    @property
    def dead(self):
        return self.life.dead

    cpdef probe(self, int64_t now):
        """Send a heartbeat, and the acks that have waited, now."""
        self.transmitter.acks_now()
        self.add_heartbeat(0, now, 0)
        self.life.heartbeat_at = now + self.life.interval_us
        rest_ask(&self.rest, &self.life, self.streams, now)

    cdef void add_heartbeat(self, int flags, uint64_t seq, uint64_t ack) noexcept:
        """Queue a heartbeat; one that asks for an echo becomes the barrier when none is under way."""
        cdef Frame frame = Frame(FrameType.HEARTBEAT, <uint8_t>flags, 0, HEARTBEAT_BYTES, seq, ack)
        cdef uint8_t data[HEADER_BYTES + HEARTBEAT_BYTES]
        if ring_used(&self.transmitter.control) > CONTROL_BYTES:
            return
        encode_header(data, &frame)
        memcpy(data + HEADER_BYTES, self.lasting.session_id, HEARTBEAT_BYTES)
        if self.transmitter.add_control(data, sizeof(data)) == 0 and flags == 0 and self.barrier_sent_at == 0:
            self.streams.barriers += 1
            self.barrier_sent_at = <int64_t>seq

    # ---- commands

    cdef Stream *open_stream(self, bytes target, void *owner) noexcept:
        """cproxy: start a stream to `target` (HOST:PORT, empty: the default daemon). NULL: too many, or no memory."""
        if self.state == CarrierState.CLOSED_FOR_GOOD or self.streams.open_list.count >= self.max_streams:
            return NULL
        return self.streams.open(target, owner)

    cpdef close(self, int code, str reason):
        """End the session for good; the peer is told if there is a carrier. The caller resets the applications."""
        self.fail(code, reason.encode(errors="replace")[:MAX_REASON_BYTES])
        self.close_told = True

    # ---- frames

    cdef bint on_frame(self, SessionEvent *event) noexcept:
        """Act on a whole frame; true when `event` was filled or the session closed."""
        cdef Frame *frame = &self.parser.frame
        cdef Stream *stream
        if frame.type == FrameType.HEARTBEAT:
            return self.on_heartbeat()
        if frame.type == FrameType.GOODBYE:
            self.state = CarrierState.CLOSED_FOR_GOOD
            self.lasting.close_code = <int>frame.seq if frame.seq <= <int>CloseCode.TWIN else <int>CloseCode.ORDERLY
            self.close_reason = (<const char *>self.parser.payload)[:frame.length]
            self.tell_closed(event)
            event.local = False
            return True
        if frame.type == FrameType.RESUME:
            return self.on_resume(event)
        if frame.type == FrameType.HELLO or frame.type == FrameType.WELCOME:
            return self.fail(CloseCode.STATE_ERROR, "HELLO or WELCOME inside a session")
        if frame.type == FrameType.REST:
            return rest_take(&self.rest, &self.life, self.streams, frame.seq, self.received_at)
        if not FrameType.HELLO <= frame.type <= FrameType.DATAGRAM:
            return False
        if self.state != CarrierState.ACTIVE:
            return self.fail(CloseCode.STATE_ERROR, "stream frame before the end of the RESUME list")
        if frame.type == FrameType.OPEN:
            return self.on_open(event)
        if frame.type == FrameType.RESET:
            return self.on_reset(event)
        if frame.type == FrameType.DATAGRAM:
            return self.on_datagram(frame, self.parser.payload, event)
        if frame.type >= FrameType.LISTEN:
            return self.on_listen(event)
        stream = table_find(&self.streams.table, frame.stream)
        if stream == NULL:
            return self.check_forgotten()
        stream.state.confirmed = True
        if frame.flags & FrameFlag.WANT_ACK and not stream.state.aborted:
            stream.want_ack_at = stream.state.inp.tail
            self.streams.acknowledge(stream)
        return self.on_ack(stream, frame.ack)

    cdef bint check_forgotten(self) noexcept:
        """A frame without bytes may arrive late, for a stream that both sides have finished; never for a new one."""
        cdef uint32_t id = self.parser.frame.stream
        cdef bint ours = opened_here(self.lasting, id)
        if ours and <int32_t>((id_here(self.lasting, id) - self.lasting.last_id) << 1) > 0 or (
                not ours and id > self.lasting.highest_id):
            return self.fail(CloseCode.STREAM_ERROR, "frame for a stream that was never opened")
        return False

    cdef bint on_data_part(self, SessionEvent *event) noexcept:
        cdef Parser *parser = &self.parser
        cdef Frame *frame = &parser.frame
        cdef Stream *stream
        cdef StreamState *state
        cdef uint32_t skip = 0
        cdef int fresh
        cdef bint ends = (frame.flags & FrameFlag.FIN) and parser.remaining == 0
        if self.state != CarrierState.ACTIVE:
            return self.fail(CloseCode.STATE_ERROR, "DATA before the end of the RESUME list")
        if self.streams.unordered:
            return self.fail(CloseCode.STATE_ERROR, "DATA in the ordered stream of a carrier of packets")
        stream = table_find(&self.streams.table, frame.stream)
        if stream == NULL:
            return self.fail(CloseCode.STREAM_ERROR, "DATA for a stream that is not open")
        state = stream.state
        state.confirmed = True
        if parser.part_offset == 0 and self.on_ack(stream, frame.ack):
            return True
        if state.aborted:
            return False
        fresh = stream_receive(state, frame.seq + parser.part_offset, parser.part, self.window, &skip)
        if fresh == -1 or (ends and frame.seq + frame.length < state.inp.tail):
            return self.fail(CloseCode.OFFSET_ERROR, "DATA at an offset that is not expected")
        if fresh == -2 or self.streams.in_held + fresh > (
                self.budget + <uint64_t>self.streams.open_list.count * MIN_WINDOW_BYTES):
            return self.fail(CloseCode.LIMIT_ERROR, "more DATA than the window or the session budget")
        if frame.flags & FrameFlag.WANT_ACK and parser.remaining == 0:
            stream.want_ack_at = frame.seq + frame.length
        if fresh == 0 and (not ends or state.in_ended):
            stream.ack_due = True
            self.streams.revive(stream)
            self.transmitter.ready(stream)
            return False
        self.current = stream
        self.current_data = parser.payload + skip
        self.current_left = <uint32_t>fresh
        self.current_ends = ends
        if state.deaf:
            self.take(0)
            return False
        event.kind = EventKind.DATA
        event.stream = stream
        event.data = self.current_data
        event.length = self.current_left
        event.ends = ends
        return True

    cdef bint on_ack(self, Stream *stream, uint64_t ack) noexcept:
        if self.streams.acked(stream, ack) < 0:
            return self.fail(CloseCode.OFFSET_ERROR, "ack of what was not sent, or going backwards")
        return False

    cdef bint on_open(self, SessionEvent *event) noexcept:
        cdef StreamSet streams = self.streams
        cdef Frame *frame = &self.parser.frame
        cdef Stream *stream
        if not (self.is_server or self.is_served):
            return self.fail(CloseCode.STATE_ERROR, "OPEN from the side that was not asked to listen")
        if opened_here(self.lasting, frame.stream):
            return self.fail(CloseCode.STREAM_ERROR, "OPEN with an id of the side that it came to")
        stream = table_find(&streams.table, frame.stream)
        if stream != NULL and not self.is_server and stream.listed_epoch == self.lasting.epoch:
            return False  # it had come on the former carrier, after the list for this one was made
        if stream != NULL:
            return self.fail(CloseCode.STREAM_ERROR, "OPEN of a stream that is open")
        if streams.open_list.count + streams.finished_list.count > 4 * <uint64_t>self.max_streams + FINISHED_MOST or (
                streams.finished_list.count > FINISHED_FEW and not streams.may_hold(0)):
            return self.fail(CloseCode.LIMIT_ERROR, "far more streams than the limit, or than there is memory for")
        stream = streams.add_stream(frame.stream)
        if stream == NULL:
            return self.fail(CloseCode.INTERNAL, "out of memory")
        stream.state.confirmed = True
        session_note_asked(
            self.lasting, stream.state, self.parser.payload, <uint16_t>frame.length, &streams.storage_bytes)
        stream_state_claim(stream.state, self.lasting)
        if streams.open_list.count > self.max_streams or not streams.may_hold(0):
            streams.abort(stream, ResetCode.STREAM_LIMIT, True)
            return False
        event.kind = EventKind.OPENED
        event.stream = stream
        event.data = self.parser.payload
        event.length = frame.length
        return True

    cdef bint on_listen(self, SessionEvent *event) noexcept:
        """The peer asks to listen somewhere, or to send datagrams, or answers that."""
        cdef Frame *frame = &self.parser.frame
        cdef bint listens = frame.type <= FrameType.LISTENING
        cdef bint asks = frame.type == FrameType.LISTEN or frame.type == FrameType.ASSOCIATE
        cdef bint ends = asks and frame.flags & FrameFlag.END != 0
        if asks != self.is_server or not (asks or self.is_served or not listens):
            return self.fail(CloseCode.STATE_ERROR, "LISTEN or ASSOCIATE, or its answer, from the wrong side")
        if frame.seq > MAX_PLACES or (frame.seq == 0) != ends or ring_used(&self.transmitter.control) > CONTROL_BYTES:
            return self.fail(CloseCode.LIMIT_ERROR, "LISTEN with a number too high, or more of it than can be answered")
        event.kind = EventKind.ASSOCIATE if asks else EventKind.ASSOCIATED
        if listens:
            event.kind = EventKind.LISTEN if asks else EventKind.LISTENING
        event.code = <int>frame.seq
        event.ends = ends if asks else frame.ack != 0
        event.data, event.length = self.parser.payload, frame.length
        return True

    cdef bint on_datagram(self, const Frame *frame, const uint8_t *payload, SessionEvent *event) noexcept:
        """A datagram has come, or a piece of one."""
        cdef Transmitter out = self.transmitter
        cdef int found = datagrams_take(&out.datagrams, frame, payload, &event.data, &event.length, out.account)
        if found < 0:
            return self.fail(CloseCode.FRAME_ERROR, "no datagram has such a piece")
        if found:
            event.kind, event.flow, event.code = EventKind.DATAGRAM, frame.stream, <int>frame.ack
        return found != 0

    cdef bint on_reset(self, SessionEvent *event) noexcept:
        cdef Frame *frame = &self.parser.frame
        cdef Stream *stream = table_find(&self.streams.table, frame.stream)
        if stream == NULL:
            return self.check_forgotten()
        if stream.state.aborted:
            return False
        self.tell_reset(event, stream, reset_code(frame.seq))
        event.data, event.length = self.parser.payload, frame.length
        return event.kind != EventKind.NOTHING

    cdef bint on_heartbeat(self) noexcept:
        cdef Frame *frame = &self.parser.frame
        cdef StreamSet streams = self.streams
        cdef int64_t sample
        if memcmp(self.parser.payload, self.lasting.session_id, HEARTBEAT_BYTES) != 0:
            return self.fail(CloseCode.STATE_ERROR, "HEARTBEAT of another session")
        self.met = True
        if not frame.flags & FrameFlag.REPLY:
            self.reply_to = <int64_t>(frame.seq & INT64_MAX)
            rest_heard(&self.rest, &self.life, self.streams, self.received_at)
            return False
        # A peer that read several heartbeats at once echoes the newest of them.
        if self.barrier_sent_at == 0 or not self.barrier_sent_at <= <int64_t>frame.ack <= self.received_at:
            return False
        sample = self.received_at - <int64_t>frame.ack
        streams.rtt_us = sample if streams.rtt_us < 0 else min(sample, streams.rtt_us + (sample - streams.rtt_us) // 64)
        self.barrier_sent_at = 0
        streams.barrier_passed()
        return False

    # ---- resume

    cdef bint on_resume(self, SessionEvent *event) noexcept:
        """The peer says how far it is with one stream, or that its list is complete."""
        cdef Frame *frame = &self.parser.frame
        cdef Stream *stream
        cdef StreamState *state
        if self.state != CarrierState.RESUMING:
            return self.fail(CloseCode.STATE_ERROR, "RESUME outside of a resume")
        if frame.flags & FrameFlag.END:
            self.comparing = True
            self.listed = PeerList(<uint32_t>frame.seq, <uint32_t>frame.ack)
            self.streams.unlisted = <Stream *>self.streams.open_list.first
            self.streams.resend_bytes = 0
            return self.compare_next(event)
        stream = table_find(&self.streams.table, frame.stream)
        if stream == NULL:
            return False  # finished here, or its OPEN is still to come
        stream.listed_epoch = self.lasting.epoch
        state = stream.state
        state.confirmed = True
        state.open_due = False
        if state.aborted:
            if frame.flags & FrameFlag.DONE:
                state.reset_ours = stream.reset_due = False
            return False
        if frame.flags & FrameFlag.ABORTED:
            self.tell_reset(event, stream, reset_code(frame.seq))
            return event.kind != EventKind.NOTHING
        if not (self.is_server or frame.flags & FrameFlag.DONE) and state.inp.head + state.in_done > 0:
            # A client's list can be older than acks, even the last one, that were lost with the former carrier.
            self.streams.revive(stream)
            stream.ack_due = True
        if frame.ack > frame.seq:
            return self.fail(CloseCode.OFFSET_ERROR, "RESUME acknowledges more than it received")
        if frame.ack > state.out.head + state.out_done and self.on_ack(stream, frame.ack):
            return True
        if stream_rewind(state, frame.seq) < 0:
            return self.fail(CloseCode.OFFSET_ERROR, "RESUME claims bytes that were never sent")
        return False

    cdef bint compare_next(self, SessionEvent *event) noexcept:
        """After the peer's list: settle the streams it did not name, one event at a time, then go ACTIVE."""
        cdef Stream *stream = resume_settle(self.streams, self.lasting, &self.listed)
        while stream != NULL:
            self.tell_reset(event, stream, ResetCode.UNKNOWN_STREAM)
            if event.kind != EventKind.NOTHING:
                return True
            stream = resume_settle(self.streams, self.lasting, &self.listed)
        self.comparing, self.streams.active = False, True
        self.state = CarrierState.ACTIVE
        event.kind = EventKind.RESUMED
        return True

    # ---- ends

    cdef bint fail(self, int code, const char *reason) noexcept:
        """Close the session for good and queue the GOODBYE that says why. Always true."""
        cdef Frame frame
        cdef uint8_t header[HEADER_BYTES]
        if self.state == CarrierState.CLOSED_FOR_GOOD:
            return True
        self.lasting.close_code = code
        self.close_reason = reason
        if self.state != CarrierState.NO_CARRIER:
            frame = Frame(FrameType.GOODBYE, 0, 0, <uint32_t>len(self.close_reason), <uint64_t>code, 0)
            encode_header(header, &frame)
            self.transmitter.add_control(header, HEADER_BYTES)
            self.transmitter.add_control(<const uint8_t *><const char *>self.close_reason, frame.length)
        self.state = CarrierState.CLOSED_FOR_GOOD
        return True

    cdef void tell_closed(self, SessionEvent *event) noexcept:
        self.close_told = True
        event.kind = EventKind.CLOSED
        event.code = self.lasting.close_code
        event.data = <const uint8_t *><const char *>self.close_reason
        event.length = <uint32_t>len(self.close_reason)
        event.local = True

    cdef void tell_reset(self, SessionEvent *event, Stream *stream, int code) noexcept:
        """The peer reset the stream: end it here; an event if it has an application."""
        cdef bint owned = stream.owner != NULL
        self.streams.abort(stream, code, False)
        if owned:
            event.kind = EventKind.RESET
            event.stream = stream
            event.code = code


cdef inline int reset_code(uint64_t seq) noexcept:
    """The peer's reason for a reset, or the plainest one if it is of a later version."""
    return <int>seq if seq <= <int>ResetCode.KILLED else <int>ResetCode.APPLICATION
