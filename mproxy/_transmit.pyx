"""What goes on the carrier next. Contract and pipeline: _transmit.pxd.

Order: bytes of the session itself (control) first, then resets, streams with little queued and datagrams in turns, and
bulk streams by turns; a bulk stream gets a turn after every URGENT_RUN_BYTES, so that many small streams cannot starve
it. Resets are early
because the budget counts on it: what the stream held is given to others at once, and their bytes must not arrive before
the peer has released as much.

A planned frame is a promise: the carrier is a byte stream, so a frame whose first byte has left must be finished,
whatever happens to its stream meanwhile. Hence `Stream.planned`; and only what was really sent moves `peak`.
"""

from libc.stdlib cimport free, malloc

from mproxy._datagrams cimport (
    datagrams_ahead, datagrams_carrier_lost, datagrams_plan, datagrams_sent, datagrams_wait, datagrams_waiting,
)
from mproxy._disorder cimport disorder_again, disorder_next
from mproxy._frames cimport Frame, encode_header
from mproxy._ring cimport Ring, iovec, ring_append, ring_drop, ring_init, ring_release, ring_view
from mproxy._state cimport StreamState
from mproxy._stream cimport Queue, stream_unsent
from mproxy._wire cimport HEADER_BYTES, FrameFlag, FrameType
from mproxy.ground._list cimport list_append, list_prepend, list_remove


cdef enum:
    MOST_SPARE = 16  # batches kept for the next session that sends: few sessions are at it at once

cdef uint8_t zeros[BULK_FRAME_BYTES]  # in place of bytes that need no longer be sent
cdef PlannedFrame *spare[MOST_SPARE]  # batches that nobody uses
cdef int spares = 0                   # how many


cdef inline void enqueue(LinkedList *queue, Stream *stream, Queue kind) noexcept nogil:
    stream.queue = kind
    list_append(queue, stream, &stream.in_queue)


cdef inline void leave_queue(LinkedList *queue, Stream *stream) noexcept nogil:
    stream.queue = Queue.NOT_QUEUED
    list_remove(queue, stream, &stream.in_queue)


cdef inline bint owes_frame(Stream *stream) noexcept nogil:
    """Whether there is something to send besides new bytes."""
    return stream.state.open_due or stream.ack_due or disorder_again(stream.disorder, stream.state)


cdef class Transmitter:
    """Send queues and batch of one session.

    Input: `ready`, `ack_later`, `acks_now`, `add_control`, `sent`, `carrier_lost`. Output: `has_work`, `poll`.
    """

    def __cinit__(self):
        ring_init(&self.control, 0)
        self.frame_bytes = BULK_FRAME_BYTES

    def __dealloc__(self):
        self.count = 0
        self.end_batch()
        ring_drop(&self.control, self.account)
        datagrams_carrier_lost(&self.datagrams, self.account)
        ring_drop(&self.datagrams.ring, self.account)

    # ---- input

    cdef void ready(self, Stream *stream) noexcept:
        """Put the stream in the queue that what it has to send calls for, if any."""
        cdef StreamState *state = stream.state
        cdef uint64_t unsent
        if stream.reset_due:
            self.dequeue(stream)
            stream.queue = Queue.URGENT
            list_prepend(&self.urgent, stream, &stream.in_queue)
            return
        if stream.queue == Queue.BULK:
            return
        unsent = 0
        if not state.aborted and state.sent - state.out.head < self.peer_window:
            unsent = stream_unsent(state)
        if stream.queue == Queue.URGENT:
            if unsent > SMALL_BYTES and not owes_frame(stream):
                leave_queue(&self.urgent, stream)
                enqueue(&self.bulk, stream, Queue.BULK)
            return
        if unsent == 0 and not owes_frame(stream):
            return
        if stream.queue == Queue.ACK_LATER:
            leave_queue(&self.later, stream)
        if unsent > SMALL_BYTES:
            enqueue(&self.bulk, stream, Queue.BULK)
        else:
            enqueue(&self.urgent, stream, Queue.URGENT)

    cdef void ack_later(self, Stream *stream) noexcept:
        """An ack is owed, but may wait for a frame that carries it, or for the next heartbeat."""
        if stream.queue == Queue.NOT_QUEUED:
            enqueue(&self.later, stream, Queue.ACK_LATER)

    cdef void acks_now(self) noexcept:
        """Send the acks that have waited."""
        cdef Stream *stream
        while self.later.first != NULL:
            stream = <Stream *>self.later.first
            leave_queue(&self.later, stream)
            stream.ack_due = True
            enqueue(&self.urgent, stream, Queue.URGENT)

    cdef void dequeue(self, Stream *stream) noexcept:
        if stream.queue == Queue.URGENT:
            leave_queue(&self.urgent, stream)
        elif stream.queue == Queue.BULK:
            leave_queue(&self.bulk, stream)
        elif stream.queue == Queue.ACK_LATER:
            leave_queue(&self.later, stream)

    cdef int add_control(self, const uint8_t *data, size_t length) noexcept:
        """Append whole encoded frames of the session itself; -1 when there is no memory."""
        return ring_append(&self.control, data, <uint32_t>length, self.account)

    cdef void sent(self, size_t length) noexcept:
        """The carrier took `length` bytes of what `poll` described last."""
        cdef PlannedFrame *plan
        cdef Stream *stream
        cdef size_t size, payload
        cdef uint64_t reached
        self.batch_bytes -= length
        length += self.first_sent
        while self.first < self.count:
            plan = &self.plans[self.first]
            size = plan.header_bytes + plan.length
            stream = plan.stream
            if stream != NULL and plan.of_ring:
                payload = (length if length < size else size)
                if payload >= HEADER_BYTES:
                    reached = plan.seq + payload - HEADER_BYTES
                    if payload == size:
                        reached += plan.ends
                    if reached > stream.state.peak:
                        stream.state.peak = reached
            if length < size:
                break
            length -= size
            self.first += 1
            if stream == NULL:
                if plan.of_datagram:
                    datagrams_sent(&self.datagrams, plan.seq + plan.length, self.account)
                else:
                    ring_release(&self.control, plan.seq + plan.length, self.account)
                continue
            stream.planned -= 1
            if stream.state.aborted and stream.planned == 0:
                ring_drop(&stream.state.out, self.account)
        self.first_sent = length
        if self.first == self.count:
            self.first = self.count = 0

    cdef void carrier_lost(self) noexcept:
        """Forget the batch and the control bytes: they belonged to the carrier that is gone."""
        cdef Stream *stream
        cdef int i
        for i in range(self.first, self.count):
            stream = self.plans[i].stream
            if stream == NULL:
                continue
            stream.planned -= 1
            if stream.state.aborted and stream.planned == 0:
                ring_drop(&stream.state.out, self.account)
        self.first = self.count = 0
        self.end_batch()
        self.first_sent = self.batch_bytes = 0
        datagrams_carrier_lost(&self.datagrams, self.account)
        ring_drop(&self.control, self.account)
        self.control_planned = self.control.tail
        self.frame_bytes = BULK_FRAME_BYTES

    # ---- the batch

    cdef bint begin_batch(self) noexcept:
        """Have room for plans; False when there is no memory."""
        global spares
        if self.plans == NULL:
            if spares > 0:
                spares -= 1
                self.plans = spare[spares]
            else:
                self.plans = <PlannedFrame *>malloc(MAX_PLANS * sizeof(PlannedFrame))
        return self.plans != NULL

    cdef void end_batch(self) noexcept:
        """Give the room back unless frames are still to be sent: most sessions are at rest."""
        global spares
        if self.plans == NULL or self.count > 0:
            return
        if spares < MOST_SPARE:
            spare[spares] = self.plans
            spares += 1
        else:
            free(self.plans)
        self.plans = NULL

    # ---- output

    cdef bint has_work(self, bint streams_too) noexcept:
        """Whether something waits to be sent."""
        if self.first < self.count or self.control_planned < self.control.tail:
            return True
        return streams_too and (
            self.urgent.first != NULL or self.bulk.first != NULL or datagrams_wait(&self.datagrams))

    cdef bint bulk_waits(self) noexcept:
        """Whether there is much to send."""
        return self.bulk.first != NULL or datagrams_waiting(&self.datagrams) > SMALL_BYTES

    cdef bint is_datagram_next(self, bint bulk_too) noexcept:
        """Whether it is a datagram's turn. Few go with small data by turns, many are bulk, but go before streams of
        bulk until these get their turn."""
        cdef bint many
        if datagrams_ahead(&self.datagrams) == 0 and not datagrams_wait(&self.datagrams):
            return False
        many = datagrams_waiting(&self.datagrams) > SMALL_BYTES
        if many and not bulk_too:
            return False
        if self.urgent.first != NULL and (self.was_datagram or (<Stream *>self.urgent.first).reset_due):
            return False
        return self.bulk.first == NULL or not bulk_too or (
            self.urgent_run < <uint32_t>(DATAGRAM_RUN_BYTES if many else URGENT_RUN_BYTES))

    cdef int poll(self, size_t most, bint streams_too, bint bulk_too, iovec *out) noexcept:
        """Plan frames up to about `most` bytes in all, and describe in `out` (MAX_IOVECS) what is to be sent.

        Returns the number of iovecs. Without `streams_too` only control bytes are planned, without
        `bulk_too` no stream of the bulk queue.
        """
        cdef int i, n = 0
        cdef PlannedFrame *plan
        if not self.begin_batch():
            return 0
        if self.first > 0 and self.count == MAX_PLANS:
            for i in range(self.first, self.count):
                self.plans[i - self.first] = self.plans[i]
            self.count -= self.first
            self.first = 0
        while self.count < MAX_PLANS and self.batch_bytes < most:
            if self.control_planned < self.control.tail:
                self.plan_control()
            elif streams_too and self.is_datagram_next(bulk_too):
                self.plan_datagram()
            elif streams_too and (self.urgent.first != NULL or (bulk_too and self.bulk.first != NULL)):
                self.plan_next_stream(most - self.batch_bytes, bulk_too)
            else:
                break
        if self.count == 0:
            self.end_batch()
            return 0
        for i in range(self.first, self.count):
            plan = &self.plans[i]
            if plan.header_bytes:
                out[n].iov_base = plan.header
                out[n].iov_len = HEADER_BYTES
                n += 1
            if plan.length == 0:
                continue
            if plan.stream == NULL:
                n += ring_view(&self.datagrams.ring if plan.of_datagram else &self.control, plan.seq, plan.length,
                               out + n)
            elif plan.of_ring:
                n += view_payload(plan, out + n)
            else:
                n += ring_view(self.targets, plan.stream.state.target, plan.length, out + n)
        return skip_sent(out, n, self.first_sent)

    cdef void plan_control(self) noexcept:
        cdef PlannedFrame *plan = &self.plans[self.count]
        plan.stream = NULL
        plan.header_bytes = 0
        plan.of_ring = plan.of_datagram = plan.ends = False
        plan.seq = self.control_planned
        plan.length = <uint32_t>(self.control.tail - self.control_planned)
        self.control_planned = self.control.tail
        self.count += 1
        self.batch_bytes += plan.length

    cdef void plan_datagram(self) noexcept:
        """Plan the next one, or a piece of it."""
        cdef PlannedFrame *plan = &self.plans[self.count]
        cdef Frame frame
        self.overtakes += self.bulk.first != NULL and datagrams_waiting(&self.datagrams) <= SMALL_BYTES
        plan.seq = datagrams_plan(&self.datagrams, self.frame_bytes, &frame)
        encode_header(plan.header, &frame)
        plan.header_bytes = HEADER_BYTES
        plan.stream = NULL
        plan.of_ring = plan.ends = False
        plan.of_datagram = self.was_datagram = True
        plan.length = frame.length
        self.note_planned(plan)

    cdef void plan_next_stream(self, size_t room, bint bulk_too) noexcept:
        """Plan a frame or two of the stream whose turn it is."""
        cdef Stream *stream
        self.was_datagram = False
        if self.urgent.first != NULL and (
                self.urgent_run < URGENT_RUN_BYTES or self.bulk.first == NULL or not bulk_too
                or (<Stream *>self.urgent.first).reset_due):
            stream = <Stream *>self.urgent.first
            leave_queue(&self.urgent, stream)
            self.overtakes += self.bulk.first != NULL
            self.plan_stream(stream, SMALL_BYTES)
        else:
            stream = <Stream *>self.bulk.first
            leave_queue(&self.bulk, stream)
            self.plan_stream(stream, min(max(room, <size_t>LEAST_FRAME_BYTES), <size_t>BULK_FRAME_BYTES))
            self.urgent_run = 0
        self.ready(stream)

    cdef void plan_stream(self, Stream *stream, size_t most) noexcept:
        """Plan what the stream owes: OPEN or RESET, then DATA of at most `most` bytes, or a bare ACK."""
        cdef StreamState *state = stream.state
        cdef uint64_t length, allowed, seq
        cdef bint fin
        cdef int flags = 0
        most = min(most, <size_t>self.frame_bytes)
        if state.open_due:
            state.open_due = False
            self.plan_frame(stream, FrameType.OPEN, 0, 0, state.target_bytes)
            if self.count == MAX_PLANS:
                return
        if state.aborted:
            if stream.reset_due:
                self.plan_frame(stream, FrameType.RESET, 0, state.reset_code, 0)
                stream.reset_due = False
            stream.ack_due = False
            return
        if disorder_again(stream.disorder, state):
            length = disorder_next(stream.disorder, state, <uint32_t>most, &seq, &fin)
            if (stream.blocked or state.drain_reset) and seq + length == state.out.tail:
                flags = FrameFlag.WANT_ACK
            self.plan_frame(stream, FrameType.DATA, flags | (FrameFlag.FIN if fin else 0), seq, <uint32_t>length)
            self.resent_bytes += length
            return
        length = allowed = 0
        if state.sent < state.out.tail:
            length = state.out.tail - state.sent
            allowed = state.sent - state.out.head
            allowed = self.peer_window - allowed if allowed < self.peer_window else 0
            if length > allowed:
                length = allowed
            if length > most:
                length = most
        if state.out_ended and state.sent + length == state.out.tail:
            flags = FrameFlag.FIN
        if length > 0 or (flags and state.sent == state.out.tail):
            if (stream.blocked or state.drain_reset) and state.sent + length == state.out.tail:
                flags |= FrameFlag.WANT_ACK
            self.plan_frame(stream, FrameType.DATA, flags, state.sent, <uint32_t>length)
            if state.sent < state.peak:
                self.resent_bytes += min(length, state.peak - state.sent)
            state.sent += length + ((flags & FrameFlag.FIN) != 0)
        elif stream.ack_due:
            if stream.blocked or state.drain_reset:
                flags = FrameFlag.WANT_ACK
            # The frame may arrive before the bytes that it asks about, on a carrier that does not keep order.
            self.plan_frame(stream, FrameType.ACK, flags, state.sent if flags else 0, 0)

    cdef void plan_frame(self, Stream *stream, int type, int flags, uint64_t seq, uint32_t length) noexcept:
        """Append one frame with the newest ack to the batch."""
        cdef StreamState *state = stream.state
        cdef PlannedFrame *plan = &self.plans[self.count]
        cdef Frame frame
        frame.type = <uint8_t>type
        frame.flags = <uint8_t>flags
        frame.stream = state.id
        frame.length = length
        frame.seq = seq
        frame.ack = state.acked = state.inp.head + state.in_done
        stream.ack_due = False
        encode_header(plan.header, &frame)
        plan.header_bytes = HEADER_BYTES
        plan.stream = stream
        plan.of_ring = type == FrameType.DATA
        plan.of_datagram = False
        plan.ends = (flags & FrameFlag.FIN) != 0
        plan.seq = seq
        plan.length = length
        stream.planned += 1
        self.note_planned(plan)

    cdef void note_planned(self, const PlannedFrame *plan) noexcept:
        """The batch has one more frame."""
        self.count += 1
        self.frames += 1
        self.batch_bytes += HEADER_BYTES + plan.length
        self.urgent_run += HEADER_BYTES + plan.length


cdef int view_payload(const PlannedFrame *plan, iovec *out) noexcept:
    """Describe the payload of a planned DATA frame; returns the number of segments (0..3).

    After a resume with an old offset an ack can overtake the repetition that it makes needless: those bytes have left
    the ring. The peer skips them unseen, so anything will do in their place.
    """
    cdef const Ring *ring = &plan.stream.state.out
    cdef uint32_t gone = 0
    cdef int n = 0
    if plan.seq < ring.head and plan.length > 0:
        gone = <uint32_t>min(<uint64_t>plan.length, ring.head - plan.seq)
        out[0].iov_base = zeros
        out[0].iov_len = gone
        n = 1
    return n + ring_view(ring, plan.seq + gone, plan.length - gone, out + n)


cdef int skip_sent(iovec *out, int n, size_t length) noexcept:
    """Drop the first `length` bytes from the iovecs; returns how many are left, moved to the front."""
    cdef int i, first = 0
    while first < n and length >= out[first].iov_len:
        length -= out[first].iov_len
        first += 1
    if first < n:
        out[first].iov_base = <uint8_t *>out[first].iov_base + length
        out[first].iov_len -= length
    if first:
        for i in range(first, n):
            out[i - first] = out[i]
    return n - first
