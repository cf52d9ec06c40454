"""Datagrams of a session: those that wait for the carrier, and those of which pieces have come.

Nothing of them is sent again, and none may hold up what is newer: a queue that is full loses its oldest, and one that
has waited for longer than WAIT_US is not sent any more. With the carrier goes what was under way.

What a carrier takes at a time may be less than a datagram: it goes in pieces then, each in a frame of its own. Pieces
of PARTIAL datagrams are kept at a time; a datagram of which one is missing is forgotten for a newer one.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from mproxy._frames cimport Frame
from mproxy._ring cimport Ring
from mproxy.ground._ranges cimport RangeSet


cdef enum:
    QUEUE_BYTES = 524288    # waiting, with 24 more for each: 4 ms of a gigabit
    WAIT_US = 1000000       # whoever sends datagrams has asked again by then,
    DIAL_US = 4000000       # but for a carrier it may wait longer by this, if nothing newer comes
    PARTIAL = 4             # datagrams of which pieces are kept
    MOST_GAPS = 64          # ranges of one that have come


cdef struct QueuedDatagram:
    int64_t at              # when it was put
    uint32_t flow           # whose; not 0
    uint32_t number         # each of a side has another one
    uint16_t association    # number of its target
    uint16_t length         # bytes, which follow in the ring


cdef struct PartialDatagram:
    uint32_t flow           # whose
    uint32_t number         # which of it
    uint32_t block          # of the pool, for the whole datagram
    uint32_t capacity       # of it; 0: there is no such datagram
    uint16_t association    # number of its target
    uint16_t length         # of the whole
    bint is_stale           # it was here at the last look
    RangeSet found          # bytes of it that have come


cdef struct Datagrams:
    Ring ring               # what waits and what is planned, oldest first: QueuedDatagram, bytes
    uint64_t next           # offset of the oldest of which something is to be planned
    uint16_t begun          # bytes of it that are planned
    uint32_t planned        # frames planned and not sent
    uint32_t last_number    # given
    int64_t now             # when the newest was put
    uint8_t next_partial    # to be given up when another one needs the place
    PartialDatagram partial[PARTIAL]  # that come in pieces, in any order, with gaps
    # ever
    uint64_t sent           # given to a carrier
    uint64_t received       # from it
    uint64_t dropped        # of those to be sent: there was no room, or no time


cdef inline bint datagrams_wait(const Datagrams *datagrams) noexcept nogil:
    """Whether there is something to be planned."""
    return datagrams.next < datagrams.ring.tail


cdef inline uint32_t datagrams_waiting(const Datagrams *datagrams) noexcept nogil:
    """Bytes in the queue."""
    return <uint32_t>(datagrams.ring.tail - datagrams.next)


cdef bint datagrams_put(Datagrams *datagrams, uint32_t flow, uint16_t association, const uint8_t *data, uint32_t length,
                        int64_t now, size_t *account) noexcept nogil
cdef uint32_t datagrams_ahead(Datagrams *datagrams) noexcept nogil
cdef uint64_t datagrams_plan(Datagrams *datagrams, uint32_t most, Frame *frame) noexcept nogil
cdef void datagrams_sent(Datagrams *datagrams, uint64_t end, size_t *account) noexcept nogil
cdef void datagrams_attach(Datagrams *datagrams, int64_t now) noexcept nogil
cdef void datagrams_carrier_lost(Datagrams *datagrams, size_t *account) noexcept nogil
cdef void datagrams_tidy(Datagrams *datagrams, bint all_of_them, size_t *account) noexcept nogil
cdef int datagrams_take(Datagrams *datagrams, const Frame *frame, const uint8_t *payload, const uint8_t **data,
                        uint32_t *length, size_t *account) noexcept nogil
