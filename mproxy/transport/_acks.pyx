"""Acknowledging packets; rules and layout: _acks.pxd."""

from mproxy._wire cimport get32, get64, put32, put64
from mproxy.ground._clock cimport NEVER
from mproxy.transport._packet cimport ControlType, get_varint, put_varint
from mproxy.ground._ranges cimport (
    Range, ranges_add, ranges_at, ranges_drop_lowest, ranges_free, ranges_has, ranges_init,
)


cdef enum:
    MOST_DELAY_US = 0x7FFFFFFF  # that can be told


cdef void acks_init(Acks *acks, uint64_t first, int64_t delay_us, bint in_order) noexcept nogil:
    """The peer's packets begin with number `first`."""
    ranges_init(&acks.numbers)
    acks.floor = acks.largest = first
    acks.largest_at = 0
    acks.unacked = 0
    acks.due = False
    acks.due_at = NEVER
    acks.delay_us = delay_us
    acks.in_order = in_order
    acks.answered = 0
    acks.pinned = False
    acks.owed = acks.hurry = 0


cdef void acks_free(Acks *acks) noexcept nogil:
    """Give the memory back."""
    ranges_free(&acks.numbers)


cdef bint acks_is_new(const Acks *acks, uint64_t number) noexcept nogil:
    """Whether packet `number` has not been seen."""
    if number > acks.largest:
        return True
    return number >= acks.floor and not ranges_has(&acks.numbers, number)


cdef int acks_note(Acks *acks, uint64_t number, int64_t now) noexcept nogil:
    """Note an authentic new packet; 1 when it does not follow the highest so far, -1 without memory."""
    cdef bint in_turn = number == acks.largest + 1 or acks.numbers.count == 0
    if ranges_add(&acks.numbers, number, number + 1) < 0:
        return -1
    if acks.numbers.count > MOST_NUMBER_RANGES:
        ranges_drop_lowest(&acks.numbers)
        acks.floor = ranges_at(&acks.numbers, 0).start
    if number >= acks.largest:
        acks.largest = number
        acks.largest_at = now
    return 0 if in_turn else 1


cdef void acks_want(Acks *acks, bint in_turn, bint at_once, int64_t now) noexcept nogil:
    """The packet noted last wants an ack, and `in_turn` follows the one before; `at_once`: its sender says so."""
    acks.unacked += 1
    if not in_turn:
        acks.hurry = PACKET_THRESHOLD
        at_once = True
    if acks.hurry > 0:
        acks.hurry -= 1
        at_once = at_once or acks.hurry == 0  # by now the sender knows what to send again
    if at_once or acks.unacked >= ACK_EVERY:
        acks.due = True
    elif acks.due_at == NEVER:
        acks.due_at = now + acks.delay_us


cdef void acks_answer(Acks *acks, uint64_t number, bint itself) noexcept nogil:
    """gbn: the next ack answers packet `number`; `itself`: no data says by its offset that it has come."""
    if itself or not acks.pinned:
        acks.answered = number
        acks.pinned = itself


cdef void acks_sent(Acks *acks) noexcept nogil:
    """An ack goes out."""
    acks.unacked = 0
    acks.due_at = NEVER
    acks.pinned = False
    if acks.owed > 0:
        acks.owed -= 1
    acks.due = acks.owed > 0
    if not acks.due:
        acks.answered = 0  # a batch's acks all answer its last packet, and must not look like answers to corrupt ones


cdef void acks_owe(Acks *acks) noexcept nogil:
    """gbn: a packet arrived out of order or corrupt; a duplicate ack says so."""
    acks.due = True
    if acks.owed < MOST_OWED:
        acks.owed += 1


cdef uint32_t acks_write(const Acks *acks, uint8_t *p, uint32_t room, uint64_t credit, uint64_t next,
                         int64_t now) noexcept nogil:
    """Write an ack of everything seen; returns its length, 0 when nothing has been seen or there is no room."""
    cdef uint32_t index = acks.numbers.count, length, count = 0
    cdef uint64_t below
    cdef Range *found
    cdef int64_t delay = now - acks.largest_at
    if index == 0 and not acks.in_order or room < ACK_RANGES_BYTES + VARINTS_BYTES:
        return 0
    put32(p + 9, <uint32_t>min(max(delay, 0), MOST_DELAY_US))
    put64(p + 13, credit)
    if acks.in_order:
        p[0] = ControlType.ACK_NEXT
        put64(p + 1, acks.answered)
        put64(p + 21, next)
        return ACK_NEXT_BYTES
    index -= 1
    found = ranges_at(&acks.numbers, index)
    p[0] = ControlType.ACK_RANGES
    put64(p + 1, found.end - 1)
    length = ACK_RANGES_BYTES
    length += put_varint(p + length, found.end - 1 - found.start)
    while index > 0 and count < MOST_ACK_RANGES - 1 and length + 2 * VARINTS_BYTES <= room:
        below = found.start
        index -= 1
        count += 1
        found = ranges_at(&acks.numbers, index)
        length += put_varint(p + length, below - found.end - 1)
        length += put_varint(p + length, found.end - 1 - found.start)
    p[21] = <uint8_t>count
    return length


cdef int acks_parse(const uint8_t *p, const uint8_t *end, AckInfo *info) noexcept nogil:
    """Read the ack at `p` up to its further ranges; returns the length read, -1: malformed."""
    cdef int length
    if end - p < (ACK_NEXT_BYTES if p[0] == ControlType.ACK_NEXT else ACK_RANGES_BYTES):
        return -1
    info.largest = get64(p + 1)
    info.delay_us = get32(p + 9)
    info.credit = get64(p + 13)
    info.count = 0
    if p[0] == ControlType.ACK_NEXT:
        info.next = get64(p + 21)
        return ACK_NEXT_BYTES
    info.count = p[21]
    length = get_varint(p + ACK_RANGES_BYTES, end, &info.low)
    if length == 0 or info.low > info.largest:
        return -1
    info.low = info.largest - info.low
    info.rest = p + ACK_RANGES_BYTES + length
    return ACK_RANGES_BYTES + length


cdef int acks_next_range(AckInfo *info, const uint8_t *end, uint64_t *low, uint64_t *high) noexcept nogil:
    """Read the next further range, [low, high]; returns the bytes read, -1: malformed. `info.low` goes down."""
    cdef uint64_t gap, count
    cdef int one, other
    one = get_varint(info.rest, end, &gap)
    other = get_varint(info.rest + one, end, &count) if one > 0 else 0
    if other == 0 or gap > info.low or info.low - gap < 2 or count > info.low - gap - 2:
        return -1
    high[0] = info.low - gap - 2
    low[0] = info.low = high[0] - count
    info.rest += one + other
    info.count -= 1
    return one + other
