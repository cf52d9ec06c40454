"""The bytes of one direction: _settling.pxd."""

from mproxy._ring cimport Ring, ring_append, ring_drop, ring_release, ring_used
from mproxy.ground._stores cimport stores_done
from mproxy.relay.tcp._pair_record cimport COPY_BYTES


cdef Settled settle_bytes(
        SideRecord *sink, uint64_t read, uint64_t written, uint64_t piped, const Copied *copied) noexcept nogil:
    """Set the sink's ring right. `read`, `written`: bytes of the direction, as the kernel has counted them; `piped`:
    what is in a pipe that was last used for this sink.

    Whoever is killed in here leaves what settles in the same way again.
    """
    cdef Ring *ring = &sink.waiting
    if written > read:
        return CONTRADICTION
    if written == read:
        if piped:
            return CONTRADICTION
        forget_bytes(sink, read)
        return IN_RING
    if sink.ended:
        return CONTRADICTION
    if piped:
        if piped != read - written:
            return CONTRADICTION
        forget_bytes(sink, read)
        return IN_PIPE
    if ring.tail == read and ring.capacity != 0 and ring.head <= written:
        ring_release(ring, written, NULL)
        return IN_RING
    if copied.user != sink.mark or written < copied.start or read - copied.start > COPY_BYTES:
        return CONTRADICTION
    if ring.tail >= read or ring.capacity != 0 and ring_used(ring) > 0:
        return CONTRADICTION
    forget_bytes(sink, written)
    if ring_append(ring, copied.bytes + (written - copied.start), <uint32_t>(read - written), NULL) < 0:
        return CONTRADICTION
    return IN_RING


cdef void forget_bytes(SideRecord *sink, uint64_t read) noexcept nogil:
    """Nothing waits; what comes next is at the place `read`."""
    ring_drop(&sink.waiting, NULL)
    sink.waiting.tail = read
    stores_done()
    sink.waiting.head = read
