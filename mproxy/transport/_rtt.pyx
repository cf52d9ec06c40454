"""RFC 6298, with the delay of acks taken off (RFC 9002 section 5), and the probe timeout of its section 6.2."""


cdef void rtt_init(Rtt *rtt) noexcept nogil:
    """Forget everything: nothing is known of the path."""
    rtt.smoothed = rtt.variation = rtt.latest = rtt.minimum = rtt.minimum_at = 0


cdef void rtt_sample(Rtt *rtt, int64_t sample, int64_t ack_delay, int64_t now) noexcept nogil:
    """Take a measurement of `sample` microseconds, of which the peer says that it waited `ack_delay`.

    The delay is not subtracted below the minimum: a peer cannot make the path look shorter than it is (RFC 9002
    section 5.3). alpha = 1/8, beta = 1/4.
    """
    cdef int64_t error
    if sample < 1:
        sample = 1
    if rtt.minimum == 0 or sample <= rtt.minimum or now - rtt.minimum_at > MIN_RTT_WINDOW_US:
        rtt.minimum = sample
        rtt.minimum_at = now
    if sample - ack_delay >= rtt.minimum:
        sample -= ack_delay
    rtt.latest = sample
    if rtt.smoothed == 0:
        rtt.smoothed = sample
        rtt.variation = sample // 2
        return
    error = rtt.smoothed - sample
    rtt.variation += ((error if error >= 0 else -error) - rtt.variation) // 4
    rtt.smoothed += (sample - rtt.smoothed) // 8


cdef int64_t rtt_timeout(const Rtt *rtt, int64_t ack_delay, int backoff) noexcept nogil:
    """How long to wait for an ack that the peer may hold back for `ack_delay`; doubled `backoff` times.

    RTO = SRTT + max(G, 4 * RTTVAR) (RFC 6298 section 2.3), doubled as in section 5.5, bounded as in 2.5.
    """
    cdef int64_t wait = FIRST_RTO_US
    if rtt.smoothed > 0:
        wait = 4 * rtt.variation
        wait = rtt.smoothed + (wait if wait > GRANULARITY_US else GRANULARITY_US) + ack_delay
    while backoff > 0 and wait < MAX_RTO_US:
        wait *= 2
        backoff -= 1
    return wait if wait < MAX_RTO_US or rtt.smoothed >= MAX_RTO_US // 2 else MAX_RTO_US
