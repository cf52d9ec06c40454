"""Ports of this host that rest: nobody gets the port of a UDP flow before what was on its way to that flow has
come, or is lost. Otherwise a late answer would reach another client.

One table for the process that imports this and all that it forks afterwards: the kernel gives a port that one worker
let go to the next one who asks, whoever that is. A port rests from then on, at most REST_MOST_US. Port numbers are in
host byte order; times are microseconds of the loop's clock.
"""

from libc.stdint cimport int64_t, uint16_t


cdef enum:
    REST_MOST_US = 10000000  # resolvers give up on a name after 5 to 10 s, and answer only then


cdef enum Rest:
    RESTED = 0        # anybody may have it
    MAY_END = 1       # nothing is owed: only what comes twice could still come, so at need it may be had
    MUST_NOT_END = 2  # an answer may come


cdef void port_rest(uint16_t port, int64_t now, int64_t rest_us, bint owed) noexcept nogil
cdef Rest port_rests(uint16_t port, int64_t now) noexcept nogil
