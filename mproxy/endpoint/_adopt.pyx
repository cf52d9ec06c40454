"""Going on with the applications of a process that is gone: _adopt.pxd."""

from libc.stdint cimport uint64_t

from mproxy._pool cimport pool_at
from mproxy._ring cimport Ring
from mproxy._session cimport CarrierState, Session
from mproxy._state cimport StreamState, opened_here
from mproxy._stream cimport Stream, table_find
from mproxy._streams cimport StreamSet
from mproxy._wire cimport ResetCode
from mproxy.endpoint._app cimport App, app_close, app_mark_ready, app_new, app_watch
from mproxy.endpoint._reconcile cimport Reconciled, reconcile
from mproxy.io._kernel_facts cimport KernelFacts, ask_kernel
from mproxy.io._socket cimport SHUT_WR, close_with_reset, finish_on_close, shutdown


cdef Adopted adopt_stream(Apps *apps, StreamState *state) noexcept:
    """Make the stream and its application the session's, which has no carrier."""
    cdef Session session = <Session>apps.session
    cdef bint over = is_over(session, state)
    cdef Reconciled finding = Reconciled.UNCONNECTED
    cdef KernelFacts facts
    cdef Stream *stream
    cdef App *app = NULL
    cdef int fd
    if state.fd != 0:
        ask_kernel(state.fd - 1, &facts)
        finding = Reconciled.UNKNOWN if over else reconcile(session.lasting, state, &facts)
        if not facts.is_connection:
            state.fd = 0
        elif finding == Reconciled.UNCONNECTED:
            give_up(state)
    fd = state.fd - 1
    stream = session.streams.adopt(state)
    if stream != NULL and fd >= 0:
        app = app_new(apps, stream, fd, -1)
    if fd >= 0 and app == NULL:  # no memory
        if stream != NULL:
            state.fd = 0
        close_with_reset(fd)
        finding = Reconciled.UNKNOWN
    if stream == NULL:
        return Adopted.LOST
    if over:
        let_go(session.streams, stream, app)
        return Adopted.KEPT
    if finding == Reconciled.UNCONNECTED:
        return Adopted.UNSERVED
    if finding == Reconciled.UNKNOWN:
        session.streams.reset(stream, ResetCode.LOCAL_ERROR)
        if app != NULL:
            app_close(app, True)
        return Adopted.LOST
    go_on(session.streams, app, finding == Reconciled.BROKEN, facts.peer_ended)
    return Adopted.KEPT


cdef bint is_over(Session session, const StreamState *state) noexcept:
    """Whether no byte moves any more between the stream and its application."""
    if session.state == CarrierState.CLOSED_FOR_GOOD or state.aborted or state.drain_reset or state.retired:
        return True
    return state.fd == 0 and state.out_ended and state.in_done


cdef void give_up(StreamState *state) noexcept:
    """Close a descriptor that has not become a connection."""
    cdef int fd = state.fd - 1
    state.fd = 0
    close_with_reset(fd)


cdef void let_go(StreamSet streams, Stream *stream, App *app) noexcept:
    """Do what the process that is gone may not have done after the stream's end, or its session's."""
    cdef bint has_all = stream.state.in_done and not stream.state.deaf
    if stream.state.drain_reset:
        streams.discard(stream, stream.state.reset_code)
    if app == NULL:
        streams.release(stream)
        return
    if has_all:
        finish_on_close(app.source.fd)
    app_close(app, not has_all)


cdef void go_on(StreamSet streams, App *app, bint broken, bint peer_ended) noexcept:
    """Set the application's flags, and do again what may have been done in part.

    `broken`: it takes nothing more, and an end behind what it has left is one only if it had `peer_ended`.
    """
    cdef const StreamState *state = app.stream.state
    app.read_ended = state.out_ended
    app.write_ended = state.in_done and not state.deaf
    app.broken = app.hung_up = app.readable = broken or state.deaf
    app.cut = app.broken and not peer_ended
    if app.write_ended:
        finish_on_close(app.source.fd)
        if app.read_ended:
            app_close(app, False)
            return
        shutdown(app.source.fd, SHUT_WR)
    elif broken and not app.read_ended:
        streams.deafen(app.stream)
    app_watch(app)
    if app.broken:
        app_mark_ready(app)


cdef bint serve_again(Session session, object unopened, const StreamState *state) noexcept:
    """Have the daemon of the peer's stream connected in one of the next turns: it is added to `unopened`, a deque of
    (stream id, target). False: it is not known any more which daemon."""
    cdef bint ours = opened_here(session.lasting, state.id)
    target = None if ours else asked_target(session, state)
    if target is None:
        session.streams.reset(table_find(&session.streams.table, state.id), ResetCode.LOCAL_ERROR)
        return ours  # its application comes once more, by itself
    unopened.append((state.id, target))
    return True


cdef object asked_target(Session session, const StreamState *state):
    """The target that the peer has asked for, as bytes; None: it is not known any more."""
    cdef const Ring *targets = &session.lasting.targets
    if <uint64_t>state.target + state.target_bytes > targets.tail:
        return None
    return (<const char *>pool_at(targets.block) + state.target)[:state.target_bytes] if state.target_bytes else b""
