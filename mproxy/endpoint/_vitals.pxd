"""What a carrier that is in doubt knows of its path: how long it takes, whether anything moves, what gets lost.

Asked only when a heartbeat was missed, or when nothing that was sent is acknowledged.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from mproxy._session cimport Session
from mproxy.carrier._carrier cimport Carrier


cdef struct Vitals:
    int64_t looked_at       # when last looked at, 0: never
    bint loses_full         # the path answers, and a packet was repeated in vain: full ones get lost on it
    bint only_acks          # ours is acknowledged, and nothing else comes: that, or nobody reads there
    int told                # the observer was told that full packets get lost: 1 perhaps, 2 surely
    uint64_t acked_bytes    # of ours, acknowledged by the peer's system until then
    uint32_t packets        # received until then
    uint32_t data_packets   # of these, with data: in order or not
    uint64_t released       # what the peer's session had acknowledged at the last timer
    # whether it is of use
    int64_t attached_at     # when it came
    uint64_t moved          # what applications had got by then, both ways
    int failures            # carriers in a row that died soon, having moved little


cdef void vitals_attach(Vitals *vitals, Session session, int64_t now) noexcept
cdef void vitals_examine(Vitals *vitals, Session session, Carrier carrier, int64_t now) noexcept
cdef int vitals_news(Vitals *vitals, Session session) noexcept
cdef void vitals_died(Vitals *vitals, Session session) noexcept
