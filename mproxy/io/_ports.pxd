"""Resting ports: no flow gets a port of this host before everything on its way to the port's last flow has arrived or
is lost. Otherwise a late answer would reach another client.

One table for the process that imports this and all that it forks afterwards: the kernel gives a port that one worker
releases to the next one that asks, whoever that is. A port rests from its release on, at most for REST_MOST_US. Port
numbers are in host byte order; times are microseconds of the loop's clock.
"""

from libc.stdint cimport int64_t, uint16_t


cdef enum:
    REST_MOST_US = 10000000  # name servers give up on a name after 5 to 10 s, and answer only then


cdef enum Rest:
    RESTED = 0        # anybody may have it
    MAY_END = 1       # no answer is owed: only a duplicate could still come, so at need it may be used
    MUST_NOT_END = 2  # an answer may come


cdef void port_rest(uint16_t port, int64_t now, int64_t rest_us, bint owed) noexcept nogil
cdef Rest port_rests(uint16_t port, int64_t now) noexcept nogil
