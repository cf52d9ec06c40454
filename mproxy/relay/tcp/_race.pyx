"""Attempts of one caller: _race.pxd. The pair's next address is its owner's to dial: _connecting.pyx."""

from functools import partial

from cpython.ref cimport PyObject, Py_XDECREF
from libc.errno cimport EADDRNOTAVAIL, ETIMEDOUT

from mproxy.io._loop cimport Loop
from mproxy.relay.tcp._pair cimport drop_address


cdef class Race:
    """The attempts of one pair; the newest is its `server` and `address`."""

    def __init__(self, Loop loop, observer, key, Balance balance):
        self.attempts = Attempts(loop)
        self.observer = observer
        self.key = key
        self.balance = balance
        self.tried = []

    cdef TargetAddress next(self):
        """An address that has not been tried yet, or None."""
        cdef TargetAddress address = self.balance.choose(self.attempts.loop.now_us, self.tried)
        if address is not None:
            self.tried.append(address)
        return address

    cdef bint has_other(self) noexcept:
        """Whether there is such an address."""
        return len(self.tried) < self.balance.usable

    cdef void failed(self, TargetAddress address, int64_t began, int error) noexcept:
        """An attempt was refused or not answered."""
        cdef Loop loop = self.attempts.loop
        # If there is no free port here (EADDRNOTAVAIL) the target is not at fault.
        if error != EADDRNOTAVAIL and self.balance.failed(address, began, loop.now_us, error):
            loop.guard(partial(self.observer.on_target_down, self.key, address.text, error), None)

    cdef void step_aside(self) noexcept:
        """The newest attempt has had its time: let the pair begin another beside it."""
        cdef Pair *pair = self.pair
        if pair.address == NULL or not self.attempts.add(pair.server.source.fd, pair.address, pair.dialled_at):
            self.attempts.is_due = False
            return
        self.failed(<TargetAddress>pair.address, pair.dialled_at, ETIMEDOUT)
        pair.server.source.fd = -1
        pair.address = NULL

    cdef bint settle(self, Mover mover, int *out_error) noexcept:
        """Look at those that stepped aside and now have an answer. True: one of them has won and is the newest now;
        else `out_error` is the error of one that failed, if any did."""
        cdef Attempt *attempt = self.attempts.answered()
        while attempt != NULL:
            if self.attempts.error == 0:
                self.win(attempt, mover)
                return True
            out_error[0] = self.attempts.error
            self.failed(<TargetAddress>attempt.where, attempt.began_at, out_error[0])
            self.close(attempt)
            attempt = self.attempts.answered()
        return False

    cdef void win(self, Attempt *attempt, Mover mover) noexcept:
        """Make that attempt the newest, in place of the present one."""
        cdef Pair *pair = self.pair
        self.attempts.loop.close(&pair.server.source)
        drop_address(pair)
        pair.address = attempt.where
        pair.server.source.fd = self.attempts.take(attempt)
        pair.server.writable = True
        pair.server.readable = pair.server.failed = pair.server.hung_up = False
        mover.watch_again(&pair.server)

    cdef void timed_out(self) noexcept:
        """Nobody answered until the connect time-out."""
        cdef Attempt *attempt = <Attempt *>self.attempts.all.first
        if self.pair.address != NULL:
            self.failed(<TargetAddress>self.pair.address, self.pair.dialled_at, ETIMEDOUT)
        while attempt != NULL:
            self.failed(<TargetAddress>attempt.where, attempt.began_at, ETIMEDOUT)
            attempt = <Attempt *>attempt.in_all.next

    cdef void close(self, Attempt *attempt) noexcept:
        (<TargetAddress>attempt.where).connections -= 1
        Py_XDECREF(<PyObject *>attempt.where)
        self.attempts.close(attempt)

    cdef void over(self) noexcept:
        """It is decided, or the pair ends: close every attempt but the newest."""
        while self.attempts.all.first != NULL:
            self.close(<Attempt *>self.attempts.all.first)
        self.attempts.over()
