"""Watches the TCP connections of one rule for circles: those that come back to this relay (_circle.pxd), and those that
go round over another relay (_hops.pxd). A rule that is part of a circle is closed for a while."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from mproxy.io._loop cimport Loop
from mproxy.relay._balance cimport Balance
from mproxy.relay._hops cimport HopCount
from mproxy.relay.tcp._pair cimport Pair


cdef class CircleGuard:
    cdef Loop loop               # for the time
    cdef Balance balance         # where the rule leads
    cdef HopCount hops           # of connections
    cdef int64_t closed_until    # the rule is part of a circle: nobody is let in until then
    cdef int64_t doubted_until   # the system's list of sockets is not looked at until then

    cdef bint is_closed(self) noexcept
    cdef bint finds(self, Pair *youngest, uint64_t total, uint32_t now) noexcept
    cdef bint falls(self, Pair *pair) noexcept
    cdef bint comes_back(self, Pair *youngest) noexcept
