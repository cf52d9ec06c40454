"""Acks, losses and timeouts; theory: _recovery.pxd. Everything that settles a packet lives here."""

from mproxy.ground._clock cimport NEVER
from mproxy.transport._acks cimport PACKET_THRESHOLD, acks_next_range
from mproxy.transport._outflow cimport outflow_acked, outflow_go_back, outflow_lost
from mproxy.transport._packet cimport BASE_PACKET_BYTES
from mproxy.transport._rtt cimport GRANULARITY_US, rtt_init, rtt_sample, rtt_timeout
from mproxy.transport._sent cimport (
    SENT_BURST, SENT_DATA, SENT_LOST, SENT_PARCEL, SENT_PROBE, SENT_TRIAL, Sent, sent_add, sent_at, sent_free,
    sent_init, sent_next, sent_reserve, sent_settle,
)


cdef class Recovery:
    """The sender's memory of one connection's packets."""

    def __cinit__(self):
        self.sent.entries = NULL
        self.floor = BASE_PACKET_BYTES
        self.sent.waiting = NULL
        rtt_init(&self.rtt)

    def __dealloc__(self):
        sent_free(&self.sent)

    cdef int start(self, uint64_t first, Outflow *flow, bint go_back) noexcept:
        """Packets begin with number `first` and carry bytes of `flow`; -1 when there is no memory."""
        self.flow = flow
        self.go_back = go_back
        self.first = self.settled = first
        self.largest_acked = first - 1
        self.skipped = 0
        self.skip_next = first + SKIP_EVERY // 8 + (first * 2654435761U >> 7) % SKIP_EVERY
        self.reordering = PACKET_THRESHOLD
        self.loss_at = NEVER
        return sent_init(&self.sent, first)

    # ---- sending

    cdef int ready(self) noexcept:
        """Reserve a place for the next packet; -1 when too much is in flight."""
        return sent_reserve(&self.sent)

    cdef uint64_t take_number(self) noexcept:
        """The number for the packet that is now built; `ready` has said that there is a place."""
        if self.sent.next == self.skip_next and not self.go_back:
            self.skipped = self.sent.next
            self.skip_next += SKIP_EVERY // 2 + ((self.sent.next ^ self.delivered) * 2654435761U >> 9) % SKIP_EVERY
            self.sent.next += 1
        return self.sent.next

    cdef int on_sent(self, uint32_t size, uint32_t flags, uint64_t offset, uint32_t length, int64_t now) noexcept:
        """The packet with the number taken goes out; with flags 0 it needs no ack."""
        cdef Sent *entry
        if flags == 0:
            self.sent.next += 1
            return 0
        entry = sent_add(&self.sent)
        if self.in_flight == 0:
            self.first_sent_at = self.delivered_at = now
        self.in_flight += size
        self.waiting += 1
        self.sent_bytes += size
        self.sent_packets += 1
        self.eliciting_at = now
        entry.sent_at = now
        entry.offset = offset
        entry.length = length
        entry.size = size
        entry.delivered = self.delivered
        entry.delivered_at = self.delivered_at
        entry.first_sent_at = self.first_sent_at
        entry.lost = self.lost_bytes
        entry.in_flight = <uint32_t>self.in_flight if self.in_flight < 0xFFFFFFFF else 0xFFFFFFFFU
        entry.flags = flags | (SENT_BURST if self.burst_until > self.delivered else 0)
        self.sent.next += 1
        return 0

    cdef void note_parcel(self, uint64_t number, uint64_t tag) noexcept:
        """The packet that went out with this number carries a parcel."""
        sent_at(&self.sent, number).parcel = tag

    # ---- acks

    cdef void begin(self, int64_t now) noexcept:
        """Prepare `sample` and the outcome for one ack or timeout."""
        self.sample.now = now
        self.sample.acked_bytes = self.sample.lost_bytes = 0
        self.sample.newest_lost_sent_at = 0
        self.sample.rtt = self.sample.interval = 0
        self.acked_flags = self.lost_flags = 0
        self.largest_size = 0
        self.newest = 0
        self.any_acked = self.spurious = False

    cdef int on_ack(self, AckInfo *info, const uint8_t *end, int64_t max_delay, int64_t now) noexcept:
        """Take an ack; returns the bytes of further ranges read, -1: the peer lies or the ack is malformed."""
        cdef int length = 0, read
        cdef uint64_t low = info.low, high = info.largest
        cdef int64_t delay = info.delay_us if info.delay_us < max_delay else max_delay
        self.begin(now)
        if self.go_back:
            return self.on_ack_next(info, delay, now)
        if high >= self.sent.next or low < self.first:
            return -1
        while True:
            if self.acked_range(low, high, now) < 0:
                return -1
            if info.count == 0:
                break
            read = acks_next_range(info, end, &low, &high)
            if read < 0 or low < self.first:
                return -1
            length += read
        if self.any_acked and info.largest > self.largest_acked and self.newest == info.largest:
            self.finish(sent_at(&self.sent, self.newest).sent_at, delay, now)
        elif self.any_acked:
            self.finish(0, 0, now)
        if info.largest > self.largest_acked:
            self.largest_acked = info.largest
        self.check_losses(now)
        return length

    cdef int acked_range(self, uint64_t low, uint64_t high, int64_t now) noexcept:
        """Packets low..high have arrived; -1 when one of them was never sent."""
        cdef uint64_t number
        if low <= self.skipped <= high:
            return -1
        number = sent_next(&self.sent, low, high + 1)
        while number <= high and number < self.sent.next:
            self.acked(number, now)
            number = sent_next(&self.sent, number + 1, high + 1)
        return 0

    cdef void acked(self, uint64_t number, int64_t now) noexcept:
        """A packet in flight has arrived."""
        cdef Sent *entry = sent_at(&self.sent, number)
        cdef uint64_t distance
        if entry.flags & SENT_LOST:
            self.spurious = True
            self.lost_bytes -= entry.size
            self.lost_packets -= 1
            distance = self.largest_acked - number + 1 if self.largest_acked > number else 1
            if distance > self.reordering:
                self.reordering = <uint32_t>distance if distance < MOST_THRESHOLD else MOST_THRESHOLD
            if self.reorder_quarters < 4:
                self.reorder_quarters += 1
        else:
            self.in_flight -= entry.size
            self.waiting -= 1
        self.delivered += entry.size
        self.sample.acked_bytes += entry.size
        self.acked_flags |= entry.flags
        if entry.flags & SENT_PROBE:
            self.acked_probe = entry.size
        if entry.size > self.largest_size:
            self.largest_size = entry.size
        if entry.size > self.floor:
            self.large_lost = 0
        if entry.flags & SENT_DATA and outflow_acked(self.flow, entry.offset, entry.offset + entry.length) < 0:
            self.failed = True
        if entry.flags & SENT_PARCEL and self.parcels is not None:
            self.parcels.acked(entry.parcel)
        if number >= self.newest:
            self.newest = number
            self.sample.prior_delivered = entry.delivered
            self.sample.burst = entry.flags & SENT_BURST != 0
            self.sample.sent_in_flight = entry.in_flight
            self.sample.lost_since = entry.lost
            self.sample.interval = max(entry.sent_at - entry.first_sent_at, now - entry.delivered_at)
            self.first_sent_at = entry.sent_at
        self.any_acked = True
        sent_settle(&self.sent, number)

    cdef void finish(self, int64_t rtt_sent_at, int64_t delay, int64_t now) noexcept:
        """This ack's packets are settled: take round trip (of a packet sent at `rtt_sent_at`; 0: none) and rate."""
        if rtt_sent_at > 0:
            self.sample.rtt = now - rtt_sent_at if now > rtt_sent_at else 1
            rtt_sample(&self.rtt, self.sample.rtt, delay, now)
        self.delivered_at = now
        self.tries = 0
        self.sample.lost_since = self.lost_bytes - self.sample.lost_since if self.lost_bytes > self.sample.lost_since \
            else 0
        if self.burst_until <= self.delivered:
            self.burst_until = 0

    # ---- losses

    cdef int64_t time_threshold(self) noexcept:
        """How long a packet may be overtaken: 9/8 of a round trip, and more once reordering was seen."""
        cdef int64_t threshold = max(self.rtt.smoothed, self.rtt.latest)
        threshold += threshold // 8 + self.reorder_quarters * self.rtt.minimum // 4
        return threshold if threshold > GRANULARITY_US else GRANULARITY_US

    cdef void check_losses(self, int64_t now) noexcept:
        """Declare lost what was overtaken by too many packets or for too long; sets `loss_at` for the others."""
        cdef int64_t threshold = self.time_threshold()
        cdef uint64_t number
        cdef Sent *entry
        self.loss_at = NEVER
        if self.go_back:
            return
        number = sent_next(&self.sent, self.settled, self.largest_acked)
        while number < self.largest_acked:
            entry = sent_at(&self.sent, number)
            if not entry.flags & SENT_LOST:
                if self.largest_acked - number < self.reordering and entry.sent_at + threshold > now:
                    self.loss_at = entry.sent_at + threshold
                    break
                self.lost(number, now)
            number = sent_next(&self.sent, number + 1, self.largest_acked)
        self.settled = number
        self.expire(now)

    cdef void lost(self, uint64_t number, int64_t now) noexcept:
        """A packet in flight counts as lost: its bytes are sent again, its entry remembered."""
        cdef Sent *entry = sent_at(&self.sent, number)
        self.in_flight -= entry.size
        self.waiting -= 1
        self.lost_flags |= entry.flags
        entry.flags |= SENT_LOST
        if entry.flags & SENT_PROBE:
            self.lost_probe = entry.size
            sent_settle(&self.sent, number)
            return
        self.lost_bytes += entry.size
        self.lost_packets += 1
        self.sample.lost_bytes += entry.size
        self.sample.newest_lost_sent_at = entry.sent_at
        if entry.size > self.floor:
            self.large_lost += 1
        if entry.flags & SENT_PARCEL and self.parcels is not None:
            self.parcels.lost(entry.parcel)
        if entry.flags & SENT_DATA and not self.go_back \
                and outflow_lost(self.flow, entry.offset, entry.offset + entry.length) < 0:
            self.failed = True

    cdef void expire(self, int64_t now) noexcept:
        """Forget lost packets whose ack can hardly arrive any more: those three round trips old."""
        cdef Sent *entry
        cdef int64_t before = now - 3 * max(self.rtt.smoothed, self.rtt.latest) - GRANULARITY_US
        while self.sent.base < self.sent.next:
            entry = sent_at(&self.sent, self.sent.base)
            if sent_next(&self.sent, self.sent.base, self.sent.base + 1) == self.sent.base and (
                    not entry.flags & SENT_LOST or entry.sent_at > before):
                break
            sent_settle(&self.sent, self.sent.base)

    # ---- Go-Back-N

    cdef int on_ack_next(self, AckInfo *info, int64_t delay, int64_t now) noexcept:
        """Take a cumulative ack: offset `next` is expected, and packet `largest` is what made the peer say so."""
        cdef uint64_t number = self.sent.base, before = self.flow.acked_to
        cdef Sent *entry
        cdef int64_t sent_time = 0
        if info.next > self.flow.peak or info.largest >= self.sent.next:
            return -1
        number = sent_next(&self.sent, number, self.sent.next)
        while number < self.sent.next:
            entry = sent_at(&self.sent, number)
            if number == info.largest:
                sent_time = entry.sent_at
            if entry.flags & SENT_DATA and entry.offset + entry.length > info.next:
                if number >= info.largest:
                    break
            elif entry.flags & SENT_PROBE and number != info.largest:
                if number + DUPLICATES <= info.largest:
                    self.lost(number, now)  # what arrived later says nothing about whether a packet of that size passes
            elif entry.flags & SENT_DATA or number <= info.largest:
                self.acked(number, now)
            number = sent_next(&self.sent, number + 1, self.sent.next)
        if info.next > before and outflow_acked(self.flow, before, info.next) < 0:
            self.failed = True
        if info.largest > self.largest_acked:
            self.largest_acked = info.largest
        if self.any_acked:
            self.finish(sent_time, delay, now)
        if info.next > before:
            self.duplicates = 0
        elif self.waiting > 0 and self.is_news(info.largest, now):
            self.duplicates += 1
            if self.duplicates == DUPLICATES:
                self.resend_window(now)
        return 0

    cdef bint is_news(self, uint64_t number, int64_t now) noexcept:
        """Whether an ack that expects the same offset as before answers a packet of the window as it was last sent. A
        corrupt packet's number (0) is unknown: what arrives within a round trip may be older."""
        return number >= self.went_back if number != 0 else now - self.went_back_at >= self.rtt.smoothed

    cdef void resend_window(self, int64_t now) noexcept:
        """Go back: everything from the oldest unacknowledged byte on is sent again. The oldest packet was lost; the
        others may have arrived, and the controller must not take them for losses of the path."""
        cdef uint64_t number = sent_next(&self.sent, self.sent.base, self.sent.next)
        cdef bint found = False
        cdef Sent *entry
        while number < self.sent.next:
            entry = sent_at(&self.sent, number)
            if not found or entry.flags & SENT_PROBE:
                self.lost(number, now)
                found = found or not entry.flags & SENT_PROBE
            else:
                self.in_flight -= entry.size
                self.waiting -= 1
                self.lost_flags |= entry.flags
                if entry.size > self.floor:
                    self.large_lost += 1
            sent_settle(&self.sent, number)
            number = sent_next(&self.sent, number, self.sent.next)
        self.went_back = self.sent.next
        self.went_back_at = now
        self.duplicates = 0
        outflow_go_back(self.flow)

    # ---- time

    cdef int64_t timeout_at(self, int64_t max_delay) noexcept:
        """When to give up waiting for any ack, NEVER: nothing is under way."""
        cdef int64_t wait
        if self.waiting == 0:
            return NEVER
        wait = rtt_timeout(&self.rtt, max_delay, self.tries)
        return self.eliciting_at + (max(wait, <int64_t>LEAST_GO_BACK_US) if self.go_back else wait)

    cdef void on_timeout(self, int64_t now) noexcept:
        """No ack came in time. gbn goes back; the other way leaves it to probes."""
        self.begin(now)
        self.tries += 1
        self.timeouts += 1
        if self.go_back:
            self.resend_window(now)

    cdef bint oldest(self, uint64_t *offset, uint64_t *end) noexcept:
        """The bytes of the oldest packet in flight that carries any, for a probe to repeat. False: there is none."""
        cdef uint64_t number = sent_next(&self.sent, self.sent.base, self.sent.next)
        cdef Sent *entry
        while number < self.sent.next:
            entry = sent_at(&self.sent, number)
            if entry.flags & SENT_DATA and not entry.flags & SENT_LOST \
                    and entry.offset + entry.length > self.flow.acked_to:
                offset[0] = max(entry.offset, self.flow.acked_to)
                end[0] = entry.offset + entry.length
                return True
            number = sent_next(&self.sent, number + 1, self.sent.next)
        return False

    cdef void ask_parcel(self) noexcept:
        """Have the oldest parcel in flight that was not, said again, for a probe; that it is lost is not certain."""
        cdef uint64_t number = sent_next(&self.sent, self.sent.base, self.sent.next)
        cdef Sent *entry
        while number < self.sent.next:
            entry = sent_at(&self.sent, number)
            if entry.flags & SENT_PARCEL and not entry.flags & SENT_LOST and self.parcels.lost(entry.parcel):
                return
            number = sent_next(&self.sent, number + 1, self.sent.next)

    cdef uint64_t say_again(self, uint64_t low, uint64_t high, uint32_t most, int64_t before) noexcept:
        """Have what packets low..high-1 under way, sent before that time, carried said again, about `most` bytes of it;
        that they are lost is not certain. Returns the number to go on with."""
        cdef uint64_t number = sent_next(&self.sent, low, high)
        cdef uint32_t size = 0, repeated = 0  # of parcels; of the stream, sent again as often as this is called
        cdef Sent *entry
        while number < high:
            entry = sent_at(&self.sent, number)
            if entry.sent_at > before or size >= most or (repeated >= most and self.parcels is None):
                break
            if not entry.flags & SENT_LOST:
                if entry.flags & SENT_PARCEL and self.parcels is not None and self.parcels.lost(entry.parcel):
                    size += entry.size
                if entry.flags & SENT_DATA and repeated < most:
                    repeated += entry.size
                    if not self.go_back and outflow_lost(self.flow, entry.offset, entry.offset + entry.length) < 0:
                        self.failed = True
            number = sent_next(&self.sent, number + 1, high)
        return number

    cdef void leave_path(self, uint64_t trial_from, int64_t now) noexcept:
        """The peer has moved: all that is under way counts as lost, but for packets of a trial that began with number
        `trial_from`. It is no sign of congestion."""
        cdef uint64_t number = sent_next(&self.sent, self.sent.base, self.sent.next)
        cdef Sent *entry
        self.begin(now)
        while number < self.sent.next and not self.go_back:
            entry = sent_at(&self.sent, number)
            if not entry.flags & SENT_LOST and not (entry.flags & SENT_TRIAL and number >= trial_from):
                self.lost(number, now)
            number = sent_next(&self.sent, number + 1, self.sent.next)
        self.loss_at = NEVER
        self.large_lost = 0
        self.tries = 0
