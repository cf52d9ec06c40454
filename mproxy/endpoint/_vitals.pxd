"""What the kernel knows of a carrier that is in doubt: how long its path takes, whether anything moves, what gets lost.

Asked only when a heartbeat was missed, or when nothing that was sent is acknowledged: one system call (tcp(7),
TCP_INFO).
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from mproxy._session cimport Session


cdef struct Vitals:
    int fd                  # its socket
    int64_t looked_at       # when last looked at, 0: never
    bint loses_full         # the path answers, and a segment was repeated in vain: full ones get lost on it
    bint only_acks          # ours is acknowledged, and nothing else comes: that, or nobody reads there
    int told                # the observer was told that full segments get lost: 1 perhaps, 2 surely
    uint64_t acked_bytes    # of ours, acknowledged by the peer's kernel until then
    uint32_t segments       # received until then
    uint32_t data_segments  # of these, with data: in order or not
    uint64_t released       # what the peer's session had acknowledged at the last timer
    # whether it is of use
    int64_t attached_at     # when it came
    uint64_t moved          # what applications had got by then, both ways
    int failures            # carriers in a row that died soon, having moved little


cdef void vitals_attach(Vitals *vitals, Session session, int fd, int64_t now) noexcept
cdef void vitals_examine(Vitals *vitals, Session session, int64_t now) noexcept
cdef int vitals_news(Vitals *vitals, Session session) noexcept
cdef void vitals_died(Vitals *vitals, Session session) noexcept
