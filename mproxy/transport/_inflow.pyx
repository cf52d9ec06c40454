"""The receiving half of the stream; invariants: _inflow.pxd."""

from libc.string cimport memcpy

from mproxy._ring cimport ring_drop, ring_init, ring_reserve, ring_view
from mproxy.ground._ranges cimport (
    ranges_add, ranges_at, ranges_drop_below, ranges_free, ranges_init, ranges_overlap,
)


UNKNOWN_END = 0xFFFFFFFFFFFFFFFF


cdef void inflow_init(Inflow *flow, uint32_t most) noexcept nogil:
    """Nothing has arrived; the window may grow to `most` bytes."""
    ring_init(&flow.ring, 0)
    ranges_init(&flow.early)
    flow.arrived = flow.grown_at = 0
    flow.end = UNKNOWN_END
    flow.window = first_window(most)
    flow.most = most
    flow.limit = flow.told = flow.window


cdef void inflow_free(Inflow *flow) noexcept nogil:
    """Give the memory back."""
    ring_drop(&flow.ring, NULL)
    ranges_free(&flow.early)


cdef bint inflow_allows(const Inflow *flow, uint64_t offset, uint32_t length, bint fin) noexcept nogil:
    """Whether an honest peer may send this: within the credit, and only one end."""
    cdef uint64_t end = offset + length
    if end < offset or end > flow.limit or end > flow.end:
        return False
    return not fin or (end >= flow.ring.tail if flow.end == UNKNOWN_END else end == flow.end)


cdef int reserve(Inflow *flow, uint64_t end) noexcept nogil:
    """Have storage up to `end`, doubling; -1 when there is no memory."""
    cdef uint64_t need = end - flow.ring.head
    if need <= flow.ring.capacity:
        return 0
    return ring_reserve(&flow.ring, <uint32_t>need, NULL)


cdef int inflow_place(Inflow *flow, uint64_t offset, uint32_t length, iovec *out) noexcept nogil:
    """Describe the ring's memory for bytes of which none has arrived: 1 or 2 segments, which may be overwritten.

    0: some have arrived before, use `inflow_copy`. -1: no memory.
    """
    if offset < flow.arrived or (flow.early.count > 0 and ranges_overlap(&flow.early, offset, offset + length)):
        return 0
    if reserve(flow, offset + length) < 0:
        return -1
    return ring_view(&flow.ring, offset, length, out)


cdef int inflow_copy(Inflow *flow, uint64_t offset, const uint8_t *data, uint32_t length) noexcept nogil:
    """Copy authentic bytes, some of which have arrived before, to their place; -1: no memory."""
    cdef iovec parts[2]
    cdef int i
    cdef uint64_t end = offset + length
    if end <= flow.arrived:
        return 0
    if offset < flow.arrived:
        data += flow.arrived - offset
        offset = flow.arrived
    if reserve(flow, end) < 0:
        return -1
    for i in range(ring_view(&flow.ring, offset, <uint32_t>(end - offset), parts)):
        memcpy(parts[i].iov_base, data, parts[i].iov_len)
        data += parts[i].iov_len
    return 0


cdef int inflow_take(Inflow *flow, uint64_t offset, uint32_t length, bint fin) noexcept nogil:
    """Bytes [offset, offset + length) are in their place; -1: no memory or too many holes, then they do not count."""
    cdef uint64_t end = offset + length
    if offset > flow.arrived and length > 0:
        if flow.early.count >= max(<uint32_t>MOST_EARLY, flow.most // BYTES_A_HOLE) or (
                ranges_add(&flow.early, offset, end) < 0):
            return -1
    if fin:
        flow.end = end
    if end > flow.ring.tail and length > 0:  # an end alone, arrived before its data, has no storage
        flow.ring.tail = end
    if offset <= flow.arrived < end:
        flow.arrived = end
        if flow.early.count > 0:
            ranges_drop_below(&flow.early, end)
            if flow.early.count > 0 and ranges_at(&flow.early, 0).start == end:
                flow.arrived = ranges_at(&flow.early, 0).end
                ranges_drop_below(&flow.early, flow.arrived)
    return 0


cdef void inflow_wanted(Inflow *flow) noexcept nogil:
    """The sender could use more credit: double the window if the application takes what comes."""
    cdef uint64_t unread = flow.arrived - flow.ring.head
    if flow.window < flow.most and flow.ring.head >= flow.grown_at and unread <= flow.window // 2:
        flow.window = 2 * flow.window if flow.window <= flow.most // 2 else flow.most
        flow.grown_at = flow.ring.head + flow.window // 4
        flow.limit = flow.ring.head + flow.window


cdef void inflow_consume(Inflow *flow, uint32_t length) noexcept nogil:
    """The application has taken `length` bytes from head on.

    The storage stays, for what comes in the same turn (see `inflow_tidy`).
    """
    flow.ring.head += length
    if flow.ring.head + flow.window > flow.limit:
        flow.limit = flow.ring.head + flow.window


cdef void inflow_tidy(Inflow *flow, uint32_t most) noexcept nogil:
    """Give storage of up to `most` bytes back if it is empty."""
    if flow.ring.capacity <= most and flow.ring.head == flow.ring.tail:
        ring_drop(&flow.ring, NULL)


cdef bint inflow_should_tell(const Inflow *flow) noexcept nogil:
    """Whether the sender should hear of its credit although no packet calls for an ack."""
    return flow.end == UNKNOWN_END and flow.limit - flow.told >= flow.window // 4
