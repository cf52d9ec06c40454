"""Attempts that go on beside the newest one: _race.pxd. The pair's next address is its owner's to dial: _tcp.pyx."""

from functools import partial

from cpython.ref cimport PyObject, Py_XDECREF
from libc.errno cimport EADDRNOTAVAIL, ETIMEDOUT
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc

from mproxy.net._loop cimport EPOLLET, EPOLLOUT
from mproxy.net._socket cimport pending_error
from mproxy.relay._pair cimport drop_backend


cdef class Race:
    """The attempts of one pair, whose `server` and `backend` are the newest one."""

    def __init__(self, Loop loop, observer, key, Balance balance):
        self.loop = loop
        self.observer = observer
        self.key = key
        self.balance = balance
        self.tried = []

    def on_due(self):
        """The newest attempt's time is over; called by the loop."""
        self.timer = None
        self.is_due = True
        self.loop.schedule(&self.pair.work)

    cdef Backend next(self):
        """An address that was not tried yet, or None."""
        cdef Backend backend = self.balance.choose(self.loop.now_us, self.tried)
        if backend is not None:
            self.tried.append(backend)
        return backend

    cdef bint has_other(self) noexcept:
        """Whether there is such an address."""
        return len(self.tried) < len(self.balance.backends)

    cdef void wait(self) noexcept:
        """The newest attempt begins: give it its time."""
        self.rest()
        self.timer = self.loop.call_later(ATTEMPT_US, self.on_due)

    cdef void rest(self) noexcept:
        self.is_due = False
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    cdef void failed(self, Backend backend, int64_t began, int error) noexcept:
        """An attempt was not answered, or in the negative."""
        # Without a free port of our own (EADDRNOTAVAIL) the target is not at fault.
        if error != EADDRNOTAVAIL and self.balance.failed(backend, began, self.loop.now_us, error):
            self.loop.guard(partial(self.observer.on_target_down, self.key, backend.text, error), None)

    cdef void step_aside(self) noexcept:
        """The newest attempt had its time: let the pair begin another beside it."""
        cdef Pair *pair = self.pair
        cdef Attempt *attempt
        self.is_due = False
        if pair.backend == NULL:
            return
        attempt = <Attempt *>calloc(1, sizeof(Attempt))
        if attempt == NULL:
            return
        self.failed(<Backend>pair.backend, pair.dialled_at, ETIMEDOUT)
        attempt.source.fd = pair.server.source.fd
        attempt.source.ready = attempt_ready
        attempt.source.owner = attempt
        attempt.race = <void *>self
        attempt.backend = pair.backend
        attempt.began_at = pair.dialled_at
        attempt.next = self.first
        self.first = attempt
        self.loop.modify(&attempt.source, EPOLLOUT | EPOLLET)
        pair.server.source.fd = -1
        pair.backend = NULL

    cdef bint settle(self, Mover mover, int *out_error) noexcept:
        """Look at those that stepped aside and have an answer now. True: one of them won and is the newest now; else
        `out_error` is that of one that failed, if any did."""
        cdef Attempt *attempt = self.first
        cdef Attempt *after
        cdef int error
        while attempt != NULL:
            after = attempt.next
            if attempt.is_ready:
                error = pending_error(attempt.source.fd)
                if error == 0:
                    self.win(attempt, mover)
                    return True
                out_error[0] = error
                self.failed(<Backend>attempt.backend, attempt.began_at, error)
                self.close(attempt)
            attempt = after
        return False

    cdef void win(self, Attempt *attempt, Mover mover) noexcept:
        """Make that attempt the newest, in the place of the one that is."""
        cdef Pair *pair = self.pair
        self.loop.close(&pair.server.source)
        drop_backend(pair)
        pair.backend = attempt.backend
        pair.server.source.fd = attempt.source.fd
        pair.server.writable = True
        pair.server.readable = pair.server.failed = pair.server.hung_up = False
        mover.watch_again(&pair.server)
        self.take(attempt)

    cdef void timed_out(self) noexcept:
        """Nobody answered until the connect time-out."""
        cdef Attempt *attempt = self.first
        if self.pair.backend != NULL:
            self.failed(<Backend>self.pair.backend, self.pair.dialled_at, ETIMEDOUT)
        while attempt != NULL:
            self.failed(<Backend>attempt.backend, attempt.began_at, ETIMEDOUT)
            attempt = attempt.next

    cdef void take(self, Attempt *attempt) noexcept:
        """Forget the attempt; its connection and its reference are the caller's."""
        cdef Attempt **link = &self.first
        while link[0] != attempt:
            link = &link[0].next
        link[0] = attempt.next
        self.loop.free_later(attempt)

    cdef void close(self, Attempt *attempt) noexcept:
        self.take(attempt)
        self.loop.close(&attempt.source)
        (<Backend>attempt.backend).connections -= 1
        Py_XDECREF(<PyObject *>attempt.backend)

    cdef void over(self) noexcept:
        """It is decided, or the pair ends: close every attempt but the newest."""
        self.rest()
        while self.first != NULL:
            self.close(self.first)


cdef void attempt_ready(Source *source, uint32_t events) noexcept:
    cdef Attempt *attempt = <Attempt *>source.owner
    attempt.is_ready = True
    (<Race>attempt.race).loop.schedule(&(<Race>attempt.race).pair.work)
