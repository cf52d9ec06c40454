"""A session's frames on a connection over datagrams. Both directions: _frame_parcels.pxd."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from mproxy._datagrams cimport datagrams_ahead, datagrams_wait
from mproxy._disorder cimport Disorder, disorder_lose
from mproxy._ring cimport iovec, ring_release, ring_used, ring_view
from mproxy._session cimport CarrierState, Session
from mproxy._stream cimport Stream, stream_disorder, table_find
from mproxy._transmit cimport MAX_PLANS, PlannedFrame, Transmitter, view_payload
from mproxy._wire cimport HEADER_BYTES, MAX_PIECE_BYTES, MAX_TARGET_BYTES, CloseCode, FrameType, get64, put64
from mproxy.transport._connection cimport Connection
from mproxy.transport._outflow cimport outflow_room
from mproxy.transport._parcels cimport Parcel, Parcels


# Datagrams of the parcel that is being built, until its packet is sealed: their places in the queue are free at once.
# One for all, as one packet is built at a time.
cdef uint8_t copies[DATAGRAM_BYTES]


cdef class FrameParcels(Parcels):
    """Of a session that was attached to this carrier. Whoever acts on events has `deliver` and `deliver_ordered`."""

    def __cinit__(self):
        self.records = <FrameRecord *>malloc(FIRST_RECORDS * sizeof(FrameRecord))
        if self.records == NULL:
            raise MemoryError
        self.mask = FIRST_RECORDS - 1

    def __init__(self, Session session not None, Connection connection not None):
        self.session = session
        self.connection = connection
        session.streams.unordered = True
        connection.channel.carry(self)

    def __dealloc__(self):
        free(self.records)

    cdef void close(self) noexcept:
        """The carrier is over for the session."""
        self.session = None
        self.connection.channel.carry(None)

    cdef void rest(self) noexcept:
        """Nothing is expected for long: give back what only much traffic needs."""
        if self.next == self.oldest and self.mask >= FIRST_RECORDS:
            self.resize(FIRST_RECORDS)

    # ---- out

    cdef bint prepare(self) noexcept:
        cdef Session session = self.session
        cdef Transmitter transmitter
        cdef iovec parts[2]
        cdef uint32_t length
        cdef int i, n
        if session is None or session.state == CarrierState.NO_CARRIER:
            return False
        transmitter = session.transmitter
        session.echo()
        length = ring_used(&transmitter.control)
        if length > 0:
            length = min(length, self.room_in_order())
        n = ring_view(&transmitter.control, transmitter.control.head, length, parts)
        for i in range(n):
            self.write(<const uint8_t *>parts[i].iov_base, <uint32_t>parts[i].iov_len)
        if length > 0:
            session.sent_bytes += length
            ring_release(&transmitter.control, transmitter.control.head + length, transmitter.account)
            transmitter.control_planned = transmitter.control.head
        if not self.based and ring_used(&transmitter.control) == 0:
            self.based = True
            self.base = self.connection.channel.out.ring.tail
        return self.based and not self.held and session.state == CarrierState.ACTIVE and (
            transmitter.urgent.first != NULL or transmitter.bulk.first != NULL
            or datagrams_wait(&transmitter.datagrams)) and self.room_in_order() >= HEADER_BYTES + MAX_TARGET_BYTES

    cdef uint32_t room_in_order(self) noexcept:
        """How many bytes may be written into the ordered stream now."""
        return outflow_room(&self.connection.channel.out)

    cdef bint write(self, const uint8_t *data, uint32_t length) noexcept:
        """Write into the ordered stream, which has room."""
        cdef iovec parts[2]
        cdef int i, n = self.connection.write_space(length, parts)
        for i in range(n):
            memcpy(parts[i].iov_base, data, parts[i].iov_len)
            data += parts[i].iov_len
            self.connection.wrote(<uint32_t>parts[i].iov_len)
        return n > 0

    cdef void fill(self, uint32_t room, Parcel *parcel) noexcept:
        """Frames of streams in turns, until the packet is full; OPENs and RESETs that come up go into the stream."""
        cdef Session session = self.session
        cdef Transmitter transmitter = session.transmitter
        cdef uint64_t after = self.base, first_record = self.next
        cdef int first, i
        parcel.length = AFTER_BYTES
        parcel.count = 1
        parcel.parts[0].iov_base = self.after
        parcel.parts[0].iov_len = AFTER_BYTES
        self.copied = 0
        if not transmitter.begin_batch():
            parcel.length = 0
            return
        while (transmitter.count + 2 <= MAX_PLANS and self.next - first_record < MOST_FRAMES
                and room >= parcel.length + HEADER_BYTES + LEAST_PAYLOAD
                and self.room_in_order() >= HEADER_BYTES + MAX_TARGET_BYTES):
            first = transmitter.count
            if self.takes_datagram(room - parcel.length - HEADER_BYTES):
                transmitter.frame_bytes = min(room - parcel.length - HEADER_BYTES, DATAGRAM_BYTES - self.copied)
                transmitter.plan_datagram()
                self.add_datagram(&transmitter.plans[first], parcel)
                continue
            if transmitter.urgent.first == NULL and transmitter.bulk.first == NULL:
                break
            if transmitter.urgent.first != NULL and (<Stream *>transmitter.urgent.first).state.open_due:
                # The OPEN shall go with the same packet.
                room -= min(room - parcel.length - HEADER_BYTES - LEAST_PAYLOAD,
                            HEADER_BYTES + <uint32_t>(<Stream *>transmitter.urgent.first).state.target_bytes)
            transmitter.frame_bytes = room - parcel.length - HEADER_BYTES
            transmitter.plan_next_stream(room, True)
            after = max(after, self.add_plans(first, parcel))
        first = transmitter.count
        session.transmitted(transmitter.batch_bytes)
        for i in range(first):
            if transmitter.plans[i].stream != NULL and transmitter.plans[i].stream.owner == NULL:
                session.streams.retire_if_finished(transmitter.plans[i].stream)
        parcel.tag = first_record
        if self.next == first_record:
            parcel.length = 0
            return
        self.records[first_record & self.mask].more = <uint16_t>(self.next - first_record - 1)
        put64(self.after, after)

    cdef uint64_t add_plans(self, int first, Parcel *parcel) noexcept:
        """Take over the plans from `first` on; returns what the peer must have read in order before these frames."""
        cdef Transmitter transmitter = self.session.transmitter
        cdef uint64_t after = 0
        cdef int i, kind
        for i in range(first, transmitter.count):
            kind = transmitter.plans[i].header[0]
            if kind == FrameType.DATA or kind == FrameType.ACK:
                after = max(after, self.add_frame(&transmitter.plans[i], parcel))
            else:
                self.add_ordered(&transmitter.plans[i])
        return after

    cdef uint64_t add_frame(self, PlannedFrame *plan, Parcel *parcel) noexcept:
        """Put a DATA or ACK frame into the parcel, and note what it says."""
        cdef Disorder *disorder = stream_disorder(plan.stream)
        cdef uint64_t end = plan.seq + plan.length + plan.ends
        if disorder == NULL or not self.record(plan.stream.state.id, plan.seq, end if plan.of_ring else plan.seq):
            self.session.fail(CloseCode.INTERNAL, "out of memory")
            return 0
        disorder.under_way += 1
        parcel.parts[parcel.count].iov_base = plan.header
        parcel.parts[parcel.count].iov_len = HEADER_BYTES
        parcel.count += 1
        if plan.length > 0:
            parcel.count += view_payload(plan, parcel.parts + parcel.count)
        parcel.length += HEADER_BYTES + plan.length
        return disorder.opened_at

    cdef bint takes_datagram(self, uint32_t room) noexcept:
        """Whether a datagram is next, and fits into the rest of a packet, or has to begin an empty one in pieces."""
        cdef Transmitter transmitter = self.session.transmitter
        if not transmitter.is_datagram_next(True):
            return False
        room = min(room, DATAGRAM_BYTES - self.copied)
        return transmitter.count == 0 or datagrams_ahead(&transmitter.datagrams) <= min(room, <uint32_t>MAX_PIECE_BYTES)

    cdef void add_datagram(self, PlannedFrame *plan, Parcel *parcel) noexcept:
        """Put a DATAGRAM frame into the parcel. Nobody asks what became of it."""
        cdef iovec parts[2]
        cdef int i, n = ring_view(&self.session.transmitter.datagrams.ring, plan.seq, plan.length, parts)
        if not self.record(0, 0, 0):
            self.session.fail(CloseCode.INTERNAL, "out of memory")
            return
        parcel.parts[parcel.count].iov_base = plan.header
        parcel.parts[parcel.count].iov_len = HEADER_BYTES
        parcel.parts[parcel.count + 1].iov_base = copies + self.copied
        parcel.parts[parcel.count + 1].iov_len = plan.length
        parcel.count += 2
        for i in range(n):
            memcpy(copies + self.copied, parts[i].iov_base, parts[i].iov_len)
            self.copied += <uint32_t>parts[i].iov_len
        parcel.length += HEADER_BYTES + plan.length

    cdef void add_ordered(self, PlannedFrame *plan) noexcept:
        """Write an OPEN or a RESET into the ordered stream."""
        cdef Transmitter transmitter = self.session.transmitter
        cdef Disorder *disorder
        cdef iovec parts[2]
        cdef int i, n = 0
        if plan.length > 0:
            n = ring_view(transmitter.targets, plan.stream.state.target, plan.length, parts)
        self.write(plan.header, HEADER_BYTES)
        for i in range(n):
            self.write(<const uint8_t *>parts[i].iov_base, <uint32_t>parts[i].iov_len)
        disorder = stream_disorder(plan.stream)
        if disorder == NULL:
            self.session.fail(CloseCode.INTERNAL, "out of memory")
        else:
            disorder.opened_at = self.connection.channel.out.ring.tail

    # ---- what became of it

    cdef bint record(self, uint32_t stream, uint64_t seq, uint64_t end) noexcept:
        """Note a frame; False when there is no memory."""
        cdef FrameRecord *entry
        if self.next - self.oldest > self.mask and not self.resize(2 * (self.mask + 1)):
            return False
        entry = &self.records[self.next & self.mask]
        entry.stream = stream
        entry.seq = seq
        entry.end = end
        entry.more = 0
        entry.settled = False
        self.next += 1
        return True

    cdef bint resize(self, uint64_t places) noexcept:
        """Have so many places, a power of two; False when there is no memory."""
        cdef FrameRecord *records = <FrameRecord *>malloc(places * sizeof(FrameRecord))
        cdef uint64_t i
        if records == NULL:
            return False
        for i in range(self.oldest, self.next):
            records[i & (places - 1)] = self.records[i & self.mask]
        free(self.records)
        self.records = records
        self.mask = places - 1
        return True

    cdef void acked(self, uint64_t tag) noexcept:
        self.settle(tag, False)

    cdef bint lost(self, uint64_t tag) noexcept:
        return self.settle(tag, True)

    cdef bint settle(self, uint64_t tag, bint lost) noexcept:
        """It is known what became of a parcel, or assumed; the first to say so counts. False: it was known."""
        cdef FrameRecord *entry
        cdef Stream *stream
        cdef uint64_t number, behind
        if tag < self.oldest or self.session is None or self.records[tag & self.mask].settled:
            return False
        behind = tag + self.records[tag & self.mask].more + 1
        for number in range(tag, behind):
            entry = &self.records[number & self.mask]
            entry.settled = True
            stream = table_find(&self.session.streams.table, entry.stream)
            if stream == NULL or stream.disorder == NULL or stream.disorder.under_way == 0:
                continue  # reset meanwhile
            stream.disorder.under_way -= 1
            if lost:
                self.say_again(stream, entry)
        while self.oldest < self.next and self.records[self.oldest & self.mask].settled:
            self.oldest += 1
        return True

    cdef void say_again(self, Stream *stream, const FrameRecord *entry) noexcept:
        """The frame was lost. Its bytes are sent again, its ack as it is by now."""
        if stream.state.aborted:
            return
        self.session.streams.revive(stream)
        disorder_lose(stream.disorder, stream.state, entry.seq, entry.end)
        stream.ack_due = True
        self.session.transmitter.ready(stream)

    # ---- in

    cdef bint take(self, const uint8_t *data, uint32_t length, int64_t now) noexcept:
        if self.session is None or length < AFTER_BYTES:
            return False
        self.deliver_ordered(now)
        if self.session is None or get64(data) > self.connection.channel.inp.ring.head:
            return False
        return self.deliver(data + AFTER_BYTES, length - AFTER_BYTES, now)

    cdef void deliver_ordered(self, int64_t now) noexcept:
        """Give the session what has come in order, and act on its events."""

    cdef bint deliver(self, const uint8_t *data, uint32_t length, int64_t now) noexcept:
        """Give the session the frames of a parcel, and act on its events. False: it refuses them."""
        return False
