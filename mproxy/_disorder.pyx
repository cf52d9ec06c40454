"""Bytes of a stream out of order: what came early, what was lost. Invariants: _disorder.pxd."""

from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from mproxy._ring cimport iovec, ring_reach, ring_release, ring_view
from mproxy._state cimport StreamState
from mproxy.ground._ranges cimport ranges_add, ranges_at, ranges_drop_below, ranges_free, ranges_last
from mproxy.ground._stores cimport stores_done


cdef Disorder *disorder_new() noexcept nogil:
    """Make one for a stream in order; NULL when there is no memory."""
    return <Disorder *>calloc(1, sizeof(Disorder))


cdef void disorder_free(Disorder *disorder) noexcept nogil:
    """Give it back; NULL is allowed."""
    if disorder != NULL:
        ranges_free(&disorder.early)
        ranges_free(&disorder.lost)
        free(disorder)


# ---- carrier -> application

cdef int disorder_take(Disorder *disorder, StreamState *state, uint64_t seq, const uint8_t *data, uint32_t length,
                       bint ends, size_t *account) noexcept nogil:
    """Put bytes [seq, seq + length) of the peer in their places, and note the end behind them; then `disorder_join`.

    Returns 0 or an Early. The caller has checked that they are within the window.
    """
    cdef uint64_t end = seq + length, tail = state.inp.tail, start, kept
    cdef iovec parts[2]
    cdef int i, n
    if end < seq or contradicts_end(disorder, state, end, ends):
        return Early.EARLY_WRONG
    start = seq if seq > tail else tail
    if start < end:
        if disorder.early.count >= MOST_GAPS and start > tail:
            return Early.EARLY_NO_ROOM
        if not state.deaf:
            kept = tail if disorder.early.count == 0 else ranges_last(&disorder.early).end
            if ring_reach(&state.inp, end if end > kept else kept, kept, account) < 0:
                return Early.EARLY_NO_ROOM
            data += start - seq
            n = ring_view(&state.inp, start, <uint32_t>(end - start), parts)
            for i in range(n):
                memcpy(parts[i].iov_base, data, parts[i].iov_len)
                data += parts[i].iov_len
        if ranges_add(&disorder.early, start, end) < 0:
            return Early.EARLY_NO_ROOM
    if ends:
        disorder.ends = True
        disorder.end_at = end
    return 0


cdef bint contradicts_end(const Disorder *disorder, const StreamState *state, uint64_t end, bint ends) noexcept nogil:
    """Whether bytes up to `end`, and the end of the direction there if `ends`, cannot be true."""
    if state.in_ended:
        return end > state.inp.tail or (ends and end != state.inp.tail)
    if disorder.ends and (end > disorder.end_at or (ends and end != disorder.end_at)):
        return True
    return ends and (end < state.inp.tail or (
        disorder.early.count > 0 and end < ranges_last(&disorder.early).end))


cdef uint32_t disorder_join(Disorder *disorder, StreamState *state) noexcept nogil:
    """Count what nothing is missing before any more as received; returns how many bytes that are."""
    cdef uint64_t tail = state.inp.tail, end
    if disorder.early.count == 0 or ranges_at(&disorder.early, 0).start > tail:
        return 0
    end = ranges_at(&disorder.early, 0).end
    stores_done()
    state.inp.tail = end
    if state.deaf:
        stores_done()
        state.inp.head = end
    ranges_drop_below(&disorder.early, end)
    return <uint32_t>(end - tail)


cdef void disorder_forget_early(Disorder *disorder, StreamState *state, size_t *account) noexcept nogil:
    """Forget what came early: the peer will send it again, or it is of no use any more."""
    ranges_free(&disorder.early)
    disorder.ends = False
    ring_release(&state.inp, state.inp.head, account)  # storage that they alone needed


# ---- application -> carrier

cdef void disorder_lose(Disorder *disorder, StreamState *state, uint64_t seq, uint64_t end) noexcept nogil:
    """[seq, end) was in a packet that got lost: what the peer has not acknowledged of it is to be sent again.

    Without memory for that everything from `seq` on is.
    """
    cdef uint64_t acked = state.out.head + state.out_done
    if seq < acked:
        seq = acked
    if seq < end and ranges_add(&disorder.lost, seq, end) < 0 and seq < state.sent:
        state.sent = seq


cdef bint disorder_again(Disorder *disorder, const StreamState *state) noexcept nogil:
    """Whether something is to be sent again."""
    if disorder == NULL or disorder.lost.count == 0:
        return False
    ranges_drop_below(&disorder.lost, state.out.head + state.out_done)
    return disorder.lost.count > 0


cdef uint32_t disorder_next(Disorder *disorder, const StreamState *state, uint32_t most, uint64_t *seq,
                            bint *fin) noexcept nogil:
    """What to send again first, at most `most` bytes, after `disorder_again` has said that there is something."""
    cdef uint64_t end = ranges_at(&disorder.lost, 0).end, behind
    cdef uint32_t length
    seq[0] = ranges_at(&disorder.lost, 0).start
    behind = end if end < state.out.tail else state.out.tail
    length = most if behind - seq[0] > most else <uint32_t>(behind - seq[0])
    fin[0] = end > state.out.tail and seq[0] + length == state.out.tail
    ranges_drop_below(&disorder.lost, seq[0] + length + fin[0])
    return length
