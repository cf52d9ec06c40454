"""The packets under way, by number: an array whose index is the number modulo a power of two.

    base <= number < next:  entries[number & mask], and its bit in `waiting`

Finding, adding and removing a packet take constant time however many are under way; walking over a range of numbers
skips 64 settled ones at a time. Packets that need no ack take a number but no entry. `next - base` never exceeds the
size of the array, so each bit belongs to one number.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef enum:
    SENT_DATA = 0x01      # carries [offset, offset + length) of the stream; a FIN counts one
    SENT_CREDIT = 0x02    # carries credit that the peer may be waiting for
    SENT_PROBE = 0x04     # probes the path's packet size: its loss says nothing about the path's load
    SENT_BURST = 0x08     # application limited: less was sent than was allowed
    SENT_LOST = 0x10      # declared lost, but remembered for a while: its ack would show that this was wrong
    SENT_PARCEL = 0x20    # carries a parcel
    SENT_TRIAL = 0x40     # went to an address of the peer that was not proven yet
    FIRST_SENT = 16       # entries at the start, and at rest
    MOST_SENT = 1048576   # most entries: 64 MiB; a 10 Gbit/s path of 1 s holds no more packets of 1200 bytes


cdef struct Sent:
    int64_t sent_at         # when
    uint64_t offset         # SENT_DATA
    uint32_t length         # SENT_DATA: numbers of the stream's offset space
    uint32_t size           # bytes of the packet
    uint64_t delivered      # bytes delivered when it was sent
    int64_t delivered_at    # when the ack arrived that made it that many
    int64_t first_sent_at   # when the packet of that ack was sent: the sample's interval begins there
    uint64_t lost           # bytes lost when it was sent
    uint32_t in_flight      # bytes in flight then, this packet included
    uint32_t flags          # SENT_*
    uint64_t parcel         # SENT_PARCEL: its tag


cdef struct SentTable:
    Sent *entries        # mask + 1 of them
    uint64_t *waiting    # a bit for each entry: in flight, or SENT_LOST
    uint64_t mask        # size of the array, less one
    uint64_t base        # lowest number that may be waiting
    uint64_t next        # number of the next packet


cdef int sent_init(SentTable *table, uint64_t first) noexcept nogil
cdef void sent_free(SentTable *table) noexcept nogil
cdef int sent_reserve(SentTable *table) noexcept nogil
cdef void sent_rest(SentTable *table) noexcept nogil
cdef Sent *sent_add(SentTable *table) noexcept nogil
cdef uint64_t sent_next(const SentTable *table, uint64_t number, uint64_t end) noexcept nogil
cdef void sent_settle(SentTable *table, uint64_t number) noexcept nogil

cdef inline Sent *sent_at(const SentTable *table, uint64_t number) noexcept nogil:
    return table.entries + (number & table.mask)
