"""The sending half of the stream; invariants: _outflow.pxd."""

from mproxy._ring cimport ring_drop, ring_free, ring_init, ring_reserve, ring_used
from mproxy.ground._ranges cimport (
    Range, ranges_add, ranges_at, ranges_drop_below, ranges_find, ranges_free, ranges_init, ranges_remove,
)


cdef enum:
    FIRST_PART = 64           # of what the ring may grow to: what may be written while nothing is known of the path,
    LEAST_RING_BYTES = 16384  # and not less than this


cdef void outflow_init(Outflow *flow, uint32_t most) noexcept nogil:
    """Nothing is written; the ring may grow to `most` bytes."""
    ring_init(&flow.ring, 0)
    ranges_init(&flow.acked)
    ranges_init(&flow.lost)
    flow.finished = False
    flow.acked_to = flow.sent = flow.peak = flow.limit = flow.resent = 0
    flow.most = most


cdef void outflow_free(Outflow *flow) noexcept nogil:
    """Give the memory back."""
    ring_drop(&flow.ring, NULL)
    ranges_free(&flow.acked)
    ranges_free(&flow.lost)


cdef inline bint has_new(const Outflow *flow) noexcept nogil:
    """Whether something may be sent for the first time; a FIN needs no credit."""
    return flow.sent < outflow_end(flow) and (flow.sent < flow.limit or flow.sent == flow.ring.tail)


cdef bint outflow_has(const Outflow *flow) noexcept nogil:
    """Whether anything may be sent now."""
    return flow.lost.count > 0 or has_new(flow)


cdef bint outflow_blocked(const Outflow *flow) noexcept nogil:
    """Whether there is something to send that only lacks credit."""
    return flow.lost.count == 0 and flow.sent < flow.ring.tail and flow.sent >= flow.limit


cdef void outflow_cut(const Outflow *flow, uint64_t offset, uint64_t end, uint32_t most, Chunk *chunk) noexcept nogil:
    """Describe what of [offset, end) fits into `most` bytes."""
    cdef uint64_t tail = flow.ring.tail, behind = end if end < tail else tail
    chunk.offset = offset
    chunk.length = most if behind - offset > most else <uint32_t>(behind - offset)
    chunk.fin = end > tail and offset + chunk.length == tail
    chunk.again = offset < flow.peak


cdef bint outflow_pick(const Outflow *flow, uint32_t most, Chunk *chunk) noexcept nogil:
    """Choose what to send next: first what was lost, at most `most` bytes of data; False: nothing now."""
    cdef uint64_t end
    if flow.lost.count > 0:
        outflow_cut(flow, ranges_at(&flow.lost, 0).start, ranges_at(&flow.lost, 0).end, most, chunk)
        return True
    if not has_new(flow):
        return False
    end = outflow_end(flow)
    if flow.limit < end and flow.sent < flow.ring.tail and flow.limit < flow.ring.tail:
        end = flow.limit
    outflow_cut(flow, flow.sent, end, most, chunk)
    return True


cdef void outflow_took(Outflow *flow, const Chunk *chunk) noexcept nogil:
    """`chunk`, as `outflow_pick` gave it, has been sent."""
    cdef uint64_t end = chunk.offset + chunk.length + (1 if chunk.fin else 0)
    if flow.lost.count > 0:
        ranges_drop_below(&flow.lost, end)
    elif chunk.offset == flow.sent:
        flow.sent = end
    if chunk.again:
        flow.resent += chunk.length
    if end > flow.peak:
        flow.peak = end


cdef int outflow_acked(Outflow *flow, uint64_t offset, uint64_t end) noexcept nogil:
    """The peer has [offset, end), sent before. -1 when there is no memory."""
    if flow.lost.count > 0 and ranges_remove(&flow.lost, offset, end) < 0:
        return -1
    if end <= flow.acked_to:
        return 0
    if offset > flow.acked_to:
        return ranges_add(&flow.acked, offset, end)
    flow.acked_to = end
    if flow.acked.count > 0:
        ranges_drop_below(&flow.acked, end)
        if flow.acked.count > 0 and ranges_at(&flow.acked, 0).start == end:
            flow.acked_to = ranges_at(&flow.acked, 0).end
            ranges_drop_below(&flow.acked, flow.acked_to)
    if flow.sent < flow.acked_to:
        flow.sent = flow.acked_to
    flow.ring.head = flow.acked_to if flow.acked_to < flow.ring.tail else flow.ring.tail
    return 0


cdef int outflow_lost(Outflow *flow, uint64_t offset, uint64_t end) noexcept nogil:
    """[offset, end) was in a lost packet: the unacknowledged part is to be sent again. -1: no memory."""
    cdef uint32_t index
    cdef Range *have
    if offset < flow.acked_to:
        offset = flow.acked_to
    index = ranges_find(&flow.acked, offset)
    while offset < end and index < flow.acked.count and ranges_at(&flow.acked, index).start < end:
        have = ranges_at(&flow.acked, index)
        if offset < have.start and ranges_add(&flow.lost, offset, have.start) < 0:
            return -1
        offset = have.end
        index += 1
    return ranges_add(&flow.lost, offset, end)


cdef void outflow_go_back(Outflow *flow) noexcept nogil:
    """Go-Back-N: everything unacknowledged is to be sent again, from the oldest byte on."""
    flow.sent = flow.acked_to


cdef uint32_t outflow_room(Outflow *flow) noexcept nogil:
    """Bytes that may be written now, 0 when the ring is full.

    The ring doubles when it is full and all of it has been sent: then it is what limits the sender.
    """
    if flow.finished:
        return 0
    if flow.ring.capacity == 0:
        ring_reserve(&flow.ring, max(flow.most // FIRST_PART, min(flow.most, <uint32_t>LEAST_RING_BYTES)), NULL)
    elif flow.sent == flow.ring.tail and 2 * ring_used(&flow.ring) > flow.ring.capacity < flow.most:
        ring_reserve(&flow.ring, 2 * flow.ring.capacity, NULL)
    return ring_free(&flow.ring) if flow.ring.capacity > 0 else 0


cdef void outflow_tidy(Outflow *flow, uint32_t most) noexcept nogil:
    """Give storage of up to `most` bytes back if it is empty."""
    if flow.ring.capacity <= most and flow.ring.head == flow.ring.tail:
        ring_drop(&flow.ring, NULL)
