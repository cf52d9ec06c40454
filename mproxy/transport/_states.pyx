"""The table of states; words: _states.pxd."""

from libc.string cimport memset


# (state, cause, next state). What is not here does not happen; `Connection.move` is the only one to use it.
TRANSITIONS = (
    (ConnectionState.NEW, ConnectionCause.DIAL, ConnectionState.SYN_SENT),
    (ConnectionState.NEW, ConnectionCause.ACCEPT, ConnectionState.SECURING),
    (ConnectionState.NEW, ConnectionCause.GIVE_UP, ConnectionState.CLOSED),
    (ConnectionState.SYN_SENT, ConnectionCause.ANSWER, ConnectionState.SECURING),
    (ConnectionState.SYN_SENT, ConnectionCause.GIVE_UP, ConnectionState.CLOSED),
    (ConnectionState.SECURING, ConnectionCause.KEYS, ConnectionState.OPEN),
    (ConnectionState.SECURING, ConnectionCause.GIVE_UP, ConnectionState.DRAINING),
    (ConnectionState.SECURING, ConnectionCause.PEER_END, ConnectionState.CLOSED),
    (ConnectionState.OPEN, ConnectionCause.FINISHED, ConnectionState.DRAINING),
    (ConnectionState.OPEN, ConnectionCause.GIVE_UP, ConnectionState.DRAINING),
    (ConnectionState.OPEN, ConnectionCause.PEER_END, ConnectionState.CLOSED),
    (ConnectionState.DRAINING, ConnectionCause.PEER_END, ConnectionState.CLOSED),
    (ConnectionState.DRAINING, ConnectionCause.QUIET, ConnectionState.CLOSED),
)
cdef int[STATES][CAUSES] next_state
memset(next_state, 0xFF, sizeof(next_state))
for _before, _cause, _after in TRANSITIONS:
    next_state[_before][_cause] = _after


cdef int state_after(ConnectionState state, ConnectionCause cause) noexcept nogil:
    """The next state, -1 when that cannot happen."""
    return next_state[<int>state][<int>cause]
