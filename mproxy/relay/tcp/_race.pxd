"""Several attempts to connect at once for one caller: io/_attempts.pxd, with the addresses of a rule.

The newest attempt is the pair's own server side. An address that had to step aside is noted as silent, so that other
callers begin with another one; if it wins after all, that is undone.
"""

from libc.stdint cimport int64_t

from mproxy.io._attempts cimport Attempt, Attempts
from mproxy.relay._balance cimport Balance, TargetAddress
from mproxy.relay.tcp._mover cimport Mover
from mproxy.relay.tcp._pair cimport Pair


cdef class Race:
    cdef Attempts attempts  # besides the newest; `where` is an owned TargetAddress
    cdef object observer    # told of addresses that are down
    cdef object key         # the rule, for the observer
    cdef Balance balance    # the addresses
    cdef Pair *pair         # whose race this is
    cdef list tried         # every TargetAddress that was chosen so far

    cdef TargetAddress next(self)
    cdef bint has_other(self) noexcept
    cdef void failed(self, TargetAddress address, int64_t began, int error) noexcept
    cdef void step_aside(self) noexcept
    cdef bint settle(self, Mover mover, int *out_error) noexcept
    cdef void win(self, Attempt *attempt, Mover mover) noexcept
    cdef void timed_out(self) noexcept
    cdef void close(self, Attempt *attempt) noexcept
    cdef void over(self) noexcept
