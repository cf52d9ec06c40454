"""What the receiver of packets remembers of their numbers, and when and how it acknowledges.

    floor <= numbers: every packet below floor counts as seen, every one in `numbers` has been seen

A packet seen before is a repetition, by the network or by someone else, and is not looked at again. An ack goes out at
once when the sender asks for it (WANT_ACK), for the first and the third packet behind a gap, else after ACK_EVERY
packets or `delay`; before that it goes only with data that leaves anyway.

ACK_RANGES    type 1, largest 8, delay 4, credit 8, further ranges 1, varint length of the first range less one, then,
              downwards, for each further one: varint of the missing numbers between less one, of its length less one
ACK_NEXT      type 1, packet number that this answers 8 (0: none), delay 4, credit 8, offset expected next 8
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from mproxy.ground._ranges cimport RangeSet


cdef enum:
    PACKET_THRESHOLD = 3   # packets received beyond a gap that make it a loss (RFC 9002 section 6.1.1, RFC 5681)
    MOST_OWED = 3          # duplicate acks sent in one go: as many as mean a loss
    ACK_EVERY = 32          # most packets left without an ack; the sender usually asks for one earlier
    MOST_NUMBER_RANGES = 1024  # remembered; beyond that the lowest are dropped
    MOST_ACK_RANGES = 64    # in one ack: at 5 % loss each range is sent some 30 times before it drops out
    ACK_RANGES_BYTES = 22   # without the ranges
    ACK_NEXT_BYTES = 29
    VARINTS_BYTES = 12      # of a range: two varints, enough for gaps and lengths far beyond one window


cdef struct Acks:
    RangeSet numbers     # seen
    uint64_t floor       # everything below is seen, or too old to tell
    uint64_t largest     # highest number seen
    int64_t largest_at   # when it arrived
    uint32_t unacked     # packets that want an ack and have not been given one
    bint due             # send an ack with the next packet, or in a packet of its own
    int64_t due_at       # when the ack falls due; NEVER: none is waiting
    int64_t delay_us     # longest time to hold an ack back
    uint32_t hurry       # packets still to come beyond a gap before the sender counts it as lost
    bint in_order        # gbn: acks give the offset expected, not packet numbers
    uint32_t owed        # gbn: duplicate acks to be sent one by one, because the sender counts them
    uint64_t answered    # gbn: the packet that the next ack answers; 0: a corrupt one
    bint pinned          # gbn: that packet wants an answer of its own


cdef struct AckInfo:
    uint64_t largest     # ACK_RANGES: highest number; ACK_NEXT: the packet answered
    int64_t delay_us     # how long the peer held the ack back
    uint64_t credit      # the peer's limit
    uint64_t next        # ACK_NEXT: offset
    uint32_t count       # ACK_RANGES: further ranges
    uint64_t low         # ACK_RANGES: lowest number of the first range
    const uint8_t *rest  # ACK_RANGES: where the further ranges begin


cdef void acks_init(Acks *acks, uint64_t first, int64_t delay_us, bint in_order) noexcept nogil
cdef void acks_free(Acks *acks) noexcept nogil
cdef bint acks_is_new(const Acks *acks, uint64_t number) noexcept nogil
cdef int acks_note(Acks *acks, uint64_t number, int64_t now) noexcept nogil
cdef void acks_want(Acks *acks, bint in_turn, bint at_once, int64_t now) noexcept nogil
cdef void acks_answer(Acks *acks, uint64_t number, bint itself) noexcept nogil
cdef void acks_sent(Acks *acks) noexcept nogil
cdef void acks_owe(Acks *acks) noexcept nogil
cdef uint32_t acks_write(const Acks *acks, uint8_t *p, uint32_t room, uint64_t credit, uint64_t next,
                         int64_t now) noexcept nogil
cdef int acks_parse(const uint8_t *p, const uint8_t *end, AckInfo *info) noexcept nogil
cdef int acks_next_range(AckInfo *info, const uint8_t *end, uint64_t *low, uint64_t *high) noexcept nogil
