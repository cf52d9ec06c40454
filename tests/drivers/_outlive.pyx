"""What another process finds out about the applications of one that is gone, as Python sees it."""

from libc.stdint cimport uint64_t
from libc.string cimport memset

from mproxy._inherit cimport adopt_session
from mproxy._session cimport Session
from mproxy._state cimport SessionState, StreamState
from mproxy._stream cimport Stream
from mproxy._streams cimport StreamSet
from mproxy.endpoint._endpoint cimport Endpoint
from mproxy.endpoint._reconcile cimport Reconciled, reconcile
from mproxy.io._kernel_facts cimport KernelFacts, TcpState, ask_kernel
from mproxy.io._loop cimport Loop

FINDINGS = {
    <int>Reconciled.CONNECTED: "connected", <int>Reconciled.BROKEN: "broken",
    <int>Reconciled.UNCONNECTED: "unconnected",
    <int>Reconciled.UNKNOWN: "unknown",
}
STATES = {
    "ESTABLISHED": <int>TcpState.ESTABLISHED, "SYN_SENT": <int>TcpState.SYN_SENT, "SYN_RECV": <int>TcpState.SYN_RECV,
    "FIN_WAIT1": <int>TcpState.FIN_WAIT1, "FIN_WAIT2": <int>TcpState.FIN_WAIT2, "CLOSE": <int>TcpState.CLOSE,
    "CLOSE_WAIT": <int>TcpState.CLOSE_WAIT, "LAST_ACK": <int>TcpState.LAST_ACK, "CLOSING": <int>TcpState.CLOSING,
}
NAMES = {number: name for name, number in STATES.items()}


def ask(int fd):
    """What the kernel says of a descriptor."""
    cdef KernelFacts facts
    ask_kernel(fd, &facts)
    return {
        "is_connection": bool(facts.is_connection), "is_counted": bool(facts.is_counted),
        "tcp_state": NAMES.get(facts.tcp_state, facts.tcp_state), "peer_ended": bool(facts.peer_ended),
        "received": facts.received, "unread": facts.unread, "acked": facts.acked, "unacked": facts.unacked,
    }


def settle(dict known, *, bint dialled, uint64_t read=0, uint64_t released=0, capacity=None, uint64_t handed=0,
           kept=None, bint out_ended=False, bint in_ended=False, bint in_done=False, bint deaf=False):
    """(finding, bytes read, bytes handed to the application, bytes received for it), by what the kernel says (`known`)
    and what was noted: all that was `read` and not `released` is in a ring of `capacity`, and of the `kept` bytes that
    came for it the application had `handed`."""
    cdef SessionState session
    cdef StreamState state
    cdef KernelFacts facts
    memset(&session, 0, sizeof(session))
    memset(&state, 0, sizeof(state))
    facts.is_connection, facts.is_counted = known["is_connection"], known["is_counted"]
    facts.tcp_state = STATES.get(known["tcp_state"], known["tcp_state"])
    facts.peer_ended = known["peer_ended"]
    facts.received, facts.unread = known["received"], known["unread"]
    facts.acked, facts.unacked = known["acked"], known["unacked"]
    session.is_server = dialled
    state.out.head, state.out.tail = released, read
    state.out.capacity = 1 << 30 if capacity is None else capacity
    state.inp.head = handed
    state.inp.tail = handed if kept is None else kept
    state.inp.capacity = 1 << 30
    state.out_ended, state.in_ended, state.in_done, state.deaf = out_ended, in_ended, in_done, deaf
    state.dialling = dialled
    finding = FINDINGS[<int>reconcile(&session, &state, &facts)]
    if finding == "unknown":
        assert (state.out.tail, state.inp.head, state.inp.tail) == (read, handed, handed if kept is None else kept)
    else:
        assert state.dialling == (finding == "unconnected")
    assert session.out_bytes == state.out.tail - read
    return finding, state.out.tail, state.inp.head, state.inp.tail


# ---- a process that takes the place of another

cdef list states(Endpoint endpoint):
    """Where the states of its streams are."""
    cdef StreamSet streams = endpoint.session.streams
    return states_of(<Stream *>streams.open_list.first) + states_of(<Stream *>streams.finished_list.first)


cdef list states_of(const Stream *stream):
    found = []
    while stream != NULL:
        found.append(<size_t>stream.state)
        stream = <Stream *>stream.in_all.next
    return found


def claimed(Endpoint endpoint):
    """The descriptors that the streams of an endpoint name."""
    return {(<StreamState *><size_t>at).fd - 1 for at in states(endpoint)}


def succeed(Endpoint before, Loop loop, config, observer):
    """Make an endpoint of what outlives a process with the endpoint `before`, which nobody may use any more, or let go.

    Returns it, and how many applications it could not keep.
    """
    cdef Session session = adopt_session(config, before.session.lasting, loop.now_us)
    cdef Endpoint endpoint = Endpoint(loop, session, observer)
    lost = 0
    for at in states(before):
        lost += not endpoint.adopt(<StreamState *><size_t>at)
    return endpoint, lost


def take_on(Endpoint endpoint, int fd):
    """cproxy: an application that was accepted, and no more was noted."""
    return endpoint.accepted(fd, b"") == 0
