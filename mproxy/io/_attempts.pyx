"""Attempts that go on beside the newest one: _attempts.pxd."""

from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc

from mproxy.ground._list cimport list_prepend, list_remove
from mproxy.io._loop cimport EPOLLET, EPOLLOUT
from mproxy.io._socket cimport pending_error


cdef class Attempts:
    """The attempts of one owner, who sets `work`."""

    def __init__(self, Loop loop):
        self.loop = loop
        self.work = &self.own_work

    def on_due(self):
        """The newest attempt's time is over; called by the loop."""
        self.timer = None
        self.is_due = True
        self.loop.schedule(self.work)

    cdef void wait(self) noexcept:
        """The newest attempt begins: start its time."""
        self.rest()
        self.timer = self.loop.call_later(ATTEMPT_US, self.on_due)

    cdef void rest(self) noexcept:
        """The newest attempt's time is unlimited."""
        self.is_due = False
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    cdef bint add(self, int fd, void *where, int64_t began) noexcept:
        """The newest attempt steps aside: its descriptor, which the loop watches, is ours now. False: no memory."""
        cdef Attempt *attempt = <Attempt *>calloc(1, sizeof(Attempt))
        self.is_due = False
        if attempt == NULL:
            return False
        attempt.source.fd = fd
        attempt.source.ready = attempt_ready
        attempt.source.owner = attempt
        attempt.attempts = <void *>self
        attempt.where = where
        attempt.began_at = began
        list_prepend(&self.all, attempt, &attempt.in_all)
        self.loop.modify(&attempt.source, EPOLLOUT | EPOLLET)
        return True

    cdef Attempt *answered(self) noexcept:
        """An attempt with an answer that nobody has looked at; `error` is its errno, 0: it is connected. Or NULL."""
        cdef Attempt *attempt = <Attempt *>self.all.first
        while attempt != NULL and not attempt.is_ready:
            attempt = <Attempt *>attempt.in_all.next
        if attempt != NULL:
            attempt.is_ready = False
            self.error = pending_error(attempt.source.fd)
        return attempt

    cdef int take(self, Attempt *attempt) noexcept:
        """Forget the attempt; returns its descriptor, the caller's from now on."""
        list_remove(&self.all, attempt, &attempt.in_all)
        self.loop.free_later(attempt)
        return attempt.source.fd

    cdef void close(self, Attempt *attempt) noexcept:
        """It failed, or another one won."""
        self.take(attempt)
        self.loop.close(&attempt.source)

    cdef void over(self) noexcept:
        """It is decided, or the owner ends: close all."""
        self.rest()
        while self.all.first != NULL:
            self.close(<Attempt *>self.all.first)
        self.loop.unschedule(&self.own_work)


cdef void attempt_ready(Source *source, uint32_t events) noexcept:
    cdef Attempt *attempt = <Attempt *>source.owner
    attempt.is_ready = True
    (<Attempts>attempt.attempts).loop.schedule((<Attempts>attempt.attempts).work)
