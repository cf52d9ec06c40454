"""Letting packets gather.

A relay that is faster than the client finds a packet or two each time it wakes, and pays for a wake-up, a receive and a
send for each of them. So a socket that gets a stream of messages is not waited for, but looked at from time to time, as
a network card is whose driver holds interrupts back: then one call receives many, and they leave as one train.

Whoever waits for an answer must not wait for others. Therefore only streams gather: messages in quick succession, with
next to nothing the other way.

Call order: add to `came` with every read; when a decision is due, `gather_decide`; then follow `wait_us`.
"""


cdef int64_t gather_full(int64_t queue_bytes) noexcept nogil:
    """How many messages are to come together at a socket with such a queue, which must also hold what comes while they
    are read, and bursts."""
    return max(1, min(<int64_t>FULL, queue_bytes // (QUEUE_SHARE * PACKET_ROOM)))


cdef bint gather_is_due(const Gather *gather, int64_t now) noexcept nogil:
    """Whether the period is over."""
    return now - gather.begun_at >= PERIOD_US


cdef void gather_decide(Gather *gather, int64_t now, uint64_t answered, uint32_t dropped) noexcept nogil:
    """The period is over. `answered`: packets the other way, ever; `dropped`: by the kernel, ever, modulo 2**32."""
    cdef int64_t elapsed = now - gather.begun_at
    cdef int64_t gap = STAY_GAP_US if gather.wait_us else BEGIN_GAP_US
    cdef uint64_t answers = answered - gather.answered
    if gather.wait_us and dropped != gather.dropped:
        gather.rests_until = now + REST_US
    gather.wait_us = 0
    if now >= gather.rests_until and <int64_t>gather.came * gap >= elapsed and gather.came >= ONE_WAY * answers:
        gather.wait_us = max(1, min(<int64_t>LONGEST_US, elapsed * gather.full // <int64_t>gather.came))
    gather.begun_at = now
    gather.came = 0
    gather.answered = answered
    gather.dropped = dropped
