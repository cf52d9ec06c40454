"""Connecting to daemons: _daemon.pxd."""

from cpython.ref cimport Py_INCREF
from libc.errno cimport ENOMEM, ETIMEDOUT, errno
from libc.stdint cimport uint8_t, uint16_t

from mproxy._ring cimport ring_used
from mproxy.endpoint._app cimport app_answered, app_flush, app_new, app_watch, app_watch_again
from mproxy.io._attempts cimport Attempt, Attempts
from mproxy.io._loop cimport Loop, Work
from mproxy.io._socket cimport close_with_reset


cdef int daemon_dial(Apps *apps, Stream *stream, Target target) noexcept:
    """Begin with the first address that does not fail at once. 0, or errno: there is none, and so no application."""
    cdef int fd = -1, index = 0, error = 0
    cdef App *app
    while fd < 0 and index < target.count:
        fd = target.dial(index)
        error = errno
        index += 1
    if fd < 0:
        return error
    stream.state.dialling = True
    stream.state.written_before = <uint16_t>len(target.first)
    app = app_new(apps, stream, fd, -1)
    if app == NULL:
        close_with_reset(fd)
        return ENOMEM
    app.connecting = True
    app.address = <uint8_t>(index - 1)
    app.target = <void *>target
    Py_INCREF(target)
    app_watch(app)
    if index < target.count:
        begin_race(app)
    return 0


cdef void begin_race(App *app) noexcept:
    """There are more addresses."""
    cdef Attempts attempts = Attempts(<Loop>app.apps.loop)
    attempts.work.run = run_race
    attempts.work.owner = app
    Py_INCREF(attempts)
    app.race = <void *>attempts
    attempts.wait()


cdef bint daemon_next(App *app) noexcept:
    """The newest attempt failed: go on with the next address. False: none is left, and no attempt is under way."""
    app.stream.state.fd = 0
    (<Loop>app.apps.loop).close(&app.source)
    dial_next(app)
    return app.source.fd >= 0 or app.race != NULL and (<Attempts>app.race).all.first != NULL


cdef void dial_next(App *app) noexcept:
    """Begin with the next address that does not fail at once, if there is one."""
    cdef Target target = <Target>app.target
    cdef int fd = -1, index = app.address + 1
    while fd < 0 and index < target.count:
        fd = target.dial(index)
        index += 1
    app.address = <uint8_t>(index - 1)
    app.source.fd = fd
    app.stream.state.fd = fd + 1
    app.refusal = 0
    app.writable = False
    if fd >= 0:
        app_watch(app)
    if app.race == NULL:
        return
    if fd >= 0 and index < target.count:
        (<Attempts>app.race).wait()
    else:
        (<Attempts>app.race).rest()


cdef void run_race(Work *work) noexcept:
    """An attempt beside the newest has an answer, or the newest one's time is over."""
    cdef App *app = <App *>work.owner
    cdef Attempts attempts = <Attempts>app.race
    cdef Attempt *attempt = attempts.answered()
    while attempt != NULL:
        if attempts.error == 0:
            win(app, attempts, attempt)
            return
        attempts.close(attempt)
        attempt = attempts.answered()
    if attempts.is_due and not app.writable and app.refusal == 0:
        if app.source.fd >= 0 and attempts.add(app.source.fd, NULL, 0):
            app.source.fd = -1
            app.stream.state.fd = 0
            dial_next(app)
        attempts.is_due = False
    if app.source.fd < 0 and attempts.all.first == NULL:
        app.apps.connect_failed(app.apps, app, attempts.error or ETIMEDOUT)


cdef void win(App *app, Attempts attempts, Attempt *attempt) noexcept:
    """Go on with that attempt in place of the newest."""
    app.stream.state.fd = 0
    (<Loop>app.apps.loop).close(&app.source)
    app.source.fd = attempts.take(attempt)
    app.stream.state.fd = app.source.fd + 1
    app.writable = True
    app_watch_again(app)
    app_answered(app)
    if ring_used(&app.stream.state.inp) > 0 or app.stream.state.in_ended:
        app_flush(app)
