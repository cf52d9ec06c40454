"""What the kernel did for an application's connection: the rule (_reconcile.pxd)."""

from libc.stdint cimport uint64_t

from mproxy._state cimport opened_here
from mproxy._wire cimport MAX_DATA_BYTES
from mproxy.ground._stores cimport stores_done
from mproxy.io._kernel_facts cimport TcpState


cdef Reconciled reconcile(SessionState *session, StreamState *state, const KernelFacts *facts) noexcept nogil:
    """Set the offsets of a stream whose bytes may still move: `out.tail` is what was read from the application, and
    `inp.head` what was written to it.

    What was read is in the ring, for the kernel puts it there. What was written was in the ring, too, or, if that was
    empty, came straight from the carrier: then `inp.tail` moves with it, for these bytes need not come again. Where the
    numbers contradict each other nothing is changed: a byte may be lost or come twice.
    """
    cdef bint dialled = not opened_here(session, state.id)
    cdef bint ended = facts.tcp_state in (
        TcpState.FIN_WAIT1, TcpState.FIN_WAIT2, TcpState.CLOSING, TcpState.LAST_ACK, TcpState.TIME_WAIT)
    cdef uint64_t read = facts.received - facts.unread - facts.peer_ended
    cdef uint64_t written = facts.acked + facts.unacked - dialled - ended, more
    cdef bint untouched = state.out.tail == 0 and state.inp.head == 0
    if not facts.is_counted or read < state.read_before:
        return Reconciled.UNKNOWN
    read -= state.read_before
    if dialled and (facts.tcp_state in (TcpState.SYN_SENT, TcpState.SYN_RECV) or (
            facts.tcp_state == TcpState.CLOSE and facts.acked == 0)):
        return Reconciled.UNCONNECTED if untouched else Reconciled.UNKNOWN
    if facts.tcp_state not in (TcpState.ESTABLISHED, TcpState.CLOSE, TcpState.CLOSE_WAIT) and not ended:
        return Reconciled.UNKNOWN
    if facts.tcp_state != TcpState.CLOSE and not state.deaf:
        if written < state.written_before:
            return Reconciled.UNCONNECTED if dialled and written == 0 and untouched else Reconciled.UNKNOWN
        written -= state.written_before
    if not may_have_read(state, read):
        return Reconciled.UNKNOWN
    if facts.tcp_state != TcpState.CLOSE and not state.deaf:
        if not may_have_written(state, written, ended):
            return Reconciled.UNKNOWN
        note_written(session, state, written)
    more = read - state.out.tail
    state.out.tail = read
    session.out_bytes += more
    state.dialling = False
    return Reconciled.BROKEN if facts.tcp_state == TcpState.CLOSE else Reconciled.CONNECTED


cdef bint may_have_read(const StreamState *state, uint64_t read) noexcept nogil:
    """Whether `read` bytes can have been read: all that is noted, and no more than there was room for, or an end."""
    if read == state.out.tail:
        return True
    return read > state.out.tail and read - state.out.head <= state.out.capacity and not state.out_ended


cdef bint may_have_written(const StreamState *state, uint64_t written, bint ended) noexcept nogil:
    """Whether `written` bytes can have been written, and with `ended` the end: what is noted, and more only of what is
    kept or, when nothing is, of what had just come."""
    if written < state.inp.head:
        return False
    if state.in_done or ended:
        return state.in_done and written == state.inp.tail
    if written <= state.inp.tail:
        return True
    return state.inp.head >= state.inp.tail and written - state.inp.tail <= <uint64_t>MAX_DATA_BYTES and (
        not state.in_ended)


cdef void note_written(SessionState *session, StreamState *state, uint64_t written) noexcept nogil:
    """The application has the first `written` bytes. Whoever dies in here leaves what the next finds right as well."""
    cdef uint64_t before = state.inp.tail
    if written > before:
        state.inp.tail = written
        stores_done()  # what is counted by `tail` alone and lies nowhere was handed: `written` says so again
        session.in_bytes += written - before
    state.inp.head = written
