"""Time: microseconds of a clock that never goes back, and NEVER.

The core takes the time as an argument: of this page it uses NEVER alone.
"""

from libc.stdint cimport int64_t


cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int CLOCK_MONOTONIC, CLOCK_THREAD_CPUTIME_ID
    int clock_gettime(int clock, timespec *out)


cdef enum:
    NEVER = 0x7FFFFFFFFFFFFFFF  # a deadline that does not come


cdef inline int64_t read_clock() noexcept nogil:
    """The time."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1000000 + now.tv_nsec // 1000


cdef inline int64_t processor_time() noexcept nogil:
    """What this thread has had of a processor."""
    cdef timespec now
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now)
    return <int64_t>now.tv_sec * 1000000 + now.tv_nsec // 1000
