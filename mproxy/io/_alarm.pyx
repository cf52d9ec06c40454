"""A timer in C. Why it exists: _alarm.pxd."""

from libc.stdint cimport uint64_t
from libc.string cimport memset

from mproxy.ground._clock cimport CLOCK_MONOTONIC, NEVER, timespec
from mproxy.io._loop cimport EPOLLET, EPOLLIN


cdef extern from "<sys/timerfd.h>" nogil:
    struct itimerspec:
        timespec it_interval
        timespec it_value
    int TFD_NONBLOCK, TFD_CLOEXEC, TFD_TIMER_ABSTIME
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec *new, itimerspec *old)

cdef extern from "<unistd.h>" nogil:
    long read(int fd, void *data, size_t length)


cdef void alarm_ready(Source *source, uint32_t events) noexcept:
    cdef Alarm alarm = <Alarm>source.owner
    cdef uint64_t count
    if read(source.fd, &count, sizeof(count)) < 0:
        return  # it was set again meanwhile
    alarm.at = NEVER
    alarm.loop.schedule(alarm.work)


cdef class Alarm:
    """One deadline at a time; `set` it again as often as you like. It must not outlive the work it queues."""

    def __cinit__(self):
        self.source.fd = -1
        self.at = NEVER

    cdef int open(self, Loop loop, Work *work) noexcept:
        """Prepare; -1 with errno."""
        cdef int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
        if fd < 0:
            return -1
        self.loop = loop
        self.work = work
        self.source.fd = fd
        self.source.ready = alarm_ready
        self.source.owner = <void *>self
        _alarms.add(self)
        return loop.add(&self.source, EPOLLIN | EPOLLET)

    cdef void set(self, int64_t at) noexcept:
        """Queue the work at `at`; NEVER: not at all. A time in the past means now."""
        cdef itimerspec when
        if at == self.at or self.source.fd < 0:
            return
        self.at = at
        memset(&when, 0, sizeof(when))
        if at != NEVER:
            at = max(at, <int64_t>1)  # zero would mean never
            when.it_value.tv_sec = at // 1000000
            when.it_value.tv_nsec = at % 1000000 * 1000
        timerfd_settime(self.source.fd, TFD_TIMER_ABSTIME, &when, NULL)

    cdef void close(self) noexcept:
        """Never ring again."""
        if self.source.fd >= 0:
            self.loop.close(&self.source)
            self.loop.soon.append(lambda: _alarms.discard(self))


_alarms = set()  # open ones: the kernel holds a pointer to each
