"""One stream: the rules its offsets obey, and the containers a session keeps streams in.

Rules (every function here keeps them; the session decides when to call):

1. A byte leaves `out` only when the peer's ack covers it; an ack never covers what was not put on a carrier.
2. A byte enters `inp` only at offset `inp.tail`: anything below is a repetition and is skipped, anything above is a gap
   and an error.
3. After a direction's FIN, no further byte and no second, different FIN.
4. After a reset no byte moves in either direction.

The state obeys them at every instruction, or what is missing follows from it (`stream_mend`): so each store here, and
in the session, has its place in the order of stores (docs/protocol.md, section 9, 17).
"""

from libc.stdlib cimport calloc, free

from mproxy._disorder cimport Disorder, disorder_forget_early, disorder_free, disorder_new, disorder_reach
from mproxy._frames cimport Frame, encode_header
from mproxy._ring cimport ring_drop, ring_release, ring_used
from mproxy._state cimport StreamState, stream_state_free, stream_state_give_up
from mproxy._wire cimport HEADER_BYTES, FrameFlag, FrameType
from mproxy.ground._stores cimport stores_done


cdef Stream *stream_new(StreamState *state) noexcept nogil:
    """A record of what this process knows of the stream, which owns `state`; NULL when there is no memory."""
    cdef Stream *stream = <Stream *>calloc(1, sizeof(Stream))
    if stream != NULL:
        stream.state = state
    return stream


cdef void stream_free(Stream *stream, size_t *account) noexcept nogil:
    """Free it and its state; the storage of its rings is counted in `account`."""
    stream_state_give_up(stream.state)
    ring_drop(&stream.state.out, account)
    ring_drop(&stream.state.inp, account)
    stream_state_free(stream.state)
    disorder_free(stream.disorder)
    free(stream)


# ---- application -> carrier

cdef uint64_t stream_unsent(const StreamState *state) noexcept nogil:
    """Offsets (bytes, and one for FIN) that still have to be put on this carrier."""
    return state.out.tail + state.out_ended - state.sent


cdef bint stream_acked(const StreamState *state) noexcept nogil:
    """Whether the peer's application has everything that ours has written, including its end."""
    return state.out.head + state.out_done == state.out.tail + state.out_ended


cdef int stream_take_ack(StreamState *state, uint64_t ack, size_t *account) noexcept nogil:
    """The peer's application has everything below `ack`: release it. -1 when that cannot be true."""
    cdef bint done = ack > state.out.tail
    if ack < state.out.head + state.out_done or ack > state.peak:
        return -1
    if done:
        ack = state.out.tail
    if ack > state.out.head:
        ring_release(&state.out, ack, account)
    if done:
        stores_done()
        state.out_done = True
    if state.sent < ack + state.out_done:
        state.sent = ack + state.out_done
    return 0


cdef int stream_rewind(StreamState *state, uint64_t received) noexcept nogil:
    """On a new carrier go on from what the peer has received. -1 when it claims more than was ever sent.

    A claim below what the peer has acknowledged is older than that ack (the two can cross); the ack counts.
    """
    cdef uint64_t acked = state.out.head + state.out_done
    if received > state.peak:
        return -1
    state.sent = received if received > acked else acked
    return 0


# ---- carrier -> application

cdef int stream_receive(
        const StreamState *state, uint64_t seq, uint32_t length, uint32_t window, uint32_t *skip) noexcept nogil:
    """Judge bytes [seq, seq + length) of the peer. Returns how many are new; the first `skip` are a repetition.

    -1: they would leave a gap, or are after the end; -2: more than the window allows.
    """
    cdef uint64_t end = seq + length
    if seq > state.inp.tail or end < seq or (state.in_ended and end > state.inp.tail):
        return -1
    if end <= state.inp.tail:
        skip[0] = length
        return 0
    if end - state.inp.head > window:
        return -2
    skip[0] = <uint32_t>(state.inp.tail - seq)
    return <int>(end - state.inp.tail)


cdef void stream_end_arrived(StreamState *state) noexcept nogil:
    """The peer's direction ends behind what was received; an application that takes no more has the end already."""
    stores_done()
    state.in_ended = True
    stores_done()
    state.in_done |= state.deaf


cdef void stream_abort(StreamState *state, int code, bint tell_peer) noexcept nogil:
    """End both directions at once; what the rings hold is still to be dropped. An OPEN that was not sent never is."""
    state.reset_code = <uint8_t>code
    state.reset_ours = tell_peer and not state.open_due
    stores_done()
    state.aborted = True
    stores_done()
    state.unheard = state.open_due
    stores_done()
    state.open_due = False


cdef bint stream_finished(const Stream *stream) noexcept nogil:
    """Whether there is nothing more to do for this stream but to remember it."""
    cdef const StreamState *state = stream.state
    if stream.owner != NULL or stream.reset_due or stream.ack_due:
        return False
    if state.aborted:
        return True
    return state.out_done and state.in_done and not state.drain_reset and state.acked == state.inp.tail + 1


# ---- a carrier that does not keep order

cdef Disorder *stream_disorder(Stream *stream) noexcept nogil:
    """What is out of order of the stream; NULL when there is no memory for that."""
    if stream.disorder == NULL:
        stream.disorder = disorder_new()
    return stream.disorder


cdef void stream_restore_order(Stream *stream, uint64_t *early_held, size_t *account) noexcept nogil:
    """Forget what is out of order: the carrier or the stream is over."""
    if stream.disorder != NULL:
        early_held[0] -= disorder_reach(stream.disorder, stream.state)
        disorder_forget_early(stream.disorder, stream.state, account)
        disorder_free(stream.disorder)
        stream.disorder = NULL


cdef void restore_order(Stream *stream, uint64_t *early_held, size_t *account) noexcept nogil:
    """The same for every stream of a list."""
    while stream != NULL:
        stream_restore_order(stream, early_held, account)
        stream = <Stream *>stream.in_all.next


# ---- another process goes on

cdef void stream_mend(StreamState *state, size_t *account) noexcept nogil:
    """The process that had the state is gone, maybe in the midst of a change: finish that.

    What it had planned may have been sent before it could note that. Bytes received that are in no storage were handed.
    """
    state.deaf |= state.drain_reset
    if state.aborted:
        state.unheard |= state.open_due
        stores_done()
        state.open_due = False
        ring_drop(&state.out, account)
    if state.aborted or state.deaf or ring_used(&state.inp) == 0 or state.inp.capacity == 0:
        ring_drop(&state.inp, account)
    if state.deaf:
        stores_done()
        state.in_done = state.in_ended
    if state.sent < state.out.head + state.out_done:
        state.sent = state.out.head + state.out_done
    if state.peak < state.sent:
        state.peak = state.sent


# ---- id -> stream

cdef inline uint32_t slot_of(const StreamTable *table, uint32_t id) noexcept nogil:
    return (id * <uint32_t>2654435769) & (table.size - 1)


cdef Stream *table_find(const StreamTable *table, uint32_t id) noexcept nogil:
    cdef uint32_t i
    if table.size == 0:
        return NULL
    i = slot_of(table, id)
    while table.slots[i] != NULL:
        if table.slots[i].state.id == id:
            return table.slots[i]
        i = (i + 1) & (table.size - 1)
    return NULL


cdef void table_place(StreamTable *table, Stream *stream) noexcept nogil:
    cdef uint32_t i = slot_of(table, stream.state.id)
    while table.slots[i] != NULL:
        i = (i + 1) & (table.size - 1)
    table.slots[i] = stream


cdef int table_add(StreamTable *table, Stream *stream) noexcept nogil:
    """Add a stream whose id is not there yet; -1 when there is no memory."""
    cdef Stream **old = table.slots
    cdef uint32_t i, old_size = table.size
    if (table.count + 1) * 2 > table.size:
        table.slots = <Stream **>calloc(old_size * 2 if old_size else 16, sizeof(Stream *))
        if table.slots == NULL:
            table.slots = old
            return -1
        table.size = old_size * 2 if old_size else 16
        for i in range(old_size):
            if old[i] != NULL:
                table_place(table, old[i])
        free(old)
    table_place(table, stream)
    table.count += 1
    return 0


cdef void table_remove(StreamTable *table, const Stream *stream) noexcept nogil:
    """Remove a stream; later entries of its run move up, so that no mark is needed."""
    cdef uint32_t mask = table.size - 1
    cdef uint32_t hole = slot_of(table, stream.state.id), i, home
    while table.slots[hole] != stream:
        hole = (hole + 1) & mask
    i = hole
    while True:
        i = (i + 1) & mask
        if table.slots[i] == NULL:
            break
        home = slot_of(table, table.slots[i].state.id)
        if ((i - home) & mask) >= ((i - hole) & mask):
            table.slots[hole] = table.slots[i]
            hole = i
    table.slots[hole] = NULL
    table.count -= 1


cdef void table_clear(StreamTable *table) noexcept nogil:
    """Free the slots; the table does not own the streams."""
    free(table.slots)
    table.slots = NULL
    table.size = table.count = 0


cdef uint8_t *list_streams(const Stream *stream, uint8_t *at) noexcept:
    """Encode a RESUME frame for every stream of a list; returns where the next frame goes."""
    cdef const StreamState *state
    cdef Frame frame
    frame.type = FrameType.RESUME
    frame.length = 0
    while stream != NULL:
        state = stream.state
        frame.stream = state.id
        frame.flags = 0
        frame.seq = state.inp.tail + state.in_ended
        frame.ack = state.inp.head + state.in_done
        if state.aborted:
            frame.flags = FrameFlag.DONE | FrameFlag.ABORTED
            frame.seq = frame.ack = state.reset_code
        elif state.retired:
            frame.flags = FrameFlag.DONE
        encode_header(at, &frame)
        at += HEADER_BYTES
        stream = <const Stream *>stream.in_all.next
    return at
