"""Circles over other relays: two that lead to each other never see a socket of their own.

So a relay passes on the hops that a connection or datagram has left (TTL, hop limit), less one, as a router does (RFC
1812, section 5.3.1). In a circle each has fewer than the one before, and after the last hop none follows. It does so
only

* while the flows of a rule pile up, that is, hardly one of the last LOOK_EVERY has ended: in a circle none does;
* for peers that can be part of a circle: on this host, or at an address that the rule leads to. Others are ignored, so
  that no stranger can feign a circle.
"""

from libc.stdint cimport int64_t

from mproxy.relay._balance cimport Balance
from mproxy.relay._circle cimport Place


cdef enum:
    PILED_UP = 48  # of LOOK_EVERY
    FALLS = 16     # in a row, each with fewer hops than the one before, are not chance


cdef class HopCount:
    cdef bint counting      # flows pile up: hops are looked at and passed on
    cdef int64_t standing   # connections or flows that had not ended when looked at last
    cdef int last           # hops of the last one
    cdef int falls          # in a row

    cdef bint look(self, int64_t standing) noexcept
    cdef bint note(self, int hops) noexcept


cdef bint may_come_round(const Place *peer, const Place *met, Balance balance) noexcept
cdef void save_hops(int listener, bint on) noexcept nogil
cdef int saved_hops(int fd) noexcept nogil
cdef void set_hops(int fd, int family, int hops) noexcept nogil
