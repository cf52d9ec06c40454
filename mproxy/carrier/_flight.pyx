"""How many bytes may be in flight on a path that may be slow. The states: _flight.pxd."""

from libc.stdint cimport INT64_MAX
from libc.string cimport memset


cdef enum:
    FIRST_SEGMENTS = 10           # as the kernel itself begins (RFC 6928)
    LONG_RTT_US = 50000           # from here on the kernel's window counts, too: the handshake may have opened it
    LARGEST_SEGMENT_BYTES = 9216  # no network has larger packets: beyond, the path does not leave the host
    LEAST_ROUND_BYTES = 8192      # fewer arrive in too few packets to show a rate
    LEAST_ROUND_US = 200000       # in FULL a shorter round is too noisy to judge by
    GROWTH = 2                    # for each byte that is acknowledged soon: one more than the kernel's window grows by
    SOON_US = 100000              # beyond the shortest round trip; what took longer has waited in a queue
    LATE_US = 300000              # the same for the first round, which has no rate to be compared with
    QUEUE_US = 100000             # how long the queue may be while bulk is alone,
    SHARED_QUEUE_US = 20000       # and while small frames share the carrier,
    QUEUE_BYTES = 2048            # with so many bytes more: or the slower of two directions would keep losing ground
    FREE_BYTES = 40000            # a round of so many bytes, more than most token buckets pass at once,
    FREE_RATE = 100000            # at so many bytes per second shows a path that is not slow
    PROBE_ROUNDS = 8              # rounds in FULL before a probe
    FULL_US = 30000000            # how long bulk must be alone before a slow path is left to the kernel


cdef void flight_init(Flight *flight) noexcept nogil:
    """Begin with a new carrier."""
    memset(flight, 0, sizeof(flight[0]))
    flight.state = FlightState.STARTING


cdef void flight_idle(Flight *flight) noexcept nogil:
    """There is nothing to send: this round says nothing of the path."""
    flight.began_at = 0


cdef int64_t flight_bound(Flight *flight, const FlightReport *report, int64_t now) noexcept nogil:
    """How many bytes may be unacknowledged now; INT64_MAX: no bound from here.

    Call it whenever bulk waits, before sending some of it.
    """
    if flight.allowed_bytes == 0:
        flight.allowed_bytes = FIRST_SEGMENTS * <int64_t>report.segment_bytes
        if report.least_rtt_us >= LONG_RTT_US:
            flight.allowed_bytes = max(flight.allowed_bytes, report.window_bytes)
        if report.segment_bytes > LARGEST_SEGMENT_BYTES:
            flight.state = FlightState.FREE
    measure(flight, report, now)
    if flight.state == FlightState.FREE and report.shared and flight.rate and (
            report.rtt_us - report.least_rtt_us > SOON_US):
        become_full(flight, now)
    if flight.state == FlightState.FULL or flight.state == FlightState.PROBING:
        if report.shared:
            flight.free_at = now + FULL_US
        elif now >= flight.free_at or flight.rate >= FREE_RATE:
            flight.state = FlightState.FREE
    if flight.state == FlightState.FREE:
        return INT64_MAX
    if flight.state == FlightState.FULL:
        flight.allowed_bytes = full_bytes(flight, report)
    return flight.allowed_bytes + (GROWTH * flight.soon_bytes if flight.state == FlightState.STARTING else 0)


cdef int64_t full_bytes(const Flight *flight, const FlightReport *report) noexcept nogil:
    """What keeps a path of known rate busy, with a short queue."""
    cdef int64_t queue_us = SHARED_QUEUE_US if report.shared else QUEUE_US
    cdef int64_t size = <int64_t>flight.rate * (report.least_rtt_us + queue_us) // 1000000 + QUEUE_BYTES
    return max(size, <int64_t>LEAST_FLIGHT_BYTES)


cdef void measure(Flight *flight, const FlightReport *report, int64_t now) noexcept nogil:
    """Go on with the round; when it ends begin the next."""
    cdef int64_t acked = <int64_t>(report.acked_bytes - flight.began_acked)
    cdef int64_t elapsed = now - flight.began_at
    cdef bint soon = elapsed <= report.least_rtt_us + SOON_US
    if flight.began_at:
        if soon:
            flight.soon_bytes = acked
        if acked < flight.round_bytes or (
                elapsed < LEAST_ROUND_US and (flight.state == FlightState.FULL or flight.state == FlightState.PROBING)):
            return
        end_round(flight, acked, max(elapsed, <int64_t>1), report.least_rtt_us, now)
    flight.began_at = now
    flight.began_acked = report.acked_bytes
    flight.soon_bytes = 0
    flight.round_bytes = report.unacked_bytes if flight.state == FlightState.FREE else flight.allowed_bytes
    flight.round_bytes = max(flight.round_bytes, <int64_t>LEAST_ROUND_BYTES)


cdef void end_round(Flight *flight, int64_t acked, int64_t elapsed, int64_t least_rtt_us, int64_t now) noexcept nogil:
    """Judge the path by a round that has ended, in which so much was acknowledged."""
    cdef uint64_t before = flight.rate
    cdef bint soon = elapsed <= least_rtt_us + SOON_US
    cdef bint follows, goes_on
    flight.rate = <uint64_t>(acked * 1000000 // elapsed)
    follows = 2 * flight.rate >= 3 * before
    if flight.state == FlightState.FULL:
        flight.rate = (flight.rate + before) // 2
    if flight.state == FlightState.STARTING:
        goes_on = soon or (follows if before else elapsed <= least_rtt_us + LATE_US)
        if acked >= FREE_BYTES and flight.rate >= FREE_RATE:
            flight.state = FlightState.FREE
        elif goes_on:
            flight.allowed_bytes *= 1 + GROWTH if soon else 2
        else:
            become_full(flight, now)
    elif flight.state == FlightState.PROBING:
        if follows:
            flight.state = FlightState.STARTING
            flight.allowed_bytes *= 2
        else:
            flight.state = FlightState.FULL
            flight.rounds = 0
    elif flight.state == FlightState.FULL:
        flight.rounds += 1
        if flight.rounds >= PROBE_ROUNDS:
            flight.state = FlightState.PROBING
            flight.allowed_bytes *= 2


cdef void become_full(Flight *flight, int64_t now) noexcept nogil:
    flight.state = FlightState.FULL
    flight.rounds = 0
    flight.free_at = now + FULL_US
