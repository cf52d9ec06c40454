"""A timer in C, precise to some ten microseconds, that queues work of the loop. It is for pacing, for which the loop's
own timers (Python calls, whole milliseconds) are too coarse."""

from libc.stdint cimport int64_t, uint32_t

from mproxy.io._loop cimport Loop, Source, Work


cdef class Alarm:
    cdef Loop loop       # None once closed
    cdef Source source   # the timerfd
    cdef Work *work      # queued when the time has come
    cdef int64_t at      # when, in microseconds of Loop.now; NEVER while not set

    cdef int open(self, Loop loop, Work *work) noexcept
    cdef void set(self, int64_t at) noexcept
    cdef void close(self) noexcept
