"""One application connection: how its socket and its stream move each other.

Edge-triggered: `readable` and `writable` stay true until the system says EAGAIN, or gives less than asked for. The
application's end becomes the stream's end and the other way round, each direction by itself; when both have ended the
socket is closed. A broken connection resets the stream, after everything that the application had written: an error in
one direction ends that direction, and what the kernel holds of the other is read first.

Until its application has been given an orderly end, a socket is closed with a reset, whoever closes it (even the
kernel, when this process is killed): SO_LINGER of 0 from the start, lifted in `app_flush`.
"""

from cpython.ref cimport PyObject, Py_XDECREF
from libc.errno cimport (
    EAGAIN, ECONNREFUSED, ECONNRESET, EINTR, EMFILE, ENFILE, ENOMEM, EPERM, EPIPE, ETIMEDOUT, errno,
)
from libc.limits cimport INT_MAX
from libc.stdlib cimport calloc

from mproxy._ring cimport iovec, ring_space, ring_used, ring_view
from mproxy._session cimport CarrierState
from mproxy._streams cimport StreamSet
from mproxy._wire cimport ResetCode
from mproxy.ground._list cimport list_append, list_remove
from mproxy.io._attempts cimport Attempts
from mproxy.io._linger cimport reset_when_taken
from mproxy.io._loop cimport EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP
from mproxy.io._socket cimport (
    IPPROTO_TCP, SHUT_WR, TCP_NOTSENT_LOWAT, Target, finish_on_close, pending_error, receive_parts,
    reset_on_close, send_bytes, send_parts, set_errno, set_option, shutdown, spare_from, ssize_t, unsent_bytes,
)


cdef enum:
    TURN_BYTES = 262144    # read from one application before the next one's turn
    UNSENT_BYTES = 131072  # most that the kernel may hold of what an application's host cannot take
    OWN_DESCRIPTORS = 16   # the loop's, listeners, the log


cdef uint32_t EVENTS = EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLET
cdef int promised = 1      # daemon connections promised to every session,
cdef int shared = INT_MAX  # and those beyond the promises, for all sessions together
cdef int all_apps = 0      # of all sessions
cdef int all_beyond = 0    # those beyond the promises


def share_descriptors(int sessions, int strangers):
    """sproxy: promise each of `sessions` sessions a descriptor for its carrier and some for daemon connections, while
    `strangers` connections wait to become carriers. At most a quarter of the descriptors is kept for that, so with very
    many sessions no promise holds. Why: docs/decisions/memory-by-what-is-free.md.
    """
    global promised, shared
    cdef int limit = spare_from()
    promised = max(1, limit // 8 // sessions)
    shared = limit - min(sessions * (promised + 1) + strangers + OWN_DESCRIPTORS, limit // 4)


cdef bint apps_may_grow(const Apps *apps) noexcept:
    """Whether a session may have one more daemon connection: beyond its promise, at most twice what it leaves to
    others, if there are any.

    So one session among others can have more than half: 10,000 streams within a usual limit of 20,000.
    """
    cdef int64_t beyond = <int64_t>apps.all.count - promised, left = <int64_t>shared - all_beyond
    return beyond < 0 or beyond < 2 * left or left > 0 and <int>apps.all.count == all_apps


cdef App *app_new(Apps *apps, Stream *stream, int fd, int write_fd) noexcept:
    """Record an application on `fd`; `write_fd` is where it takes bytes, or -1: the same. NULL: no memory."""
    global all_apps, all_beyond
    cdef App *app = <App *>calloc(1, sizeof(App))
    if app == NULL:
        return NULL
    app.source.fd = fd
    app.source.ready = on_ready
    app.source.owner = app
    app.sink.fd = write_fd
    app.sink.ready = on_ready
    app.sink.owner = app
    app.apps = apps
    app.stream = stream
    app.is_socket = write_fd < 0
    if app.is_socket:
        stream.state.fd = fd + 1
    list_append(&apps.all, app, &app.in_all)
    all_apps += 1
    all_beyond += <int>apps.all.count > promised
    stream.owner = app
    stream.began_at = (<Loop>apps.loop).now_us
    return app


cdef int app_watch(App *app) noexcept:
    """Begin to wait for the descriptors; -1 with errno."""
    cdef Loop loop = <Loop>app.apps.loop
    cdef uint32_t events = EVENTS
    if app.sink.fd < 0:
        events |= EPOLLOUT
    elif loop.add(&app.sink, EPOLLOUT | EPOLLET) < 0:
        if errno != EPERM:
            return -1
        app.writable = True
    if loop.add(&app.source, events) < 0:
        if errno != EPERM:
            return -1
        app.is_file = True
        app.readable = True
        app_mark_ready(app)
    return 0


cdef void app_watch_again(App *app) noexcept:
    """As `app_watch`, for a socket that the loop watches for another source: its events come here from now on."""
    (<Loop>app.apps.loop).modify(&app.source, EVENTS | EPOLLOUT)


cdef void app_close(App *app, bint abruptly) noexcept:
    """Close the descriptors, with a reset when `abruptly`, and let go of the stream."""
    global all_apps, all_beyond
    cdef Apps *apps = app.apps
    cdef Loop loop = <Loop>apps.loop
    app.stream.state.fd = 0  # first: another process that goes on must not take the number for this application's
    if abruptly and app.is_socket:
        reset_on_close(app.source.fd)
        if not app.connecting and not app.broken and unsent_bytes(app.source.fd) > 0:
            reset_when_taken(loop, &app.source)
    loop.close(&app.source)
    loop.close(&app.sink)
    drop_target(app)
    leave_ready(app)
    all_beyond -= <int>apps.all.count > promised
    list_remove(&apps.all, app, &app.in_all)
    all_apps -= 1
    (<Session>apps.session).streams.release(app.stream)
    loop.schedule(apps.work)  # there may be a frame to send, and the owner wants to know when no application is left
    loop.free_later(app)


cdef bint is_away(Session session) noexcept:
    """There is no carrier, or none that works."""
    return session.state == CarrierState.NO_CARRIER or session.life.dead


cdef void app_vanished(App *app) noexcept:
    """The application's connection broke, and all that it had written was read."""
    cdef Session session = <Session>app.apps.session
    app.apps.vanished = ECONNRESET
    if is_away(session):
        session.streams.discard(app.stream, ResetCode.WHILE_AWAY)
        app.apps.left_away(app.apps, app, True)
    else:
        session.streams.discard(app.stream, ResetCode.APPLICATION)
    app_close(app, False)


cdef void app_write_failed(App *app) noexcept:
    """The application takes no more (errno). Its connection has ended, but what it wrote before may not be read yet.

    A pipe could always bring more: its application has vanished.
    """
    cdef int error = errno
    if app.read_ended or not app.is_socket:
        app_vanished(app)
        app.apps.vanished = error
        return
    break_off(app, error)
    (<Session>app.apps.session).streams.deafen(app.stream)
    app_mark_ready(app)


cdef void break_off(App *app, int error) noexcept:
    """The socket's error was fetched: after the remaining bytes a read will find what looks like an end.

    It is one only if the other end had ended in order before (EPIPE: tcp_reset() in CLOSE_WAIT).
    """
    app.broken = app.hung_up = app.readable = True
    app.cut = error != EPIPE


cdef void on_ready(Source *source, uint32_t events) noexcept:
    """Note the events of a descriptor; the work is done when all events of the turn are noted."""
    cdef App *app = <App *>source.owner
    if events & (EPOLLOUT | EPOLLERR | EPOLLHUP):
        app.writable = True
    if app.connecting:
        finish_connect(app, events)
        if app.source.fd < 0 or app.connecting:
            return
    if events & (EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
        app.readable = True
        app.hung_up |= (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0
        app.urgent |= (events & EPOLLPRI) != 0
        app.broken |= (events & EPOLLERR) != 0
        app_mark_ready(app)
    if app.writable and (ring_used(&app.stream.state.inp) > 0 or app.stream.state.in_ended):
        app_flush(app)


cdef void finish_connect(App *app, uint32_t events) noexcept:
    """The daemon has answered: the socket is writable, or broken."""
    cdef int error
    if events & (EPOLLERR | EPOLLHUP):
        error = pending_error(app.source.fd) or app.refusal
        if error != ECONNRESET and error != EPIPE:
            app.apps.connect_failed(app.apps, app, error)
            return
        break_off(app, error)  # it had accepted: a refusal is ECONNREFUSED
        app_answered(app)
    elif app.writable:
        app_answered(app)


cdef void app_answered(App *app) noexcept:
    """The daemon has accepted the connection. On loopback it has by the time there are bytes for it."""
    cdef bint told = app.target == NULL or tell_first(app, (<Target>app.target).first)
    app.connecting = app.stream.state.dialling = False
    drop_target(app)
    if not told:
        app_write_failed(app)


cdef bint tell_first(App *app, bytes words) noexcept:
    """Send what comes before the stream; false: it could not be sent whole, which an empty buffer always can."""
    set_errno(EPIPE)
    return not words or send_bytes(app.source.fd, words, len(words), False) == <ssize_t>len(words)


cdef bint may_hurry(App *app) noexcept:
    """Whether bytes may be sent before the daemon is known to have accepted: not if something comes first."""
    return app.connecting and (app.target == NULL or not (<Target>app.target).first)


cdef int app_refusal(int error) noexcept:
    """The ResetCode for a daemon that could not be reached (errno)."""
    if error == ECONNREFUSED:
        return ResetCode.REFUSED
    if error == ETIMEDOUT:
        return ResetCode.TIMED_OUT
    return ResetCode.LOCAL_ERROR if error == EMFILE or error == ENFILE or error == ENOMEM else ResetCode.UNREACHABLE


cdef void drop_target(App *app) noexcept:
    Py_XDECREF(<PyObject *>app.target)
    app.target = NULL
    if app.race != NULL:
        (<Attempts>app.race).over()
        Py_XDECREF(<PyObject *>app.race)
        app.race = NULL


# ---- applications to be read

cdef void app_mark_ready(App *app) noexcept:
    """Read the application in this turn."""
    cdef Apps *apps = app.apps
    (<Loop>apps.loop).schedule(apps.work)
    if not app.ready:
        app.ready = True
        list_append(&apps.ready, app, &app.in_ready)


cdef App *app_next_ready(Apps *apps) noexcept:
    """Take the first of the applications to be read, or NULL."""
    cdef App *app = <App *>apps.ready.first
    if app != NULL:
        leave_ready(app)
    return app


cdef void leave_ready(App *app) noexcept:
    if app.ready:
        app.ready = False
        list_remove(&app.apps.ready, app, &app.in_ready)


# ---- application -> stream

cdef size_t app_read(App *app) noexcept:
    """Read until the system has no more, the stream has no room, or its turn is over; returns the bytes read.

    The application may be closed on return. When its turn is over it queues itself again, or the session does.
    """
    cdef Session session = <Session>app.apps.session
    cdef StreamSet streams = session.streams
    cdef Stream *stream = app.stream
    cdef iovec parts[2]
    cdef uint32_t turn = streams.turn_bytes(stream, TURN_BYTES) if app.readable else 0, done = 0, room
    cdef ssize_t n
    while app.readable and not (app.read_ended or app.connecting):
        room = streams.room(stream, turn) if turn > 0 else 0
        if room == 0:
            if app.broken and not app.is_socket:
                app_vanished(app)
            return done
        if done >= turn:
            app_mark_ready(app)
            return done
        room = min(room, turn - done)
        n = receive_parts(app.source.fd, app.is_socket, parts, ring_space(&stream.state.out, room, parts))
        if n > 0:
            streams.wrote(stream, <uint32_t>n)
            done += n
            # A short read has emptied the socket, and new bytes make a new event; but only a read finds the end.
            app.readable = n == <ssize_t>room or app.hung_up or app.urgent or app.is_file
        elif n == 0 and not app.cut:
            app.read_ended = True
            streams.end(stream)
            if is_away(session):
                app.apps.left_away(app.apps, app, False)
            if app.write_ended:
                app_close(app, False)
            elif app.broken and app.is_socket:
                app_vanished(app)
            return done
        elif n == 0:
            app_vanished(app)
            return done
        elif errno == EAGAIN:
            app.readable = False
        elif errno != EINTR:
            app_vanished(app)
            return done
    return done


# ---- stream -> application

cdef void app_deliver(App *app, const uint8_t *data, uint32_t length) noexcept:
    """Hand the bytes of a DATA event to the application, as many as it takes; the session keeps the rest."""
    cdef Session session = <Session>app.apps.session
    cdef iovec part
    cdef ssize_t n = 0
    if length > 0 and (app.writable or may_hurry(app)) and ring_used(&app.stream.state.inp) == 0:
        part.iov_base = <void *>data
        part.iov_len = length
        n = send_parts(app.sink.fd if app.sink.fd >= 0 else app.source.fd, app.is_socket, &part, 1)
        if n > 0:
            app.writable = n == <ssize_t>length
            app_answered(app)
            if not app.bounded and app.stream.state.inp.tail > UNSENT_BYTES:
                bound_unsent(app)
        elif errno == EAGAIN:
            app.writable = False
        elif app.connecting:
            app.refusal = app.refusal or <uint8_t>errno  # an event will tell of a connection that failed, but not why
        elif errno != EINTR:
            app_write_failed(app)
            return
        n = max(n, <ssize_t>0)
    session.take(<uint32_t>n)
    if app.stream.state.in_ended or length == 0:  # without bytes of its own: others are in order now
        app_flush(app)


cdef void bound_unsent(App *app) noexcept:
    """Have the kernel take little more of one stream than it can send at once, so that what an application does not
    read counts towards our limits. By itself the kernel would take up to 4 MiB of each, and greedy peers could
    exhaust it."""
    app.bounded = True
    if app.is_socket:
        set_option(app.source.fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_BYTES)


cdef void app_flush(App *app) noexcept:
    """Hand kept bytes, and then the end, to the application."""
    cdef StreamSet streams = (<Session>app.apps.session).streams
    cdef Stream *stream = app.stream
    cdef int fd = app.sink.fd if app.sink.fd >= 0 else app.source.fd
    cdef iovec parts[2]
    cdef uint32_t kept
    cdef ssize_t n
    if app.connecting or app.write_ended or stream.state.deaf:
        return
    while ring_used(&stream.state.inp) > 0:
        if not app.writable:
            return
        kept = ring_used(&stream.state.inp)
        n = send_parts(fd, app.is_socket, parts, ring_view(&stream.state.inp, stream.state.inp.head, kept, parts))
        if n >= 0:
            streams.handed(stream, <uint32_t>n)
            app.writable = n == <ssize_t>kept
        elif errno == EAGAIN:
            app.writable = False
        elif errno != EINTR:
            app_write_failed(app)
            return
    (<Loop>app.apps.loop).schedule(app.apps.work)  # an ack may be due
    if not stream.state.in_ended:
        return
    app.write_ended = True
    streams.end_handed(stream)
    if app.is_socket:
        finish_on_close(fd)
    if app.read_ended:
        app_close(app, False)
        return
    shutdown(fd, SHUT_WR)
    if not app.is_socket:
        (<Loop>app.apps.loop).close(&app.sink)  # this is how the reader of a pipe sees the end
