"""CUBIC with HyStart++; theory: _cubic.pxd. Section numbers are RFC 9438's unless another RFC is named."""

from mproxy.transport._congestion cimport FIRST_PACKETS, LEAST_PACKETS


cdef double C = 0.4                 # section 5.1
cdef double BETA = 0.7              # section 4.6
cdef double ALPHA = 3 * (1 - 0.7) / (1 + 0.7)  # section 4.3: Reno's increase that is fair with BETA
cdef double INFINITE = 1e18

cdef enum:                          # RFC 9406 section 4.3
    MIN_RTT_THRESH_US = 4000
    MAX_RTT_THRESH_US = 16000
    MIN_RTT_DIVISOR = 8
    N_RTT_SAMPLE = 8
    CSS_GROWTH_DIVISOR = 4
    CSS_ROUNDS = 5


cdef double cube_root(double x) noexcept nogil:
    """By Newton's method; x >= 0."""
    cdef double root = 1
    cdef int _i
    if x <= 0:
        return 0
    while root * root * root < x:
        root *= 2
    for _i in range(40):
        root = (2 * root + x / (root * root)) / 3
    return root


cdef class Cubic(Congestion):
    """The standard controller of TCP and QUIC."""

    def __init__(self, uint32_t packet_bytes):
        super().__init__(packet_bytes)
        self.start_again(0)

    cdef void start_again(self, int64_t now) noexcept:
        self.packets = FIRST_PACKETS
        self.threshold = INFINITE
        self.largest = self.k = self.estimate = self.prior = 0
        self.undo_packets = 0
        self.epoch_at = 0
        self.reduced_at = now
        self.round_end = 0
        self.last_round_rtt = self.round_rtt = 0
        self.round_samples = self.css_rounds = 0
        self.css_rtt = 0
        self.publish(0)

    cdef void begin_at(self, uint64_t flight, int64_t now) noexcept:
        """Go on from a window of `flight` bytes, as if in congestion avoidance."""
        self.start_again(now)
        self.packets = self.threshold = <double>flight / self.packet_bytes
        self.publish(0)

    cdef void give_way(self, uint64_t flight, int64_t now) noexcept:
        """A congestion event, when at most `flight` bytes were under way."""
        self.packets = min(self.packets, <double>flight / self.packet_bytes)
        self.reduce(now)
        self.publish(0)

    cdef void publish(self, int64_t smoothed_rtt) noexcept:
        """Turn packets into bytes, and set the pace: two windows a round trip while it doubles, 1.25 later."""
        if self.packets < LEAST_PACKETS:
            self.packets = LEAST_PACKETS
        self.window = <uint64_t>(self.packets * self.packet_bytes)
        if smoothed_rtt > 0:
            self.rate = <uint64_t>(
                self.window * (2.0 if self.packets < self.threshold else 1.25) * 1e6 / smoothed_rtt)

    cdef void on_packet_size(self, uint32_t packet_bytes) noexcept:
        self.packets = self.packets * self.packet_bytes / packet_bytes
        self.largest = self.largest * self.packet_bytes / packet_bytes
        self.estimate = self.estimate * self.packet_bytes / packet_bytes
        if self.threshold < INFINITE:
            self.threshold = self.threshold * self.packet_bytes / packet_bytes
        self.packet_bytes = packet_bytes
        self.undo_packets = 0
        self.publish(0)

    cdef void on_ack(self, const AckSample *sample) noexcept:
        cdef double acked = <double>sample.acked_bytes / self.packet_bytes
        if sample.lost_bytes > 0 and sample.newest_lost_sent_at > self.reduced_at:
            self.reduce(sample.now)
        elif acked > 0 and sample.limited and sample.now - sample.rtt > self.reduced_at:
            if self.packets < self.threshold:
                self.slow_start(sample, acked)
            else:
                self.avoid(sample, acked)
        elif not sample.limited:
            self.epoch_at = 0  # section 4.2: time in which the application sent too little does not count
        self.publish(sample.smoothed_rtt)

    cdef void reduce(self, int64_t now) noexcept:
        """A congestion event (sections 4.6 and 4.7, fast convergence)."""
        self.undo_packets = self.packets
        self.undo_threshold = self.threshold
        self.undo_largest = self.largest
        self.prior = self.packets
        self.largest = self.packets * (1 + BETA) / 2 if self.packets < self.largest else self.packets
        self.packets *= BETA
        self.threshold = self.packets if self.packets > 2 else 2
        self.epoch_at = 0
        self.reduced_at = now

    cdef void avoid(self, const AckSample *sample, double acked) noexcept:
        """Congestion avoidance (sections 4.2 to 4.5) for `acked` packets."""
        cdef double t, target
        if self.epoch_at == 0:
            self.epoch_at = sample.now
            self.estimate = self.packets
            if self.packets >= self.largest:
                self.largest = self.packets
                self.k = 0
            else:
                self.k = cube_root((self.largest - self.packets) / C)
        t = (sample.now - self.epoch_at) * 1e-6
        self.estimate += (ALPHA if self.estimate < self.prior else 1) * acked / self.packets
        if self.largest + C * (t - self.k) ** 3 < self.estimate:
            self.packets = self.estimate
            return
        t += sample.smoothed_rtt * 1e-6
        target = self.largest + C * (t - self.k) ** 3
        if target > 1.5 * self.packets:
            target = 1.5 * self.packets
        if target > self.packets:
            self.packets += (target - self.packets) / self.packets * acked

    cdef void slow_start(self, const AckSample *sample, double acked) noexcept:
        """One packet more for each acknowledged, a quarter of that in conservative slow start (RFC 9406)."""
        self.hystart_round(sample)
        self.packets += acked / CSS_GROWTH_DIVISOR if self.css_rtt > 0 else acked
        if self.packets > self.threshold:
            self.packets = self.threshold

    cdef void hystart_round(self, const AckSample *sample) noexcept:
        """RFC 9406 section 4.2: leave slow start when the round trip grows, unless that was a short-lived rise."""
        cdef int64_t threshold
        if sample.prior_delivered >= self.round_end:
            self.round_end = sample.delivered
            self.last_round_rtt = self.round_rtt
            self.round_rtt = 0
            self.round_samples = 0
            if self.css_rtt > 0:
                self.css_rounds += 1
                if self.css_rounds >= CSS_ROUNDS:
                    self.threshold = self.packets
        if sample.rtt > 0:
            self.round_samples += 1
            if self.round_rtt == 0 or sample.rtt < self.round_rtt:
                self.round_rtt = sample.rtt
        if self.round_samples < N_RTT_SAMPLE or self.round_rtt == 0:
            return
        if self.css_rtt > 0:
            if self.round_rtt < self.css_rtt:
                self.css_rtt = 0
        elif self.last_round_rtt > 0:
            threshold = min(max(self.last_round_rtt // MIN_RTT_DIVISOR, MIN_RTT_THRESH_US), MAX_RTT_THRESH_US)
            if self.round_rtt >= self.last_round_rtt + threshold:
                self.css_rtt = self.round_rtt
                self.css_rounds = 0

    cdef void on_timeout(self, uint64_t in_flight, int64_t now) noexcept:
        """Section 4.8: slow start again, up to where the reduction leads."""
        self.reduce(now)
        self.packets = LEAST_PACKETS
        self.undo_packets = 0
        self.css_rtt = 0
        self.publish(0)

    cdef void on_spurious(self, int64_t now) noexcept:
        """Section 4.9: take the last reduction back, as long as nothing was lost after it."""
        if self.undo_packets > self.packets:
            self.packets = self.undo_packets
            self.threshold = self.undo_threshold
            self.largest = self.undo_largest
            self.epoch_at = 0
            self.publish(0)
        self.undo_packets = 0
