"""Peers that have vanished without a reset: behind a router that forgot them, say, or by a power cut.

1. A silent connection is probed by the system after IDLE_S, then every INTERVAL_S, PROBES times (tcp(7), TCP_KEEPIDLE
   and the like): two minutes in all, unless its rule says otherwise (`keepalive=`).
2. While something is on its way to the peer the system does not probe, and repeats that for a quarter of an hour. A
   peer that has acknowledged nothing for SILENCE_MS, although something was sent several times, counts as gone.
   TCP_USER_TIMEOUT would do that, but would also end a peer that is alive and merely does not read (a pager, a paused
   download): its window stays closed, and the system does not take answers to window probes for a sign of life.
"""


cdef enum:
    IDLE_S = 60
    INTERVAL_S = 20
    PROBES = 3
    SILENCE_MS = 120000


cdef struct Keepalive:
    int idle_s       # silence before the first probe; 0: there is none
    int interval_s   # from one probe to the next
    int probes       # in vain, after which the peer counts as gone


cdef void keep_alive(int fd, const Keepalive *how) noexcept nogil
cdef bint has_vanished(int fd) noexcept nogil
