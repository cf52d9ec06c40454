"""Datagrams of a session; what becomes of them: _datagrams.pxd."""

from libc.string cimport memcpy

from mproxy._pool cimport pool_at, pool_return, pool_take
from mproxy._ring cimport MIN_RING_BYTES, iovec, ring_append, ring_release, ring_reserve, ring_used, ring_view
from mproxy._wire cimport MAX_DATAGRAM_BYTES, MAX_PIECE_BYTES, FrameType
from mproxy.ground._ranges cimport ranges_add, ranges_at, ranges_free, ranges_init


# ---- out

cdef bint datagrams_put(Datagrams *datagrams, uint32_t flow, uint16_t association, const uint8_t *data, uint32_t length,
                        int64_t now, size_t *account) noexcept nogil:
    """Let a datagram of at most MAX_DATAGRAM_BYTES wait, at the expense of the oldest. False: there is no memory, or
    the oldest is half sent."""
    cdef QueuedDatagram head
    cdef uint32_t size = sizeof(QueuedDatagram) + length
    datagrams.now = now
    while datagrams_waiting(datagrams) + size > QUEUE_BYTES and datagrams.begun == 0:
        skip(datagrams)
    if datagrams.planned == 0:
        ring_release(&datagrams.ring, datagrams.next, account)
    if datagrams_waiting(datagrams) + size > QUEUE_BYTES or (
            ring_reserve(&datagrams.ring, ring_used(&datagrams.ring) + size, account) < 0):
        datagrams.dropped += 1
        return False
    datagrams.last_number += 1
    head = QueuedDatagram(now, flow, datagrams.last_number, association, <uint16_t>length)
    ring_append(&datagrams.ring, <const uint8_t *>&head, sizeof(head), account)
    ring_append(&datagrams.ring, data, length, account)
    return True


cdef void head_of(const Datagrams *datagrams, QueuedDatagram *head) noexcept nogil:
    """Copy what the ring has of the next datagram, before its bytes."""
    cdef iovec parts[2]
    cdef int i, n = ring_view(&datagrams.ring, datagrams.next, sizeof(QueuedDatagram), parts)
    cdef uint8_t *out = <uint8_t *>head
    for i in range(n):
        memcpy(out, parts[i].iov_base, parts[i].iov_len)
        out += parts[i].iov_len


cdef void skip(Datagrams *datagrams) noexcept nogil:
    """Do not send the rest of the next datagram."""
    cdef QueuedDatagram head
    head_of(datagrams, &head)
    datagrams.next += sizeof(QueuedDatagram) + head.length
    datagrams.begun = 0
    datagrams.dropped += 1


cdef uint32_t datagrams_ahead(Datagrams *datagrams) noexcept nogil:
    """How many bytes are left of the next datagram, of which there is one unless this finds that all are too old."""
    cdef QueuedDatagram head
    while datagrams_wait(datagrams):
        head_of(datagrams, &head)
        if datagrams.begun or datagrams.now - head.at <= WAIT_US:
            return head.length - datagrams.begun
        skip(datagrams)
    return 0


cdef uint64_t datagrams_plan(Datagrams *datagrams, uint32_t most, Frame *frame) noexcept nogil:
    """Make the header of the next frame, with up to `most` bytes; returns the offset in the ring of its payload. One
    waits that is not too old."""
    cdef QueuedDatagram head
    cdef uint64_t at
    cdef uint32_t left, pieces
    head_of(datagrams, &head)
    most = min(most, <uint32_t>MAX_PIECE_BYTES)
    left = head.length - datagrams.begun
    pieces = (left + most - 1) // most
    frame.type = FrameType.DATAGRAM
    frame.flags = 0
    frame.stream = head.flow
    frame.length = left if pieces < 2 else (left + pieces - 1) // pieces
    frame.seq = <uint64_t>head.number << 32 | <uint64_t>datagrams.begun << 16 | head.length
    frame.ack = head.association
    at = datagrams.next + sizeof(QueuedDatagram) + datagrams.begun
    datagrams.planned += 1
    datagrams.begun += <uint16_t>frame.length
    if datagrams.begun == head.length:
        datagrams.next = at + frame.length
        datagrams.begun = 0
        datagrams.sent += 1
    return at


cdef void datagrams_sent(Datagrams *datagrams, uint64_t end, size_t *account) noexcept nogil:
    """The carrier took a frame whose payload ends at that offset."""
    datagrams.planned -= 1
    ring_release(&datagrams.ring, datagrams.next if datagrams.planned == 0 else min(end, datagrams.next), account)


cdef void datagrams_carrier_lost(Datagrams *datagrams, size_t *account) noexcept nogil:
    """What was under way is lost, also pieces of what did not come whole."""
    datagrams.planned = 0
    if datagrams.begun:
        skip(datagrams)
    ring_release(&datagrams.ring, datagrams.next, account)
    datagrams_tidy(datagrams, True, account)


cdef void datagrams_attach(Datagrams *datagrams, int64_t now) noexcept nogil:
    """There is another carrier. Who goes on sending has what is old dropped; who waits for an answer has not."""
    datagrams.now = max(datagrams.now, now - DIAL_US)


# ---- in

cdef void datagrams_tidy(Datagrams *datagrams, bint all_of_them, size_t *account) noexcept nogil:
    """Give up datagrams that were not whole at the last look either; or all."""
    cdef int i
    for i in range(PARTIAL):
        if all_of_them or datagrams.partial[i].is_stale:
            give_up(&datagrams.partial[i], account)
        datagrams.partial[i].is_stale = True


cdef void give_up(PartialDatagram *partial, size_t *account) noexcept nogil:
    if partial.capacity:
        pool_return(partial.block, partial.capacity)
        if account != NULL:
            account[0] -= partial.capacity
        ranges_free(&partial.found)
        partial.capacity = 0


cdef bint is_whole(const PartialDatagram *partial) noexcept nogil:
    return partial.capacity and partial.found.count == 1 and ranges_at(&partial.found, 0).start == 0 and (
        ranges_at(&partial.found, 0).end == partial.length)


cdef PartialDatagram *partial_of(Datagrams *datagrams, const Frame *frame, uint16_t length,
                                 size_t *account) noexcept nogil:
    """Where pieces of that datagram are kept; NULL: there is no memory."""
    cdef PartialDatagram *partial
    cdef uint32_t number = <uint32_t>(frame.seq >> 32), size = MIN_RING_BYTES
    cdef int i
    for i in range(PARTIAL):
        partial = &datagrams.partial[i]
        if partial.capacity and partial.flow == frame.stream and partial.number == number and partial.length == length:
            return partial
    partial = &datagrams.partial[datagrams.next_partial]
    for i in range(PARTIAL):
        if datagrams.partial[i].capacity == 0:
            partial = &datagrams.partial[i]
    if partial.capacity:
        give_up(partial, account)
        datagrams.next_partial = (datagrams.next_partial + 1) % PARTIAL
    while size < length:
        size <<= 1
    partial.block = pool_take(size)
    if partial.block == 0:
        return NULL
    partial.capacity = size
    if account != NULL:
        account[0] += size
    partial.flow, partial.number, partial.length = frame.stream, number, length
    partial.association = <uint16_t>frame.ack
    ranges_init(&partial.found)
    return partial


cdef int datagrams_take(Datagrams *datagrams, const Frame *frame, const uint8_t *payload, const uint8_t **data,
                        uint32_t *length, size_t *account) noexcept nogil:
    """A DATAGRAM frame has come. 1: a datagram is whole; it lies at `data` until the next call. 0: it is not, or is
    dropped. -1: no peer may send that."""
    cdef uint16_t offset = <uint16_t>(frame.seq >> 16), whole = <uint16_t>frame.seq
    cdef PartialDatagram *partial
    cdef int i
    for i in range(PARTIAL):
        if is_whole(&datagrams.partial[i]):  # it was told
            give_up(&datagrams.partial[i], account)
    if whole > MAX_DATAGRAM_BYTES or <uint32_t>offset + frame.length > whole or frame.ack > 0xFFFF or (
            frame.length == 0 and whole > 0):
        return -1
    length[0] = whole
    if frame.length == whole:
        data[0] = payload
        datagrams.received += 1
        return 1
    partial = partial_of(datagrams, frame, whole, account)
    if partial == NULL:
        return 0
    memcpy(pool_at(partial.block) + offset, payload, frame.length)
    partial.is_stale = False
    if ranges_add(&partial.found, offset, offset + frame.length) < 0 or partial.found.count > MOST_GAPS:
        give_up(partial, account)
        return 0
    if not is_whole(partial):
        return 0
    data[0] = pool_at(partial.block)
    datagrams.received += 1
    return 1
