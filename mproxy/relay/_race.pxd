"""Several attempts to connect at once, for one caller (RFC 8305, section 5).

The newest attempt is the pair's own server side. When that has not answered within ATTEMPT_US, and there is another
address to try, it steps aside: it goes on here while the pair tries the next. Racing adds attempts and ends none before
its time: who answers first wins, then the others are closed. An address that had to step aside is noted as silent, so
that other callers begin with another one; when it wins nevertheless, that is taken back.
"""

from libc.stdint cimport int64_t

from mproxy.net._loop cimport Loop, Source, Timer
from mproxy.relay._balance cimport Backend, Balance
from mproxy.relay._flow cimport Mover
from mproxy.relay._pair cimport Pair


cdef enum:
    ATTEMPT_US = 250000  # RFC 8305, section 8: Connection Attempt Delay


cdef struct Attempt:
    Source source        # the connection
    void *race           # borrowed Race
    void *backend        # owned Backend
    int64_t began_at     # when it was dialled
    bint is_ready        # it was answered, or failed
    Attempt *next        # one that began before


cdef class Race:
    cdef Loop loop            # runs everything here
    cdef object observer      # told of addresses that are down
    cdef object key           # the rule, for the observer
    cdef Balance balance      # the addresses
    cdef Pair *pair           # whose race this is
    cdef list tried           # every Backend that was chosen so far
    cdef Attempt *first       # attempts that stepped aside
    cdef Timer timer          # ends the newest one's time; None: not set
    cdef bint is_due          # it has ended

    cdef Backend next(self)
    cdef bint has_other(self) noexcept
    cdef void wait(self) noexcept
    cdef void rest(self) noexcept
    cdef void failed(self, Backend backend, int64_t began, int error) noexcept
    cdef void step_aside(self) noexcept
    cdef bint settle(self, Mover mover, int *out_error) noexcept
    cdef void win(self, Attempt *attempt, Mover mover) noexcept
    cdef void timed_out(self) noexcept
    cdef void take(self, Attempt *attempt) noexcept
    cdef void close(self, Attempt *attempt) noexcept
    cdef void over(self) noexcept
