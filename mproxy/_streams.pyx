"""The streams of a session, and what their applications do to them.

Flow control is here: how much an application may give (`room`), when it may give again (`poll_space`), when what it
took is acknowledged. So is the life of a stream from `add_stream` to `retire_if_finished` and `forget`. What the
peer may say, and what that does to streams, is in _session.
"""

cimport cython

from libc.stdint cimport uint16_t, uint64_t
from libc.string cimport memcpy

from mproxy._disorder cimport disorder_reach
from mproxy._frames cimport Frame, encode_header
from mproxy._pool cimport pool_charge, pool_redeem, pool_session_bytes
from mproxy._ring cimport (
    MIN_RING_BYTES, iovec, ring_append, ring_drop, ring_free, ring_reach, ring_release, ring_reserve, ring_used,
)
from mproxy._state cimport (
    SessionState, StreamState, id_here, opened_here, session_note_target, session_state_free, session_state_give_up,
    stream_state_claim, stream_state_free, stream_state_new,
)
from mproxy._stream cimport (
    list_streams, restore_order, stream_abort, stream_acked, stream_end_arrived, stream_finished, stream_free,
    stream_mend, stream_new, stream_restore_order, stream_take_ack, table_add, table_clear, table_find, table_remove,
)
from mproxy._transmit cimport SMALL_BYTES, Transmitter
from mproxy._wire cimport (
    HEADER_BYTES, MAX_REASON_BYTES, MAX_WINDOW_BYTES, MIN_WINDOW_BYTES, SERVER_STREAM_BIT, FrameFlag, FrameType,
    ResetCode,
)
from mproxy.ground._list cimport list_append, list_remove
from mproxy.ground._stores cimport stores_done


cdef enum:
    ACK_BYTES = 262144             # most bytes delivered without an ack
    NEAR_US = 10000                # a round trip below this limits the rings
    NEAR_RING_BYTES = 524288       # ring of a bulk stream on loopback
    SEALED_RING_BYTES = 1048576    # the same when the carrier is encrypted: then each end takes longer for what it has
    FAST_PATH_BYTES_US = 1250      # 10 Gbit/s
    LEAST_READ_BYTES = 4096        # a read of the carrier that is worth its system call
    STREAM_BYTES = 640             # of a stream without its rings: its record, its slot, its application's record


@cython.final
@cython.no_gc_clear  # __dealloc__ needs the transmitter
cdef class StreamSet:
    """All streams of one session, and what they hold."""

    def __cinit__(self):
        self.transmitter = Transmitter()
        self.transmitter.account = &self.storage_bytes
        self.rtt_us = -1
        self.send_window = MIN_WINDOW_BYTES  # the peer's limits are not known yet; every peer holds this much

    def __dealloc__(self):
        if self.lasting != NULL:
            session_state_give_up(self.lasting)
        self.transmitter.carrier_lost()
        while self.open_list.first != NULL:
            self.forget(<Stream *>self.open_list.first)
        while self.finished_list.first != NULL:
            self.forget(<Stream *>self.finished_list.first)
        table_clear(&self.table)
        self.transmitter.account = NULL
        if self.lasting != NULL:
            session_state_free(self.lasting)
        pool_redeem(0, self.redeemed_bytes)

    @property
    def out_bytes(self):
        return self.lasting.out_bytes

    @property
    def in_bytes(self):
        return self.lasting.in_bytes

    @property
    def opened(self):
        return self.lasting.opened

    @property
    def open_count(self):
        return self.open_list.count

    # ---- application -> peer

    cdef Stream *open(self, bytes target, void *owner) noexcept:
        """Start a stream to `target`; NULL when there is no memory."""
        cdef SessionState *lasting = self.lasting
        cdef Stream *stream
        lasting.last_id += 1
        while lasting.last_id >> SERVER_STREAM_BIT or lasting.last_id == 0 or (
                table_find(&self.table, id_here(lasting, lasting.last_id)) != NULL):
            lasting.last_id = 1 if lasting.last_id >> SERVER_STREAM_BIT else lasting.last_id + 1
        stream = self.add_stream(id_here(lasting, lasting.last_id))
        if stream == NULL:
            return NULL
        if target and session_note_target(lasting, stream.state, target, <uint16_t>len(target),
                                          &self.storage_bytes) < 0:
            self.forget(stream)
            return NULL
        stream.owner = owner
        stream.state.open_due = True
        stream_state_claim(stream.state, lasting)
        self.transmitter.ready(stream)
        return stream

    cdef uint32_t room(self, Stream *stream, uint32_t want) noexcept:
        """How many bytes (at most `want`) may be read from the application now; its ring has space for them.

        0: none, and `poll_space` will name the stream when there is room again. The ring grows when it is full and the
        carrier is not what holds things up: then the round trip is, and only a larger ring can fill it.
        """
        cdef StreamState *state = stream.state
        cdef uint32_t used = ring_used(&state.out), limit, capacity
        cdef uint64_t share = 0
        if state.aborted:
            return 0
        if self.out_held < self.send_budget:
            share = (self.send_budget - self.out_held) // 2
        limit = <uint32_t>max(<uint64_t>MIN_WINDOW_BYTES, min(<uint64_t>self.send_window, share))
        if used >= limit:
            return self.no_room(stream)
        if ring_free(&state.out) == 0:
            capacity = state.out.capacity
            if capacity == 0:
                capacity = MIN_RING_BYTES
            elif not self.stalled:
                capacity = min(limit, min(capacity * 4, self.useful_bytes()))
            if capacity > state.out.capacity and not self.may_hold(capacity):
                self.starved |= used == 0
                return self.no_room(stream)
            if ring_reserve(&state.out, capacity, &self.storage_bytes) < 0 or ring_free(&state.out) == 0:
                return self.no_room(stream)
        return min(want, min(limit - used, ring_free(&state.out)))

    cdef bint enough_waits(self) noexcept:
        """Whether two streams wait with bulk: then what else there is stays in the kernel until the carrier takes that.

        A copy here would only drop out of the processor's cache before its turn. Without a carrier all is read.
        """
        return self.active and self.transmitter.bulk.first != self.transmitter.bulk.last

    cdef uint32_t turn_bytes(self, Stream *stream, uint32_t most) noexcept:
        """How much of `most` to read from the application in its turn; 0: none, and `poll_space` names it later."""
        if not self.enough_waits():
            return most
        if stream.state.sent == stream.state.out.tail:
            return min(most, <uint32_t>SMALL_BYTES)
        self.space(stream)
        return 0

    cdef bint may_hold(self, size_t more) noexcept:
        """Whether the session may take this much more memory: beyond its promise at most what the process has left.

        So sessions that take all they get share the limit evenly, and as much as each has is free for another.
        """
        self.settle()
        return self.storage_bytes + more <= pool_session_bytes()

    cdef void settle(self) noexcept:
        """Tell the account how much of its promise the session has used; after everything that changes its rings."""
        self.redeemed_bytes = pool_redeem(self.storage_bytes, self.redeemed_bytes)

    cpdef bint relieve(self) noexcept:
        """If there is memory again let starved streams try again, by `poll_space`; true if they may."""
        cdef Stream *stream = <Stream *>self.open_list.first
        if not self.starved or not self.may_hold(MIN_RING_BYTES):
            return False
        self.starved = False
        while stream != NULL:
            if stream.blocked and ring_used(&stream.state.out) == 0:
                stream.blocked = False
                self.space(stream)
            stream = <Stream *>stream.in_all.next
        return True

    cdef size_t receive_room(self) noexcept:
        """Most bytes to read from the carrier now; 0: none, as memory is short and applications hold up earlier bytes.

        A ring may double, so half of what the session may take is read. Without kept bytes a little is always read,
        for acks and heartbeats.
        """
        cdef size_t left
        self.settle()
        left = pool_session_bytes()
        left = (left - self.storage_bytes) // 2 if self.storage_bytes < left else 0
        return left if left > LEAST_READ_BYTES or self.in_held > 0 else LEAST_READ_BYTES

    cdef uint32_t useful_bytes(self) noexcept:
        """The largest ring that the round trip can call for: what a fast path carries in that time, and an ack's delay.

        A larger one would fill, too, but drop out of the processor's cache; with a smaller one the two ends would
        work by turns and not at once.
        """
        cdef uint32_t near = SEALED_RING_BYTES if self.sealed else NEAR_RING_BYTES
        if self.rtt_us < 0 or self.rtt_us > NEAR_US:
            return MAX_WINDOW_BYTES
        return max(near, <uint32_t>self.rtt_us * <uint32_t>FAST_PATH_BYTES_US)

    cdef uint32_t no_room(self, Stream *stream) noexcept:
        """The application waits for an ack. If all is planned already, no DATA frame can ask for one: an ACK does."""
        cdef StreamState *state = stream.state
        if not stream.blocked:
            stream.blocked = True
            if state.sent == state.out.tail:
                stream.ack_due = True
                self.transmitter.ready(stream)
        return 0

    cdef void wrote(self, Stream *stream, uint32_t length) noexcept:
        """`length` bytes of the application are now after `out.tail`, in the space that `room` granted."""
        stream.state.out.tail += length
        self.out_held += length
        self.lasting.out_bytes += length
        self.transmitter.ready(stream)

    cdef void end(self, Stream *stream) noexcept:
        """The application ended its direction."""
        stream.state.out_ended = True
        self.transmitter.ready(stream)

    cdef Stream *poll_space(self) noexcept:
        """Next stream whose application may be read again, or NULL."""
        cdef Stream *stream
        while self.has_space():
            stream = <Stream *>self.with_space.first
            self.leave_space(stream)
            if stream.owner != NULL and not stream.state.aborted:
                return stream
        return NULL

    cdef bint has_space(self) noexcept:
        """Whether `poll_space` would name a stream."""
        return self.with_space.first != NULL and not self.enough_waits()

    cdef void space(self, Stream *stream) noexcept:
        if not stream.has_space:
            stream.has_space = True
            list_append(&self.with_space, stream, &stream.in_space)

    cdef void leave_space(self, Stream *stream) noexcept:
        if stream.has_space:
            stream.has_space = False
            list_remove(&self.with_space, stream, &stream.in_space)

    cdef int acked(self, Stream *stream, uint64_t ack) noexcept:
        """The peer's application has everything below `ack`; -1 when that cannot be."""
        cdef StreamState *state = stream.state
        cdef uint64_t before = state.out.head
        if state.aborted:
            return 0
        if stream_take_ack(state, ack, &self.storage_bytes) < 0:
            return -1
        self.out_held -= state.out.head - before
        if stream.blocked and state.out.head != before:
            stream.blocked = False
            self.space(stream)
        if state.drain_reset and stream_acked(state):
            self.abort(stream, state.reset_code, True)
            return 0
        self.transmitter.ready(stream)
        if stream.owner == NULL:
            self.retire_if_finished(stream)
        return 0

    # ---- peer -> application

    cdef int arrived(self, Stream *stream, const uint8_t *data, uint32_t length, uint32_t taken, bint ends) noexcept:
        """The peer sent `length` bytes more, and with `ends` the end.

        The application has the first `taken` of them, the rest is kept for it; -1 when there is no memory for that.
        """
        cdef StreamState *state = stream.state
        if state.deaf:
            taken = length
        self.lasting.in_bytes += length
        state.inp.tail += taken
        stores_done()
        state.inp.head += taken
        if length > taken:
            if ring_append(&state.inp, data + taken, length - taken, &self.storage_bytes) < 0:
                return -1
            self.in_held += length - taken
        if ends:
            stream_end_arrived(state)
        self.acknowledge(stream)
        return 0

    cdef void handed(self, Stream *stream, uint32_t length) noexcept:
        """The application took `length` of the kept bytes."""
        cdef StreamState *state = stream.state
        cdef uint64_t early_end = state.inp.tail + disorder_reach(stream.disorder, state)
        if early_end > state.inp.tail:
            state.inp.head += length
            ring_reach(&state.inp, early_end, early_end, &self.storage_bytes)
        else:
            ring_release(&state.inp, state.inp.head + length, &self.storage_bytes)
        self.in_held -= length
        self.acknowledge(stream)

    cdef void end_handed(self, Stream *stream) noexcept:
        """The application was told the end of the peer's direction."""
        stream.state.in_done = True
        self.acknowledge(stream)
        self.retire_if_finished(stream)

    cdef void acknowledge(self, Stream *stream) noexcept:
        """The application took bytes or the end: tell the peer, at once if it waits for that, else when convenient."""
        cdef StreamState *state = stream.state
        cdef uint64_t owed = state.inp.head + state.in_done - state.acked
        if owed == 0:
            return
        if state.in_done or owed >= self.ack_bytes or (
                stream.want_ack_at and state.inp.head >= stream.want_ack_at):
            if state.inp.head >= stream.want_ack_at:
                stream.want_ack_at = 0  # else the rest is still to be acknowledged, as asked
            stream.ack_due = True
            self.transmitter.ready(stream)
        else:
            self.transmitter.ack_later(stream)

    # ---- ends

    cdef void reset(self, Stream *stream, int code) noexcept:
        """The application's connection could not be made: end the stream at once."""
        self.abort(stream, code, True)

    cdef void kill(self, Stream *stream, bytes why) noexcept:
        """End the stream at once, because somebody here wants that. It may be freed when nobody owns it.

        The peer is told twice: on this carrier with the words, of which no copy is kept, and on whichever it takes by
        the code, as of every reset.
        """
        cdef Frame frame
        cdef uint8_t data[HEADER_BYTES + MAX_REASON_BYTES]
        if self.active and not stream.state.aborted and not stream.state.open_due:
            frame.type = FrameType.RESET
            frame.flags = 0
            frame.stream = stream.state.id
            frame.length = <uint32_t>min(<int>len(why), <int>MAX_REASON_BYTES)
            frame.seq = <uint64_t>ResetCode.KILLED
            frame.ack = stream.state.acked
            encode_header(data, &frame)
            memcpy(data + HEADER_BYTES, <const char *>why, frame.length)
            self.transmitter.add_control(data, HEADER_BYTES + frame.length)
        self.abort(stream, ResetCode.KILLED, True)

    cdef void deafen(self, Stream *stream) noexcept:
        """The application takes no more. What comes for it is acknowledged as if it had been handed, and dropped."""
        cdef StreamState *state = stream.state
        if state.aborted or state.deaf:
            return
        state.deaf = True
        self.in_held -= ring_used(&state.inp)
        stores_done()
        ring_drop(&state.inp, &self.storage_bytes)
        stores_done()
        state.in_done = state.in_ended
        self.acknowledge(stream)

    cdef void discard(self, Stream *stream, int code) noexcept:
        """The application has vanished.

        What it wrote before, and its end if there was one, still goes to the peer's application; what comes back is
        dropped; then the stream is reset, so that the reset overtakes nothing.
        """
        cdef StreamState *state = stream.state
        if state.aborted:
            return
        if stream_acked(state):
            self.abort(stream, code, True)
            return
        state.reset_code = <uint8_t>code
        stores_done()
        state.drain_reset = True
        self.deafen(stream)
        self.ask_ack(stream)

    cdef void ask_ack(self, Stream *stream) noexcept:
        """For a vanished application: have the peer acknowledge as soon as its own has everything.

        The last DATA frame asks; when it has been planned, an ACK does.
        """
        cdef const StreamState *state = stream.state
        if state.drain_reset and not state.aborted and state.sent == state.out.tail + state.out_ended:
            stream.ack_due = True
            self.transmitter.ready(stream)

    cdef void release(self, Stream *stream) noexcept:
        """The I/O layer no longer needs the stream."""
        stream.owner = NULL
        self.retire_if_finished(stream)

    cdef void abort(self, Stream *stream, int code, bint tell_peer) noexcept:
        """End both directions at once and release the bytes."""
        cdef StreamState *state = stream.state
        if state.aborted:
            return
        stream_abort(state, code, tell_peer)
        stream.reset_due = state.reset_ours
        stream.ack_due = False
        self.out_held -= ring_used(&state.out)
        self.in_held -= ring_used(&state.inp)
        stream_restore_order(stream, &self.early_held, &self.storage_bytes)
        ring_drop(&state.inp, &self.storage_bytes)
        if stream.planned == 0:
            ring_drop(&state.out, &self.storage_bytes)
        self.transmitter.dequeue(stream)
        self.transmitter.ready(stream)
        self.retire_if_finished(stream)

    # ---- the carrier

    cdef void use_carrier(self, uint32_t send_window, uint64_t send_budget) noexcept:
        """A new one, for as much as both ends may hold; streams flow once it is `active`."""
        self.send_window = self.transmitter.peer_window = send_window
        self.send_budget = send_budget
        self.ack_bytes = min(ACK_BYTES, send_window // 4)

    cdef void carrier_lost(self) noexcept:
        """Go on buffering."""
        self.transmitter.carrier_lost()
        if self.unordered:
            restore_order(<Stream *>self.open_list.first, &self.early_held, &self.storage_bytes)
            restore_order(<Stream *>self.finished_list.first, &self.early_held, &self.storage_bytes)
        self.active = self.stalled = self.unordered = False
        self.rtt_us = -1  # nothing is known of the next carrier; until then only the window bounds the rings

    cdef int poll_transmit(self, size_t most, bint streams_too, bint bulk_too, iovec *out) noexcept:
        """`Transmitter.poll`; who has now said the last of it is finished."""
        cdef Transmitter transmitter = self.transmitter
        cdef Stream *stream
        cdef int i, before = transmitter.count - transmitter.first
        cdef int n = transmitter.poll(most, streams_too, bulk_too, out)
        for i in range(transmitter.first + before, transmitter.count):
            stream = transmitter.plans[i].stream
            if stream != NULL and stream.owner == NULL:
                self.retire_if_finished(stream)
        return n

    cdef void barrier_passed(self) noexcept:
        """The heartbeat sent last was echoed: forget the finished streams whose last frame the peer has read by then.

        A stream with a planned frame is never forgotten, whatever the peer claims to have read. Neither is one with a
        frame under way on a carrier that does not keep order: the heartbeat may have overtaken it.
        """
        cdef Stream *stream = <Stream *>self.finished_list.first
        while stream != NULL and stream.retire_after < self.barriers and not stream.planned and (
                stream.disorder == NULL or stream.disorder.under_way == 0):
            self.forget(stream)
            stream = <Stream *>self.finished_list.first

    cpdef bytes resume_list(self):
        """The RESUME frames that tell a peer how far every stream is, including the end mark.

        sproxy sends them after WELCOME, cproxy already after HELLO, while an old carrier may still bring data: then
        they are out of date when they arrive, which is safe, because old offsets only cause repetitions.
        """
        cdef size_t count = self.open_list.count + self.finished_list.count + 1
        cdef bytes result = bytes(count * HEADER_BYTES)
        cdef uint8_t *at = <uint8_t *><char *>result
        cdef Frame frame
        at = list_streams(<Stream *>self.open_list.first, at)
        at = list_streams(<Stream *>self.finished_list.first, at)
        frame.type = FrameType.RESUME
        frame.flags = FrameFlag.END
        frame.stream = frame.length = 0
        frame.seq = self.lasting.last_id
        frame.ack = self.lasting.highest_id if self.lasting.highest_id >> SERVER_STREAM_BIT else 0
        encode_header(at, &frame)
        return result

    cpdef bint owes_reset(self) noexcept:
        """A stream was reset, and the peer may not know: the carrier that took the word for it may be lost."""
        cdef const Stream *stream = <const Stream *>self.finished_list.first
        while stream != NULL:
            if stream.state.aborted and stream.state.reset_ours:
                return True
            stream = <const Stream *>stream.in_all.next
        return False

    # ---- the life of a stream

    cdef Stream *add_stream(self, uint32_t id) noexcept:
        """Begin a stream, whose state is still to be claimed; NULL when there is no memory."""
        cdef StreamState *state = stream_state_new()
        cdef Stream *stream
        if state == NULL:
            return NULL
        state.id = id
        stream = self.enter(state)
        if stream == NULL:
            return NULL
        list_append(&self.open_list, stream, &stream.in_all)
        self.lasting.opened += 1
        if not opened_here(self.lasting, id) and id > self.lasting.highest_id:
            self.lasting.highest_id = id
        return stream

    cdef Stream *enter(self, StreamState *state) noexcept:
        """Make a record for a stream, found by its id, in no list; NULL (and `state` freed) when there is no memory."""
        cdef Stream *stream = stream_new(state)
        if stream == NULL:
            stream_state_free(state)
            return NULL
        if table_add(&self.table, stream) < 0:
            stream_free(stream, NULL)
            return NULL
        self.storage_bytes += STREAM_BYTES
        pool_charge(STREAM_BYTES)
        return stream

    cdef Stream *adopt(self, StreamState *state) noexcept:
        """Go on with a stream of a process that is gone: `state` and the storage of its rings are now the session's.
        NULL when there is no memory.

        If its application is still there set `owner` before anything else happens; if not, `release` it.
        """
        cdef Stream *stream = self.enter(state)
        if stream == NULL:
            return NULL
        self.storage_bytes += state.out.capacity + state.inp.capacity
        stream_mend(state, &self.storage_bytes)
        if state.retired:
            list_append(&self.finished_list, stream, &stream.in_all)
            return stream
        list_append(&self.open_list, stream, &stream.in_all)
        if state.aborted:
            stream.reset_due = state.reset_ours
            return stream
        self.out_held += ring_used(&state.out)
        self.in_held += ring_used(&state.inp)
        stream.ack_due = state.acked < state.inp.head + state.in_done
        self.transmitter.ready(stream)
        return stream

    cdef void retire_if_finished(self, Stream *stream) noexcept:
        if stream.state.retired or not stream_finished(stream):
            return
        if stream.state.unheard:
            self.forget(stream)
            return
        self.leave_open_list(stream)
        stream.state.retired = True
        stream.retire_after = self.barriers
        list_append(&self.finished_list, stream, &stream.in_all)

    cdef void leave_open_list(self, Stream *stream) noexcept:
        if self.unlisted == stream:
            self.unlisted = <Stream *>stream.in_all.next
        list_remove(&self.open_list, stream, &stream.in_all)

    cdef void revive(self, Stream *stream) noexcept:
        """A finished stream has something more to say, and may be forgotten only when the peer has read that."""
        if not stream.state.retired:
            return
        stream.state.retired = False
        list_remove(&self.finished_list, stream, &stream.in_all)
        list_append(&self.open_list, stream, &stream.in_all)

    cdef void forget(self, Stream *stream) noexcept:
        """Free the stream; nothing may refer to it but the session's own lists."""
        self.leave_space(stream)
        self.transmitter.dequeue(stream)
        table_remove(&self.table, stream)
        if stream.state.retired:
            list_remove(&self.finished_list, stream, &stream.in_all)
        else:
            self.leave_open_list(stream)
        stream_free(stream, &self.storage_bytes)
        self.storage_bytes -= STREAM_BYTES
        pool_charge(-STREAM_BYTES)


cdef StreamSet new_streams(SessionState *lasting):
    """Those of a session, none so far, or of its next process; `lasting` is theirs from now on."""
    cdef StreamSet streams = StreamSet()
    streams.lasting = lasting
    streams.transmitter.targets = &lasting.targets
    streams.storage_bytes += lasting.targets.capacity
    return streams
