"""DATA packets; both lives of a byte: _channel.pxd."""

cimport cython

from libc.stdint cimport uint16_t
from libc.string cimport memset

from mproxy._ring cimport ring_view
from mproxy._wire cimport get16, get64, put16, put32
from mproxy.ground._clock cimport NEVER
from mproxy.transport._acks cimport (
    AckInfo, acks_answer, acks_free, acks_init, acks_is_new, acks_note, acks_owe,
    acks_parse, acks_sent, acks_want, acks_write,
)
from mproxy.transport._bbr import Bbr
from mproxy.transport._congestion import Fixed
from mproxy.transport._cubic import Cubic
from mproxy.transport._inflow cimport (
    UNKNOWN_END, inflow_allows, inflow_complete, inflow_copy, inflow_free, inflow_init,
    inflow_place, inflow_take, inflow_tidy, inflow_wanted,
)
from mproxy.transport._mtu cimport (
    BLACK_HOLE_PACKETS, PROBE_TRIES, mtu_acked, mtu_black_hole, mtu_init, mtu_lost, mtu_probe,
)
from mproxy.transport._outflow cimport (
    Chunk, outflow_acked, outflow_cut, outflow_end, outflow_free, outflow_has, outflow_init, outflow_pick,
    outflow_tidy, outflow_took,
)
from mproxy.transport._pacer cimport RUN_BYTES, pacer_fill, pacer_ready_at
from mproxy.transport._parcels cimport MOST_PARCEL_PARTS, PARCEL_HEADER_BYTES, Parcel, Parcels
from mproxy.transport._packet cimport (
    BASE_PACKET_BYTES, CRC_BYTES, PACKET_HEADER_BYTES, SMALL_PACKET_BYTES, ControlType, EndCode, PacketFlag, PacketType,
    crc32c, crc_seal, get_header, put_header,
)
from mproxy.transport._recovery cimport PROBES, Recovery
from mproxy.transport._rtt cimport rtt_timeout
from mproxy.transport._veil cimport VEILED_LEAST, veil
from mproxy.transport._sent cimport SENT_CREDIT, SENT_DATA, SENT_PARCEL, SENT_PROBE, SENT_TRIAL, sent_rest


cdef enum:
    ASK_PARTS = 8        # acks in which a window is acknowledged; a small window has one for every second packet
    MOST_UNASKED = 32    # packets without asking for an ack
    PERSISTENT_TRIES = 3  # timeouts in a row after which the path counts as changed
    CONTROL_ROOM = 256   # bytes of a packet that control messages may take when it also carries data
    LITTLE_RING_BYTES = 16384  # empty storage up to this size is given back at the end of a turn
    CALM_PACKETS = 8     # no more than these under way
    CALM_TURNS = 64      # so often: what is larger is given back, too
    PING_FLAG = 0x100    # of a packet that wants an ack but carries nothing to be sent again


cdef Parcel _parcel  # that of the packet being built: one at a time, whoever's it is


@cython.final
cdef class Channel:
    """One end. `config` is a DatagramConfig."""

    def __cinit__(self, config):
        cdef uint32_t most = config.max_window_bytes
        outflow_init(&self.out, most)
        inflow_init(&self.inp, most)
        acks_init(&self.acks, 0, config.ack_delay_us, False)
        crc_seal(&self.sending)
        crc_seal(&self.receiving)
        self.recovery = Recovery()
        if config.congestion == "fixed":
            self.congestion = Fixed(BASE_PACKET_BYTES, config.window)
        else:
            self.congestion = (Bbr if config.congestion == "bbr" else Cubic)(BASE_PACKET_BYTES)
        mtu_init(&self.mtu, BASE_PACKET_BYTES, config.max_packet_bytes, 0)
        self.pace_at = NEVER
        self.parcel = &_parcel

    def __dealloc__(self):
        outflow_free(&self.out)
        inflow_free(&self.inp)
        acks_free(&self.acks)

    cdef int begin(self, uint64_t first_out, uint64_t first_in, bint go_back, int64_t now) noexcept:
        """The set-up is over: packets after these numbers follow. -1: no memory."""
        self.go_back = self.acks.in_order = go_back
        self.acks.floor = first_in + 1
        self.acks.largest = first_in
        self.pacer.filled_at = now
        return self.recovery.start(first_out + 1, &self.out, go_back)

    cdef void carry(self, Parcels parcels) noexcept:
        """Carry these from now on; None: no more."""
        self.parcels = self.recovery.parcels = parcels
        self.parcels_wait = False

    cdef inline bint has_more(self) noexcept:
        """Whether anything is to be sent besides control messages."""
        return self.parcels_wait or outflow_has(&self.out)

    # ---- in

    cdef Taken take(self, uint8_t *packet, uint32_t length, int64_t now) noexcept:
        """Take a DATA packet for this connection; packet memory is written to."""
        cdef Header header
        cdef iovec parts[4]
        cdef int count
        cdef uint32_t control_end
        cdef Taken result
        self.eliciting = self.answered = self.challenged = self.responded = False
        self.close = self.carried = NULL
        if self.receiving.veils and length >= VEILED_LEAST:
            veil(self.receiving.veil_key, packet, length)
        get_header(packet, &header)
        control_end = PACKET_HEADER_BYTES + header.control_bytes
        if control_end + self.receiving.trailer_bytes > length:
            self.corrupt += 1
            return Taken.CORRUPT
        if not acks_is_new(&self.acks, header.number):
            self.repeated += 1
            return Taken.REPEATED
        count = self.open_parts(&header, packet, length, parts)
        if self.receiving.open(self.receiving.context, header.number, packet, PACKET_HEADER_BYTES,
                               packet + PACKET_HEADER_BYTES, length - PACKET_HEADER_BYTES, parts, count) < 0:
            self.corrupt += 1
            if self.go_back and self.inp.end == UNKNOWN_END:
                acks_owe(&self.acks)
            return Taken.CORRUPT
        result = self.take_data(&header, packet + control_end,
                                length - self.receiving.trailer_bytes - control_end, count > 1)
        if result != Taken.ACCEPTED:
            return result
        result = self.take_control(packet + PACKET_HEADER_BYTES, packet + control_end, now)
        if result != Taken.ACCEPTED:
            return result
        if self.carried != NULL and (
                self.parcels is None or not self.parcels.take(self.carried, self.carried_bytes, now)):
            return Taken.NO_ROOM
        self.newest = header.number > self.acks.largest
        self.came_to = header.destination
        count = acks_note(&self.acks, header.number, now)
        if count < 0:
            return Taken.NO_ROOM
        if self.eliciting:
            if self.go_back:
                acks_answer(&self.acks, header.number, control_end + self.receiving.trailer_bytes == length)
            acks_want(&self.acks, count == 0, header.flags & (PacketFlag.WANT_ACK | PacketFlag.FIN), now)
        self.in_packets += 1
        self.in_bytes += length
        return Taken.ACCEPTED

    cdef int open_parts(self, const Header *header, uint8_t *packet, uint32_t length, iovec *parts) noexcept:
        """Decide where to open the packet: control in place, data in the ring if its place there is certain to be free.

        A forged packet may leave garbage in ring memory that holds nothing yet; it still holds nothing afterwards.
        """
        cdef uint32_t data_bytes = length - PACKET_HEADER_BYTES - header.control_bytes - self.receiving.trailer_bytes
        cdef int count = 0
        parts[0].iov_base = packet + PACKET_HEADER_BYTES
        parts[0].iov_len = header.control_bytes
        if data_bytes > 0 and inflow_allows(&self.inp, header.offset, data_bytes, header.flags & PacketFlag.FIN) \
                and (not self.go_back or header.offset == self.inp.arrived):
            count = inflow_place(&self.inp, header.offset, data_bytes, parts + 1)
        if count <= 0:
            parts[0].iov_len += data_bytes
            return 1
        return 1 + count

    cdef Taken take_data(self, const Header *header, const uint8_t *data, uint32_t length, bint placed) noexcept:
        """Bytes of the stream: `placed` in the ring already, or at `data`."""
        cdef bint fin = header.flags & PacketFlag.FIN
        if length == 0 and not fin:
            return Taken.ACCEPTED
        if not inflow_allows(&self.inp, header.offset, length, fin):
            return Taken.WRONG
        self.eliciting = True
        if self.go_back and header.offset != self.inp.arrived:
            self.discarded += 1
            acks_owe(&self.acks)
            return Taken.ACCEPTED
        if length > 0 and not placed and inflow_copy(&self.inp, header.offset, data, length) < 0:
            return Taken.NO_ROOM
        if inflow_take(&self.inp, header.offset, length, fin) < 0:
            return Taken.NO_ROOM
        if header.flags & PacketFlag.WANT_CREDIT:
            inflow_wanted(&self.inp)
        return Taken.ACCEPTED

    cdef Taken take_control(self, const uint8_t *p, const uint8_t *end, int64_t now) noexcept:
        """The control messages of an authentic packet."""
        cdef int length
        while p < end:
            if p[0] == ControlType.PADDING:
                length = 1
            elif p[0] == ControlType.PING:
                length = 1
                self.eliciting = True
            elif p[0] == (ControlType.ACK_NEXT if self.go_back else ControlType.ACK_RANGES):
                length = self.take_ack(p, end, now)
                if length < 0:
                    return Taken.WRONG
            elif p[0] == ControlType.PATH_CHALLENGE or p[0] == ControlType.PATH_RESPONSE:
                length = 9
                if end - p < length:
                    return Taken.WRONG
                self.eliciting = True
                if p[0] == ControlType.PATH_CHALLENGE:
                    self.challenged = True
                    self.challenge = get64(p + 1)
                else:
                    self.responded = True
                    self.response = get64(p + 1)
            elif p[0] == ControlType.CLOSE and end - p >= 4 and end - p >= 4 + p[3]:
                length = 4 + p[3]
                if self.take_close(p + 1) != Taken.ACCEPTED:
                    return Taken.WRONG
            elif p[0] == ControlType.PARCEL and end - p > PARCEL_HEADER_BYTES and (
                    end - p == PARCEL_HEADER_BYTES + get16(p + 1)):
                length = <int>(end - p)
                self.eliciting = True
                self.carried = p + PARCEL_HEADER_BYTES
                self.carried_bytes = get16(p + 1)
            else:
                return Taken.WRONG
            p += length
        return Taken.ACCEPTED

    cdef Taken take_close(self, const uint8_t *p) noexcept:
        """The peer has everything, or gives up; WRONG when it cannot have everything."""
        if get16(p) != EndCode.DONE:
            if self.close == NULL:
                self.close = p
            return Taken.ACCEPTED
        if not inflow_complete(&self.inp) or not self.out.finished or self.out.peak < outflow_end(&self.out):
            return Taken.WRONG
        outflow_acked(&self.out, self.out.acked_to, outflow_end(&self.out))
        self.peer_done = True
        return Taken.ACCEPTED

    cdef int take_ack(self, const uint8_t *p, const uint8_t *end, int64_t now) noexcept:
        """An ack; returns its length, -1: the peer lies or it is malformed."""
        cdef AckInfo info
        cdef int length = acks_parse(p, end, &info), more
        if length < 0:
            return -1
        more = self.recovery.on_ack(&info, end, self.peer_delay_us, now)
        if more < 0:
            return -1
        if info.credit > self.out.limit:
            self.out.limit = info.credit
        if self.recovery.any_acked:
            self.answered = True
            self.probes = 0
        self.after_acks(now)
        return length + more

    cdef void after_acks(self, int64_t now) noexcept:
        """Tell the controller and the search for the packet size what an ack or a timer has settled."""
        cdef Recovery recovery = self.recovery
        cdef uint64_t lost
        if recovery.acked_flags & SENT_PROBE:
            mtu_acked(&self.mtu, recovery.acked_probe, now)
            self.congestion.on_packet_size(self.mtu.current)
        if recovery.lost_flags & SENT_PROBE:
            lost = 30 * recovery.lost_packets // (recovery.sent_packets + 1)
            self.mtu.most_tries = PROBE_TRIES + <int>min(lost, <uint64_t>12)
            mtu_lost(&self.mtu, recovery.lost_probe, now)
        if recovery.lost_flags & SENT_CREDIT:
            self.credit_due = True
        if recovery.large_lost >= BLACK_HOLE_PACKETS and 0 < recovery.largest_size <= self.mtu.floor \
                and self.mtu.current > self.mtu.floor:
            mtu_black_hole(&self.mtu, now)
            recovery.large_lost = 0
            self.congestion.on_packet_size(self.mtu.current)
        recovery.floor = self.mtu.floor
        if recovery.sample.acked_bytes > 0 or recovery.sample.lost_bytes > 0:
            recovery.sample.smoothed_rtt = recovery.rtt.smoothed
            recovery.sample.delivered = recovery.delivered
            recovery.sample.in_flight = recovery.in_flight
            recovery.sample.limited = not self.starved
            recovery.sample.packet_bytes = self.mtu.current
            self.congestion.on_ack(&recovery.sample)
        if recovery.spurious:
            self.congestion.on_spurious(now)

    # ---- another path

    cdef uint64_t say_again(self, uint64_t low, uint64_t high, uint32_t most, int64_t before) noexcept:
        """Send again what packets low..high-1 carried that were sent before that time and are still under way."""
        cdef uint64_t next_number = self.recovery.say_again(low, high, most, before)
        if self.parcels is not None:
            self.parcels_wait = self.parcels.prepare()
        return next_number

    cdef void leave_path(self, uint64_t trial_from, int64_t now) noexcept:
        """The peer has moved; packets of the trial that began with this number went to where it is."""
        self.recovery.leave_path(trial_from, now)
        if self.recovery.lost_flags & SENT_CREDIT:
            self.credit_due = True

    cdef void hurry(self, int64_t now) noexcept:
        """The network is another one: send again at once what waits for its ack longer than a round trip."""
        self.recovery.tries = 0
        self.repeat_oldest(now - self.recovery.time_threshold())

    cdef void repeat_oldest(self, int64_t before) noexcept:
        """Send again, in probes, the oldest of what was sent before that time and waits for its ack."""
        self.probes = max(self.probes, PROBES)
        self.say_again(self.recovery.sent.base, self.recovery.sent.next, PROBES * BASE_PACKET_BYTES, before)

    cdef void woken(self, int64_t now) noexcept:
        """The peer is heard after timeouts in vain: the path is back. Do not wait for the next one, and not for the
        round trip that it takes to learn what was lost meanwhile."""
        self.probes = max(self.probes, 1)
        if now - self.woken_at > self.recovery.time_threshold():
            self.woken_at = now
            self.repeat_oldest(now)

    # ---- time

    cdef void lose(self, int64_t now) noexcept:
        """An overtaken packet has waited long enough: it is lost."""
        self.recovery.begin(now)
        self.recovery.check_losses(now)
        self.after_acks(now)

    cdef void time_out(self, int64_t now) noexcept:
        """No ack came in time: probe, and after several times believe that the path has changed."""
        self.recovery.on_timeout(now)
        self.after_acks(now)
        self.probes = PROBES
        if self.parcels is not None and not self.has_more():
            self.recovery.ask_parcel()
            self.parcels_wait = self.parcels.prepare()
        if self.recovery.tries == PERSISTENT_TRIES:
            self.congestion.on_timeout(self.recovery.in_flight, now)

    cdef int64_t wake_at(self) noexcept:
        """When `lose`, `time_out` or a paced run are due, or an ack."""
        cdef int64_t at = min(self.acks.due_at, self.pace_at)
        if self.recovery.loss_at != NEVER:
            return min(at, self.recovery.loss_at)
        return min(at, self.recovery.timeout_at(self.peer_delay_us))

    cdef int64_t timeout_us(self, int backoff) noexcept:
        """How long to wait for an answer; doubled `backoff` times."""
        return rtt_timeout(&self.recovery.rtt, self.peer_delay_us, backoff)

    # ---- out

    cdef int fill(self, Transmit *out, int64_t now) noexcept:
        """Write a run of DATA packets; returns how many, 0: nothing may or need be sent now."""
        cdef uint32_t built, count = 0
        cdef uint8_t *p = out.data
        cdef bint allowed = True
        cdef PlannedPacket plan
        out.length = 0
        plan.size = self.mtu.current
        if self.probes > 0 and self.recovery.tries > 1 or self.recovery.tries > PERSISTENT_TRIES:
            # Large packets may no longer pass; now and then the base does not either.
            plan.size = min(plan.size, <uint32_t>BASE_PACKET_BYTES)
            if self.recovery.tries & 3 == 3:
                plan.size = SMALL_PACKET_BYTES
        if self.on_trial:
            plan.size = min(out.room, <uint32_t>BASE_PACKET_BYTES)
        pacer_fill(&self.pacer, self.congestion.rate, plan.size, self.late(now), now)
        self.pace_at = NEVER
        if self.parcels is not None:
            self.parcels_wait = self.parcels.prepare()
        if not self.on_trial and self.fill_probe(out, now):
            return 1
        while count < out.most and out.length + plan.size <= out.room and self.recovery.ready() == 0:
            allowed = self.may_send(plan.size, count == 0, now) and (self.has_more() or self.probes > 0)
            if not allowed and not (self.acks.due or self.ping_due or self.credit_due):
                break  # an ack that is not due waits for data to go with
            self.write_control(p + PACKET_HEADER_BYTES, &plan, now)
            if not (allowed and self.pick(&plan)):
                if plan.control_bytes == 0:
                    break
                plan.chunk.offset = self.out.sent
                plan.chunk.length = plan.chunk.fin = plan.chunk.again = 0
            built = self.build(p, &plan, now)
            if built == 0:
                break
            if count == 0:
                out.segment_bytes = built
            count += 1
            out.length += built
            p += built
            if built < plan.size:
                break
        out.count = count
        self.note_end(now)
        return count

    cdef inline int64_t late(self, int64_t now) noexcept:
        """How late this turn is for the run that waits for it, at most a round trip; -1: none waits."""
        if self.pace_at == NEVER:
            return -1
        return min(max(now - self.pace_at, 0), self.recovery.rtt.smoothed)

    cdef inline bint may_send(self, uint32_t size, bint is_first, int64_t now) noexcept:
        """Whether a packet of `size` bytes may carry data: window and pace allow it, or it is a probe.

        A run begins when the pacer has a good part of it, and ends when the pacer is empty.
        """
        if self.probes > 0 or self.on_trial:
            return True
        if self.recovery.in_flight + size > self.congestion.window:
            return False
        if self.congestion.rate == 0:
            return True
        return pacer_ready_at(&self.pacer, self.congestion.rate, size) <= now if is_first else self.pacer.bytes > 0

    cdef void note_end(self, int64_t now) noexcept:
        """A run is over: note whether the application or the window ended it, and when the next may leave."""
        cdef bint has = self.has_more()
        cdef bint window_open = self.recovery.in_flight + self.mtu.current <= self.congestion.window
        self.starved = not has and window_open
        if self.starved:
            self.recovery.burst_until = self.recovery.delivered + self.recovery.in_flight + 1
        elif has and window_open and self.congestion.rate > 0:
            self.pace_at = max(now, pacer_ready_at(&self.pacer, self.congestion.rate, self.mtu.current))

    cdef bint pick(self, PlannedPacket *plan) noexcept:
        """Choose the data of a packet; a probe repeats the oldest bytes when there is nothing else."""
        cdef uint32_t most = plan.size - PACKET_HEADER_BYTES - self.sending.trailer_bytes - plan.control_bytes
        cdef uint64_t offset, end
        cdef uint32_t room
        if self.parcels_wait:
            room = most // 2 if outflow_has(&self.out) else most
            if room > PARCEL_HEADER_BYTES:
                self.parcels.fill(room - PARCEL_HEADER_BYTES, self.parcel)
                plan.parcel_bytes = self.parcel.length
                self.parcels_wait = plan.parcel_bytes > 0 and self.parcels.prepare()
            if plan.parcel_bytes > 0:
                most -= PARCEL_HEADER_BYTES + plan.parcel_bytes
        if outflow_has(&self.out) and most > 0 and outflow_pick(&self.out, most, &plan.chunk):
            return True
        if plan.parcel_bytes > 0:
            plan.chunk.offset = self.out.sent
            plan.chunk.length = plan.chunk.fin = plan.chunk.again = 0
            return True
        if self.probes > 0 and self.recovery.oldest(&offset, &end):
            outflow_cut(&self.out, offset, end, most, &plan.chunk)
            return True
        return False

    cdef void write_control(self, uint8_t *p, PlannedPacket *plan, int64_t now) noexcept:
        """Write the control messages that are due."""
        cdef uint32_t length = 0
        plan.flags = plan.parcel_bytes = 0
        if self.acks.due or self.credit_due or self.acks.unacked > 0:
            length = acks_write(&self.acks, p, CONTROL_ROOM, self.inp.limit, self.expected(), now)
            if length > 0:
                self.inp.told = self.inp.limit
                self.acks_sent += 1
            acks_sent(&self.acks)
        if self.credit_due:
            plan.flags |= SENT_CREDIT
        if self.ping_due or self.credit_due or self.probes > 0 and not self.has_more():
            p[length] = ControlType.PING
            length += 1
            plan.flags |= PING_FLAG
            self.ping_due = self.credit_due = False
        plan.control_bytes = length

    cdef uint64_t expected(self) noexcept:
        """The offset of the next byte expected in order; after the FIN one more."""
        return self.inp.arrived + (1 if inflow_complete(&self.inp) else 0)

    cdef bint should_ask(self, const PlannedPacket *plan) noexcept:
        """Whether this packet asks for an ack: every part of a window, and the last one before a pause unless an
        answer is under way that ends the pause."""
        cdef uint64_t part = max(self.congestion.window // plan.size // ASK_PARTS, <uint64_t>2)
        if self.go_back or plan.flags & PING_FLAG or self.unasked >= min(part, <uint64_t>MOST_UNASKED):
            return True
        if plan.chunk.fin or self.probes > 0:
            return True
        return self.asked <= self.recovery.largest_acked and (
            not self.has_more() or self.recovery.in_flight + 2 * plan.size > self.congestion.window)

    cdef uint32_t build(self, uint8_t *p, PlannedPacket *plan, int64_t now) noexcept:
        """Make one packet at `p`: control is already there, data comes from the ring. Returns its length; 0: no key."""
        cdef Header header
        cdef iovec parts[3 + MOST_PARCEL_PARTS]
        cdef int count = 1
        cdef Chunk *chunk = &plan.chunk
        cdef uint32_t length = PACKET_HEADER_BYTES + chunk.length + self.sending.trailer_bytes
        if plan.parcel_bytes > 0:
            count += self.add_parcel(p + PACKET_HEADER_BYTES, plan, parts + 1)
        length += plan.control_bytes
        header.type = PacketType.DATA
        header.flags = PacketFlag.FIN if chunk.fin else 0
        header.control_bytes = plan.control_bytes
        header.destination = self.remote_id
        header.offset = chunk.offset
        header.number = self.recovery.take_number()
        parts[0].iov_base = p + PACKET_HEADER_BYTES
        parts[0].iov_len = plan.control_bytes - plan.parcel_bytes
        if chunk.length > 0 or chunk.fin:
            plan.flags |= SENT_DATA
            outflow_took(&self.out, chunk)
            count += ring_view(&self.out.ring, chunk.offset, chunk.length, parts + count)
            if self.out.limit - self.out.acked_to < 2 * self.congestion.window:
                header.flags |= PacketFlag.WANT_CREDIT
        if plan.flags != 0:
            if self.on_trial:
                plan.flags |= SENT_TRIAL
            self.unasked += 1
            if self.should_ask(plan):
                header.flags |= PacketFlag.WANT_ACK
                self.unasked = 0
                self.asked = header.number
        put_header(p, &header)
        if self.sending.seal(self.sending.context, header.number, p, PACKET_HEADER_BYTES, parts, count,
                             p + PACKET_HEADER_BYTES) < 0:
            return 0
        if self.sending.veils:
            veil(self.sending.veil_key, p, length)
        self.recovery.on_sent(length, plan.flags, chunk.offset, chunk.length + (1 if chunk.fin else 0), now)
        if plan.parcel_bytes > 0:
            self.recovery.note_parcel(header.number, self.parcel.tag)
        if plan.flags != 0:
            if self.probes > 0:
                self.probes -= 1
            if self.congestion.rate > 0:
                self.pacer.bytes = max(self.pacer.bytes - length, -<int64_t>RUN_BYTES)
        self.out_packets += 1
        self.out_bytes += length
        return length

    cdef int add_parcel(self, uint8_t *control, PlannedPacket *plan, iovec *parts) noexcept:
        """Put the parcel behind the control messages, as the last of them; returns how many parts it has."""
        cdef int i
        control += plan.control_bytes
        control[0] = ControlType.PARCEL
        put16(control + 1, <uint16_t>plan.parcel_bytes)
        for i in range(self.parcel.count):
            parts[i] = self.parcel.parts[i]
        plan.control_bytes += PARCEL_HEADER_BYTES + plan.parcel_bytes
        plan.flags |= SENT_PARCEL
        return self.parcel.count

    cdef uint32_t build_bare(self, Transmit *out, uint32_t control_bytes, uint32_t flags, int64_t now) noexcept:
        """Make a packet of the control messages written at out.data + PACKET_HEADER_BYTES; `flags` are SENT_*."""
        cdef PlannedPacket plan
        plan.chunk.offset = self.out.sent
        plan.chunk.length = plan.chunk.fin = plan.chunk.again = 0
        plan.control_bytes = control_bytes
        plan.parcel_bytes = 0
        plan.flags = flags
        plan.size = self.mtu.current
        if self.recovery.ready() < 0:
            return 0
        out.length = out.segment_bytes = self.build(out.data, &plan, now)
        out.count = 1 if out.length > 0 else 0
        return out.count

    cdef int build_clear(self, Transmit *out, int kind, uint64_t number, uint32_t control_bytes) noexcept:
        """Make a packet in the clear of the control part at out.data + PACKET_HEADER_BYTES."""
        cdef uint32_t end = PACKET_HEADER_BYTES + control_bytes
        cdef Header header = Header(kind, 0, control_bytes, self.remote_id, number, self.local_id)
        put_header(out.data, &header)
        put32(out.data + end, crc32c(0, out.data, end))
        out.length = out.segment_bytes = end + CRC_BYTES
        out.count = 1
        self.out_packets += 1
        self.out_bytes += out.length
        return 1

    cdef uint32_t fill_probe(self, Transmit *out, int64_t now) noexcept:
        """Make a packet that probes whether its size passes; only while data flows. It may exceed the window."""
        cdef uint32_t size, control_bytes
        if self.recovery.waiting < 2 or self.probes > 0 or now < self.mtu.next_at or self.mtu.in_flight \
                or self.recovery.in_flight > self.congestion.window:
            return 0
        size = mtu_probe(&self.mtu, self.congestion.window // 4, now)
        if size == 0 or size > out.room:
            self.mtu.in_flight = False
            return 0
        control_bytes = size - PACKET_HEADER_BYTES - self.sending.trailer_bytes
        memset(out.data + PACKET_HEADER_BYTES, ControlType.PADDING, control_bytes)
        out.data[PACKET_HEADER_BYTES] = ControlType.PING
        return self.build_bare(out, control_bytes, SENT_PROBE | PING_FLAG, now)

    cdef void tidy(self) noexcept:
        """A turn is over: give back what is not needed, as most connections are at rest."""
        cdef uint32_t most = LITTLE_RING_BYTES
        self.calm_turns = self.calm_turns + 1 if self.recovery.waiting <= CALM_PACKETS else 0
        if self.calm_turns > CALM_TURNS and self.recovery.waiting == 0:
            self.calm_turns = 0
            most = 0xFFFFFFFF
            sent_rest(&self.recovery.sent)
            if self.parcels is not None:
                self.parcels.rest()
        outflow_tidy(&self.out, most)
        inflow_tidy(&self.inp, most)

    cdef dict statistics(self):
        """What has come and gone, and how long a round trip takes."""
        return {"packets_in": self.in_packets, "bytes_in": self.in_bytes, "packets_out": self.out_packets,
                "bytes_out": self.out_bytes, "corrupt": self.corrupt, "repeated": self.repeated,
                "lost": self.recovery.lost_packets, "round_trip_us": self.recovery.rtt.smoothed}
