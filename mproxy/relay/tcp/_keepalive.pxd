"""Peers that have vanished: without a reset, behind a router that forgot them, or with their power cut.

1. A silent connection is probed by the system after IDLE_S, every INTERVAL_S, PROBES times (tcp(7), TCP_KEEPIDLE and
   its like): a minute and another one.
2. While something is on its way to the peer the system does not probe, and sends that again for a quarter of an hour.
   Who has acknowledged nothing for SILENCE_MS, though it was sent something several times, is taken for gone.
   TCP_USER_TIMEOUT would do that, but also end a peer that lives and merely does not read (a pager, a paused
   download): its window stays closed, and the system takes no answer to a probe of the window for a sign of life.
"""


cdef enum:
    IDLE_S = 60
    INTERVAL_S = 20
    PROBES = 3
    SILENCE_MS = 120000


cdef void keep_alive(int fd) noexcept nogil
cdef bint has_vanished(int fd) noexcept nogil
