"""Sessions that take much time for few bytes. Why: _cost.pxd."""

from libc.string cimport memset

from mproxy.ground._clock cimport processor_time, read_clock
from mproxy.io._loop cimport BUFFER_BYTES

cdef enum:
    LONG_PUMP_US = 200       # a pump that takes no longer holds nobody up
    SLOW_BYTES_US = 50       # a session that moves fewer bytes in a microsecond is slow
    MEASURED_US = 10000      # time over which this is measured
    FORGET_US = 250000       # after this time half of it counts
    FREE_PART = 10           # one part in this many of the time is given to all slow sessions, evenly
    FREE_US = 2000           # of which a session may save up this much
    FIRST_READ_BYTES = 2048  # while its behaviour is not known yet; doubles with every quick pump
    LEAST_READ_BYTES = 128   # for one whose frames cost much: four OPENs


cdef void cost_init(Cost *cost) noexcept nogil:
    """Begin with a session of which nothing is known."""
    memset(cost, 0, sizeof(cost[0]))
    cost.read_bytes = FIRST_READ_BYTES


cdef void cost_begin(Cost *cost, uint64_t moved) noexcept nogil:
    """A pump begins; `moved` counts the session's bytes."""
    cost.moved_before = moved
    cost.began = processor_time() if cost.precise else read_clock()


cdef void cost_end(Cost *cost, uint64_t moved, int64_t now, int slow_count, bint alone) noexcept nogil:
    """The pump is over; `slow_count` slow sessions are waiting; `alone`: nobody else has done anything lately.

    A little time is free for everybody, for heartbeats and key strokes; what was done a while ago no longer counts.
    """
    cdef int64_t spent_us = (processor_time() if cost.precise else read_clock()) - cost.began
    cdef int64_t elapsed = now - cost.ended_at
    cdef int64_t free_us = min(<int64_t>FREE_US, cost.free_us + elapsed // (FREE_PART * (slow_count + 1)))
    cdef int64_t charged_us
    if spent_us > LONG_PUMP_US and not cost.precise:
        cost.precise = True
        spent_us = LONG_PUMP_US
    charged_us = max(<int64_t>0, spent_us - free_us)
    cost.ended_at = now
    cost.free_us = max(<int64_t>0, free_us - spent_us)
    if elapsed >= FORGET_US:
        cost.spent_us >>= min(elapsed // FORGET_US, <int64_t>32)
        cost.moved_bytes >>= min(elapsed // FORGET_US, <int64_t>32)
    cost.spent_us += charged_us
    cost.moved_bytes += moved - cost.moved_before
    cost.slow = not alone and cost.moved_bytes < <uint64_t>cost.spent_us * SLOW_BYTES_US
    if cost.spent_us > MEASURED_US:
        cost.spent_us //= 2
        cost.moved_bytes //= 2
    cost.long_pump = cost.slow and spent_us > LONG_PUMP_US
    if cost.long_pump:
        cost.read_bytes = max(cost.read_bytes // 2, <size_t>LEAST_READ_BYTES)
    elif alone or spent_us < LONG_PUMP_US // 4:
        cost.precise = cost.slow or slow_count > 0  # among many competitors nobody is charged for what others took
        if cost.read_bytes < BUFFER_BYTES:
            cost.read_bytes *= 2
