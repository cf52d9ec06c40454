"""Which of several targets a connection goes to, and which of them are down. Takes `now`, knows no socket.

Passive failover: a target that failed is left out for BACKOFF_US, doubling up to LONGEST_BACKOFF_US. When that is
over one connection tries it, while the others still leave it out. When all are down the one whose time is up first is
tried anyway: waiting would help nobody.
"""

from libc.stdint cimport int64_t, uint32_t

from mproxy.net._socket cimport Target


cdef enum:
    BACKOFF_US = 1000000           # a restarting server is back soon
    LONGEST_BACKOFF_US = 30000000  # one connection every 30 s is a small price for noticing


cdef class Backend:
    cdef readonly Target target          # its addresses; count 0: the name is not resolved yet
    cdef readonly uint32_t connections   # connected or being connected
    cdef readonly uint32_t failures      # in a row
    cdef readonly int64_t down_until     # not before then again, when `failures`


cdef class Balance:
    cdef readonly list backends     # in the order of the rule
    cdef public bint least          # fewest connections first; else in turn
    cdef uint32_t turn              # position behind the last one chosen

    cdef Backend choose(self, int64_t now)
    cdef Backend last_resort(self)
    cdef bint failed(self, Backend backend, int64_t now)
    cdef bint worked(self, Backend backend)
