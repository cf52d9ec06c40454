"""The model of the path and what follows from it; theory: _bbr.pxd."""

from mproxy.transport._congestion cimport FIRST_PACKETS, LEAST_PACKETS
from mproxy.transport._cubic cimport Cubic


cdef double STARTUP_GAIN = 2.77     # 4 ln 2: doubles what is delivered each round trip (draft-ietf-ccwg-bbr)
cdef double CROWDED_GAIN = 1.5      # of the window at the start, when there is a queue already
cdef double MARGIN = 0.99           # of the rate: the largest of many samples is an overestimate (draft-ietf-ccwg-bbr)
cdef double EXCESS = 0.02           # share lost above the floor that is too much (draft-ietf-ccwg-bbr, BBRLossThresh)
cdef double CROWDED = 0.1           # share above one and a half floors that ends the start, queue or not
cdef double YIELD = 0.9             # of the bandwidth, when that happens
cdef double DOUBT = 0.8             # of a share lost beside a standing queue: the queue may be ours
cdef double[PHASES] GAINS = [1.25, 0.75, 1, 1, 1, 1, 1, 1]


cdef class Bbr(Congestion):
    """The default: see docs/decisions/congestion-by-model.md."""

    def __init__(self, uint32_t packet_bytes):
        super().__init__(packet_bytes)
        self.rival = Cubic(packet_bytes)
        self.start_again(0)

    cdef void start_again(self, int64_t now) noexcept:
        cdef int i
        self.mode = BbrMode.STARTUP
        self.gain = STARTUP_GAIN
        self.window_gain = 2
        self.round_end = 0
        self.rounds = self.bunch_round = 0
        for i in range(RATE_SLOTS):
            self.rates[i] = 0
        for i in range(LOSS_SLOTS):
            self.losses[i] = 0
        self.slot = self.loss_slot = self.loss_spans = 0
        self.slot_at = now
        self.bandwidth = self.full_rate = self.floor = self.ceiling = 0
        self.full_rounds = 0
        self.full = False
        self.calm = self.round_calm = True
        self.shortest = self.shortest_at = self.shrink_until = 0
        self.span_acked = self.span_lost = 0
        self.bunches[0] = self.bunches[1] = 0
        self.bunch_at = 0
        self.queue_us = -1
        self.rival_until = 0
        self.yields = self.cruised = False
        self.round_acked = self.round_lost = self.round_flight = 0
        self.round_queue_us = self.round_most_us = -1
        self.usual_loss = 0
        self.usual_rounds = 0
        self.window = FIRST_PACKETS * self.packet_bytes
        self.rate = 0

    cdef void on_ack(self, const AckSample *sample) noexcept:
        self.round_start = sample.acked_bytes > 0 and sample.prior_delivered >= self.round_end
        if self.round_start:
            self.round_end = sample.delivered
            self.rounds += 1
        self.note_round_trip(sample)
        self.note_losses(sample)
        self.note_rate(sample)
        self.note_bunch(sample)
        self.note_rival(sample)
        self.step(sample)
        self.publish(sample)

    cdef void note_round_trip(self, const AckSample *sample) noexcept:
        if sample.rtt <= 0:
            return
        if self.shortest == 0 or sample.rtt <= self.shortest:
            self.shortest = sample.rtt
            self.shortest_at = sample.now
        self.calm = sample.rtt <= self.shortest + min(max(self.shortest // 8, LEAST_RISE_US), MOST_RISE_US)
        self.round_calm = self.round_calm or self.calm
        if self.queue_us < 0 or sample.rtt - self.shortest < self.queue_us:
            self.queue_us = sample.rtt - self.shortest

    cdef void note_rate(self, const AckSample *sample) noexcept:
        """Take the delivery rate of the newest packet acknowledged into the filter."""
        cdef double rate
        cdef int i
        if self.round_start and sample.now - self.slot_at >= SLOT_US:
            self.slot = (self.slot + 1) % RATE_SLOTS
            self.slot_at = sample.now
            self.rates[self.slot] = 0
            self.bandwidth = 0
            for i in range(RATE_SLOTS):
                self.bandwidth = max(self.bandwidth, self.rates[i])
        if sample.interval <= 0 or sample.acked_bytes == 0 or sample.interval < self.shortest:
            return
        rate = <double>(sample.delivered - sample.prior_delivered) / sample.interval
        if not sample.burst or rate > self.bandwidth:
            self.rates[self.slot] = max(self.rates[self.slot], rate)
            self.bandwidth = max(self.bandwidth, rate)

    cdef void note_losses(self, const AckSample *sample) noexcept:
        """Count what was lost, by spans; the least share of the spans remembered is the floor."""
        cdef double share, chance, excess
        cdef int i
        self.span_acked += sample.acked_bytes
        self.span_lost += sample.lost_bytes
        if not self.round_start or self.span_acked + self.span_lost < LOSS_SPAN_PACKETS * self.packet_bytes:
            return
        share = <double>self.span_lost / (self.span_acked + self.span_lost)
        chance = self.floor * self.packet_bytes / (self.span_acked + self.span_lost)  # square of the deviation
        excess = share - self.floor - EXCESS
        if self.mode == BbrMode.STARTUP and self.loss_spans > 0 and share > 1.5 * self.floor + CROWDED:
            self.full = True  # a queue too short to show in the round trip
        if self.queue_us > self.shortest // 16 + SHORT_PATH_US // 2:  # never empty in all this time
            if excess > 0 and excess * excess > 4 * chance and self.loss_spans > 0:
                self.full = True
                if self.mode == BbrMode.PROBE:
                    self.ceiling = YIELD * (self.ceiling if self.ceiling > 0 else self.bandwidth)
            share *= DOUBT
        self.losses[self.loss_slot] = share
        self.loss_slot = (self.loss_slot + 1) % LOSS_SLOTS
        if self.loss_spans < LOSS_SLOTS:
            self.loss_spans += 1
        self.floor = share
        for i in range(self.loss_spans):
            self.floor = min(self.floor, self.losses[i])
        self.floor = min(self.floor, MOST_FLOOR_PERCENT / 100.0)
        self.span_acked = self.span_lost = 0
        self.queue_us = -1

    cdef void note_bunch(self, const AckSample *sample) noexcept:
        """How far acks run ahead of the bandwidth: that much more must be in flight to keep the path busy."""
        cdef double expected = self.bandwidth * (sample.now - self.bunch_at)
        if self.rounds - self.bunch_round >= RATE_SLOTS:
            self.bunch_round = self.rounds
            self.bunches[1] = self.bunches[0]
            self.bunches[0] = 0
        if self.bunch_bytes <= expected:
            self.bunch_at = sample.now
            self.bunch_bytes = 0
            expected = 0
        self.bunch_bytes += sample.acked_bytes
        self.bunches[0] = max(self.bunches[0], min(self.bunch_bytes - expected, <double>self.window))

    cdef void note_rival(self, const AckSample *sample) noexcept:
        """Gather what shows whether another flow keeps the queue, and what CUBIC would have beside it."""
        cdef AckSample grown
        cdef int64_t rise
        if self.round_start:
            self.judge_round(sample.now)
            self.cruised = self.mode == BbrMode.PROBE and self.phase > 1
            self.round_acked = self.round_lost = self.round_flight = 0
            self.round_queue_us = self.round_most_us = -1
        self.round_acked += sample.acked_bytes
        self.round_lost += sample.lost_bytes
        self.round_flight = max(self.round_flight, sample.in_flight + sample.acked_bytes)
        if sample.rtt > 0 and self.shortest > 0:
            rise = sample.rtt - self.shortest
            self.round_queue_us = rise if self.round_queue_us < 0 else min(rise, self.round_queue_us)
            self.round_most_us = max(rise, self.round_most_us)
        if self.yields:
            grown = sample[0]
            grown.lost_bytes = 0  # which of them count is judged above
            self.rival.on_ack(&grown)

    cdef void judge_round(self, int64_t now) noexcept:
        """A round is over: was there a queue all the time, and was more lost than usual?"""
        cdef double total = self.round_acked + self.round_lost
        cdef double usual = self.usual_loss * total
        cdef double excess = self.round_lost - usual
        # A round trip that varies by more than it has risen is no queue but jitter.
        cdef bint crowded = self.round_queue_us > max(
            self.shortest // 16 + SHORT_PATH_US // 2, self.round_most_us - self.round_queue_us)
        if now > self.rival_until:
            self.yields = False
        if total <= 0:
            return
        self.usual_rounds = min(self.usual_rounds + 1, USUAL_ROUNDS)
        if crowded and self.cruised and self.mode == BbrMode.PROBE and self.phase > 1:
            self.rival_until = now + RIVAL_US
        if crowded and now <= self.rival_until and self.usual_rounds == USUAL_ROUNDS and (
                excess > 0 and excess * excess > 9 * usual * self.packet_bytes):  # three standard deviations
            if not self.yields:
                self.rival.begin_at(self.round_flight, now)
            self.yields = True
            self.rival.give_way(self.round_flight, now)
        self.usual_loss += (self.round_lost / total - self.usual_loss) / self.usual_rounds

    cdef double path_bytes(self) noexcept:
        """What the path holds, as sent, so including what it will lose: bandwidth times shortest round trip."""
        return self.bandwidth * max(self.shortest, SHORT_PATH_US) / (1 - self.floor)

    cdef void begin_phase(self, int phase, int64_t now) noexcept:
        self.mode = BbrMode.PROBE
        self.phase = phase
        self.phase_at = now
        self.gain = GAINS[phase]
        self.window_gain = 2
        if phase == 0:
            self.ceiling = 0

    cdef void step(self, const AckSample *sample) noexcept:
        """Go on to the next mode or phase when it is time."""
        cdef int64_t now = sample.now
        cdef int64_t phase_us = max(self.shortest, SHORT_PATH_US)
        if not self.full and self.round_start and not (
                sample.burst and sample.sent_in_flight < 1.25 * self.path_bytes()):
            if self.bandwidth >= 1.25 * self.full_rate:
                self.full_rate = self.bandwidth
                self.full_rounds = 0
            else:
                self.full_rounds += 1
                self.full = self.full_rounds >= (3 if self.round_calm else 2)
        if self.round_start:
            self.round_calm = self.calm
        if self.mode == BbrMode.STARTUP and self.full:
            self.mode = BbrMode.DRAIN
            self.gain = 1 / STARTUP_GAIN
        if self.mode == BbrMode.DRAIN and sample.in_flight <= self.path_bytes():
            self.begin_phase(2 + <int>(sample.delivered // self.packet_bytes % 6), now)
        if self.mode == BbrMode.PROBE:
            if self.phase == 0:
                if now - self.phase_at > phase_us and (
                        sample.in_flight >= 1.25 * self.path_bytes() or now - self.phase_at > 2 * phase_us):
                    self.begin_phase(1, now)
            elif self.phase == 1:
                if sample.in_flight <= self.path_bytes() or now - self.phase_at > DRAIN_ROUNDS * phase_us:
                    self.begin_phase(2, now)
            elif now - self.phase_at > phase_us:
                self.begin_phase((self.phase + 1) % PHASES, now)
        if self.mode == BbrMode.SHRINK:
            if self.shrink_until == 0:
                if sample.in_flight <= self.window:
                    self.shrink_until = now + max(SHRINK_US, self.shortest)
                    self.shortest = 0
            elif now >= self.shrink_until and self.shortest > 0:
                self.shortest_at = now
                self.begin_phase(2, now)
        elif self.full and now - self.shortest_at > SHRINK_EVERY_US:
            self.mode = BbrMode.SHRINK
            self.gain = 1
            self.window_gain = 0.5
            self.shrink_until = 0

    cdef void publish(self, const AckSample *sample) noexcept:
        """Set rate and window from the model; before there is one, the window grows by what is acknowledged."""
        cdef double rate = self.bandwidth, target, least
        if rate <= 0 or self.shortest <= 0 and self.mode != BbrMode.SHRINK:
            if self.bandwidth <= 0:
                self.window += sample.acked_bytes
            if sample.smoothed_rtt > 0:
                self.rate = <uint64_t>(self.gain * self.window * 1e6 / sample.smoothed_rtt)
            return
        if self.ceiling > 0:
            rate = min(rate, self.ceiling)
        rate = MARGIN * self.gain * rate / (1 - self.floor) * 1e6
        least = <double>(LEAST_PACKETS if self.full else FIRST_PACKETS) * self.packet_bytes * 1e6 / sample.smoothed_rtt
        if self.calm and not self.full:
            least = max(least, 2.0 * self.window * 1e6 / sample.smoothed_rtt)
        if self.full or rate > self.rate or self.rate < least:
            self.rate = <uint64_t>max(rate, least)
        if self.shortest > 0:
            target = (self.window_gain if self.full or self.calm else CROWDED_GAIN) * self.path_bytes()
            if self.full and self.mode != BbrMode.SHRINK:
                target += max(self.bunches[0], self.bunches[1]) + 3 * self.packet_bytes
            if self.full:
                self.window = min(self.window + sample.acked_bytes, <uint64_t>target)
            elif self.calm or self.window < target:
                self.window += sample.acked_bytes
        if self.yields and self.window > self.rival.window:
            self.window = self.rival.window
            self.rate = min(self.rate, self.rival.rate)
        self.window = max(self.window, LEAST_PACKETS * self.packet_bytes)

    cdef void on_packet_size(self, uint32_t packet_bytes) noexcept:
        Congestion.on_packet_size(self, packet_bytes)
        self.rival.on_packet_size(packet_bytes)

    cdef void on_timeout(self, uint64_t in_flight, int64_t now) noexcept:
        """The path may have changed: forget what was learnt and begin with little."""
        self.start_again(now)
        self.window = LEAST_PACKETS * self.packet_bytes
