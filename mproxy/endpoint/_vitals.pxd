"""What a carrier in doubt knows of its path: how long it takes, whether anything moves, what gets lost.

It is asked only when a heartbeat was missed, or when nothing that was sent is acknowledged.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from mproxy._session cimport Session
from mproxy.carrier._carrier cimport Carrier


cdef struct Vitals:
    int64_t looked_at       # when last looked at; 0: never
    bint loses_full         # the path answers, yet a packet was repeated in vain: full packets get lost on it
    bint only_acks          # our bytes are acknowledged, but nothing else arrives: that again, or nobody reads there
    int told                # that full packets get lost: 1 perhaps, 2 certainly
    uint64_t acked_bytes    # our bytes that the peer's system had acknowledged by then
    uint32_t packets        # received by then
    uint32_t data_packets   # those with data, in order or not
    uint64_t released       # what the peer's session had acknowledged at the last timer
    # whether the carrier is of use
    int64_t attached_at     # when it was attached
    uint64_t moved          # bytes that applications had got by then, both ways
    int failures            # carriers in a row that died soon, having moved little


cdef void vitals_attach(Vitals *vitals, Session session, int64_t now) noexcept
cdef void vitals_examine(Vitals *vitals, Session session, Carrier carrier, int64_t now) noexcept
cdef bint vitals_sent(Session session, int64_t now) noexcept
cdef int vitals_news(Vitals *vitals, Session session) noexcept
cdef void vitals_died(Vitals *vitals, Session session) noexcept
