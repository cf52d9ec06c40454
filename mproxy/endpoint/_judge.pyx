"""Who takes much time for few bytes. What for: _judge.pxd."""

from libc.string cimport memset

from mproxy.io._loop cimport BUFFER_BYTES, read_clock


cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int CLOCK_THREAD_CPUTIME_ID
    int clock_gettime(int clock, timespec *out)

cdef enum:
    LONG_PUMP_US = 200       # a pump that takes no longer holds nobody up
    SLOW_BYTES_US = 50       # who moves fewer bytes in a microsecond is slow
    JUDGED_US = 10000        # the time that this is judged by
    FORGET_US = 250000       # after this half of it counts
    FREE_PART = 10           # of the time one part in so many is given to all slow sessions, evenly
    FREE_US = 2000           # of which one may save so much
    FIRST_READ_BYTES = 2048  # while its ways are not known yet; doubles with every quick pump
    LEAST_READ_BYTES = 128   # of one whose frames cost much: four OPENs


cdef int64_t processor_time() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now)
    return <int64_t>now.tv_sec * 1000000 + now.tv_nsec // 1000


cdef void judge_init(Judge *judge) noexcept nogil:
    """Begin with a session of which nothing is known."""
    memset(judge, 0, sizeof(judge[0]))
    judge.read_bytes = FIRST_READ_BYTES


cdef void judge_begin(Judge *judge, uint64_t moved) noexcept nogil:
    """A pump begins; `moved` counts the session's bytes."""
    judge.moved_before = moved
    judge.began = processor_time() if judge.precise else read_clock()


cdef void judge_end(Judge *judge, uint64_t moved, int64_t now, int slow_count, bint alone) noexcept nogil:
    """The pump is over; `slow_count` sessions are slow and waiting; `alone`: nobody else did anything of late.

    A little time is everybody's own, for heartbeats and key strokes; what was done a while ago counts no more.
    """
    cdef int64_t spent_us = (processor_time() if judge.precise else read_clock()) - judge.began
    cdef int64_t elapsed = now - judge.judged_at
    cdef int64_t free_us = min(<int64_t>FREE_US, judge.free_us + elapsed // (FREE_PART * (slow_count + 1)))
    cdef int64_t charged_us
    if spent_us > LONG_PUMP_US and not judge.precise:
        judge.precise = True
        spent_us = LONG_PUMP_US
    charged_us = max(<int64_t>0, spent_us - free_us)
    judge.judged_at = now
    judge.free_us = max(<int64_t>0, free_us - spent_us)
    if elapsed >= FORGET_US:
        judge.spent_us >>= min(elapsed // FORGET_US, <int64_t>32)
        judge.moved_bytes >>= min(elapsed // FORGET_US, <int64_t>32)
    judge.spent_us += charged_us
    judge.moved_bytes += moved - judge.moved_before
    judge.slow = not alone and judge.moved_bytes < <uint64_t>judge.spent_us * SLOW_BYTES_US
    if judge.spent_us > JUDGED_US:
        judge.spent_us //= 2
        judge.moved_bytes //= 2
    judge.long_pump = judge.slow and spent_us > LONG_PUMP_US
    if judge.long_pump:
        judge.read_bytes = max(judge.read_bytes // 2, <size_t>LEAST_READ_BYTES)
    elif alone or spent_us < LONG_PUMP_US // 4:
        judge.precise = judge.slow or slow_count > 0  # where many compete nobody is judged by what others took
        if judge.read_bytes < BUFFER_BYTES:
            judge.read_bytes *= 2
