"""Joins a session to its carrier and its applications. Life of a byte: _endpoint.pxd."""

import os
from collections import deque
from functools import partial

from libc.errno cimport EAGAIN, EINTR, EMFILE, EPROTO, errno

from mproxy._liveness cimport liveness_note_life
from mproxy._ring cimport iovec
from mproxy._session cimport CarrierState, Event, EventKind
from mproxy._stream cimport table_find
from mproxy._transmit cimport MAX_IOVECS
from mproxy._wire cimport ResetCode
from mproxy.ground._wipe import wipe
from mproxy.endpoint._app cimport (
    app_close, app_deliver, app_new, app_next_ready, app_read, app_refusal, app_watch, apps_may_grow,
)
from mproxy.endpoint._daemon cimport daemon_dial, daemon_next
from mproxy.endpoint._cost cimport cost_begin, cost_end, cost_init
from mproxy.io._loop cimport BUFFER_BYTES, CROWD, EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP
from mproxy.endpoint._news cimport is_news
from mproxy.carrier._pace cimport (
    pace_bound, pace_bulk_room, pace_idle, pace_init, pace_note, pace_note_overtakes, pace_unbound,
)
from mproxy.carrier._send cimport send_frames, send_sealed
from mproxy.io._socket cimport (
    IPPROTO_TCP, TCP_NODELAY, TCP_USER_TIMEOUT, close_with_reset, receive_parts, reset_on_close, set_option, ssize_t,
)
from mproxy.io._socket import addresses_of
from mproxy.carrier._tls cimport OPEN_MARGIN_BYTES, Tls
from mproxy.endpoint._vitals cimport vitals_attach, vitals_died, vitals_examine, vitals_news


cdef enum:
    TURN_BYTES = 1048576        # read from applications before the carrier's turn
    MANY = 64                   # sessions: of more, all carriers begin with a small window
    RESETS_A_TURN = 16          # daemon connections of a session that is over
    OPENS_A_TURN = 4            # daemons to connect to in one pump: each costs as much as a large read;
    OPENS_ALONE = 64            # of a session that has the loop for itself
    MEMORY_LOOK_US = 100000     # from one look for memory to the next
    GOODBYE_MS = 60000          # for the system to deliver the last words of a carrier; left alone it takes minutes
    WAITING_US = 250000         # from one word that an application waits to the next


cdef void carrier_ready(Source *source, uint32_t events) noexcept:
    cdef Endpoint endpoint = <Endpoint>source.owner
    if events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
        endpoint.carrier_readable = True
        endpoint.carrier_hung_up |= (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0
    if events & EPOLLOUT:
        endpoint.carrier_writable = True
        endpoint.session.stalled = False
    endpoint.loop.schedule(&endpoint.work)


cdef void run_endpoint(Work *work) noexcept:
    (<Endpoint>work.owner).pump()


cdef void connect_failed(Apps *apps, App *app, int error) noexcept:
    (<Endpoint>apps.owner).try_next(app, error)


cdef void left_away(Apps *apps, App *app, bint broken) noexcept:
    cdef Endpoint endpoint = <Endpoint>apps.owner
    endpoint.tell_news(endpoint.observer.on_left_away, (endpoint, app.stream.id, bool(broken)))


cdef class Endpoint:
    """One session's I/O. Close it with `close` or let the peer; then `renew` it or drop it."""

    def __init__(self, Loop loop, Session session, observer):
        self.loop = loop
        self.observer = observer
        cost_init(&self.cost)
        self.unopened = deque()
        self.carrier.fd = -1
        self.carrier.ready = carrier_ready
        self.carrier.owner = <void *>self
        self.work.run = run_endpoint
        self.work.owner = <void *>self
        self.apps.loop = <void *>loop
        self.apps.work = &self.work
        self.apps.connect_failed = connect_failed
        self.apps.left_away = left_away
        self.apps.owner = <void *>self
        self.session = session
        self.apps.session = <void *>session
        _endpoints.add(self)

    # ---- commands

    def renew(self, Session session):
        """Go on with another session; the one before is closed and without applications, and its secret is wiped."""
        wipe(self.session.secret)
        self.session = session
        self.apps.session = <void *>session

    def attach(self, int fd, uint64_t epoch, uint32_t peer_window, uint64_t peer_budget, bytes first, bytes leftover,
               Tls tls=None):
        """Use the connected socket `fd` (ours from now on) as the carrier; a former one is closed.

        `first` is sent before all else; `leftover` was received, and opened, behind the handshake. `tls` seals and
        opens everything that follows; its handshake is over.
        """
        self.end_carrier(True)
        self.tls = tls
        if tls is not None:
            tls.forget()
        self.session.attach(epoch, peer_window, peer_budget, first, self.loop.now_us)
        self.session.sealed = tls is not None
        set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1)
        self.carrier.fd = fd
        pace_init(&self.pace, fd)
        if len(_endpoints) > MANY:
            pace_bound(&self.pace, self.loop.now_us)
        self.carrier_readable = self.carrier_writable = True
        self.carrier_hung_up = self.suspected = self.forsaken = False
        vitals_attach(&self.vitals, self.session, fd, self.loop.now_us)
        if self.loop.add(&self.carrier, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET) < 0:
            self.carrier_failed(os.strerror(errno))
            return
        self.arm()
        self.loop.schedule(&self.work)
        if leftover:
            self.process(leftover, len(leftover))

    def add_pipes(self, int read_fd, int write_fd, bytes target):
        """cproxy: relay an application on two descriptors (ours from now on), non-blocking or files."""
        cdef Stream *stream = self.session.open_stream(target, NULL)
        cdef App *app = app_new(&self.apps, stream, read_fd, write_fd) if stream != NULL else NULL
        if app == NULL or app_watch(app) < 0:
            raise OSError(errno, os.strerror(errno))
        self.was_busy = True
        self.loop.schedule(&self.work)

    def connect(self, uint32_t stream_id, Target target):
        """sproxy: connect the stream's daemon; nothing happens when the stream has ended meanwhile."""
        cdef Stream *stream = table_find(&self.session.table, stream_id)
        if stream != NULL and not stream.aborted and stream.owner == NULL:
            self.dial(stream, target)

    def refuse(self, uint32_t stream_id, int code):
        """sproxy: reset the stream instead."""
        cdef Stream *stream = table_find(&self.session.table, stream_id)
        if stream != NULL and not stream.aborted and stream.owner == NULL:
            self.session.reset(stream, code)
            self.loop.schedule(&self.work)

    def probe(self):
        """Send a heartbeat now."""
        self.session.probe(self.loop.now_us)
        self.loop.schedule(&self.work)

    def close(self, int code, str reason):
        """End the session: tell the peer, reset the applications. The observer is not told."""
        self.session.close(code, reason)
        if self.carrier.fd >= 0:
            self.write_carrier()
        self.end_carrier(False)
        self.reset_apps()

    def dispose(self):
        """Let the loop forget this endpoint; it has no carrier and no application. The session's secret is wiped."""
        wipe(self.session.secret)
        self.end_carrier(False)
        if self.timer is not None:
            self.timer.cancel()
        self.disposed = True
        self.reset_apps()
        if self.apps.first == NULL:
            self.vanish()

    def reset_rest(self):
        """Reset the applications that are left: there will be no more turns."""
        while self.apps.first != NULL:
            self.reset_apps()

    cdef void vanish(self) noexcept:
        self.loop.unschedule(&self.work)
        # An event of this turn may still point here.
        self.loop.soon.append(lambda: _endpoints.discard(self))

    # ---- getters

    @property
    def attached(self):
        """There is a carrier, and it does not count as lost."""
        return self.carrier.fd >= 0 and not self.forsaken

    @property
    def app_count(self):
        """Application connections now."""
        return self.apps.count

    @property
    def vanished(self):
        """Application connections that broke, ever."""
        return self.apps.vanished

    @property
    def drained(self):
        """Nothing is buffered in either direction."""
        return self.session.out_held == 0 and self.session.in_held == 0

    @property
    def receive_silence_us(self):
        """Time since the carrier's last byte."""
        return self.loop.now_us - self.session.received_at

    def addresses(self):
        """Return (local, peer) sockaddr tuples of the carrier, or None."""
        return addresses_of(self.carrier.fd) if self.carrier.fd >= 0 else None

    # ---- one turn

    cdef void pump(self) noexcept:
        """Do what the turn's events made possible: carrier in, applications in, carrier out."""
        cdef int reads = 0
        cost_begin(&self.cost, self.session.out_bytes + self.session.in_bytes + self.session.sent_bytes)
        if self.ending:
            self.end_rest()
            return
        self.open_rest()
        while self.carrier.fd >= 0 and self.carrier_readable:
            self.read_carrier()
            reads += 1
            # A read brings little while memory is short; who keeps none of it may read again.
            if reads == 4 or self.work.slow or self.session.in_held or self.short_of_memory or (
                    self.session.receive_room() >= BUFFER_BYTES):
                break
        if self.ending:
            return
        self.read_apps()
        if self.carrier.fd >= 0:
            self.write_carrier()
        if self.apps.ready_first != NULL or self.unopened or self.session.has_space() or (self.carrier.fd >= 0 and (
                (self.carrier_readable and not self.short_of_memory) or (
                    self.carrier_writable and not self.holding and self.session.wants_transmit()))):
            self.loop.schedule(&self.work)
        if self.was_busy and self.apps.count == 0:
            self.was_busy = False
            self.tell(self.observer.on_idle, (self,))
        self.session.settle()
        cost_end(&self.cost, self.session.out_bytes + self.session.in_bytes + self.session.sent_bytes,
                 self.loop.now_us, self.loop.slow_count(), self.loop.undisturbed())
        self.work.slow = self.cost.slow
        if self.cost.long_pump or (self.cost.slow and self.loop.slow_count() > CROWD):
            pace_bound(&self.pace, self.loop.now_us)
        elif self.pace.bounded and not self.cost.slow:
            pace_unbound(&self.pace, self.loop.now_us)

    cdef void wait_for_memory(self) noexcept:
        """Look again in a moment."""
        if not self.awaits_memory:
            self.awaits_memory = True
            self.loop.call_later(MEMORY_LOOK_US, self.on_memory)

    def on_memory(self):
        """There may be memory again; called by the loop."""
        self.awaits_memory = False
        if self not in _endpoints:
            return
        if self.session.relieve() or (self.short_of_memory and self.session.receive_room() > 0):
            self.loop.schedule(&self.work)
        elif self.short_of_memory or self.session.starved:
            self.wait_for_memory()

    cdef void read_carrier(self) noexcept:
        cdef iovec part
        cdef ssize_t n
        cdef size_t margin = OPEN_MARGIN_BYTES if self.tls is not None else 0
        part.iov_base = self.loop.buffer + margin
        part.iov_len = min(BUFFER_BYTES - margin, min(self.cost.read_bytes, self.session.receive_room()))
        self.short_of_memory = part.iov_len == 0
        if self.short_of_memory:
            pace_bound(&self.pace, self.loop.now_us)
            self.wait_for_memory()
            return
        n = receive_parts(self.carrier.fd, True, &part, 1)
        if n > 0:
            self.carrier_readable = <size_t>n == part.iov_len or self.carrier_hung_up
            if self.tls is not None:
                self.process_sealed(n)
            else:
                self.process(self.loop.buffer, n)
        elif n == 0:
            self.carrier_failed("closed by the peer")
        elif errno == EAGAIN:
            self.carrier_readable = False
        elif errno != EINTR:
            self.carrier_failed(os.strerror(errno))

    cdef void process_sealed(self, size_t length) noexcept:
        """Open what the carrier brought; part of a record is a sign of life, too."""
        cdef Tls tls = self.tls  # the session may end the carrier
        cdef long opened = tls.open_in_place(self.loop.buffer, length)
        if opened >= 0:
            self.process(self.loop.buffer, opened)
        if (tls.broken or tls.ended) and self.tls is tls:
            self.carrier_failed(tls.why())

    cdef void process(self, const uint8_t *data, size_t length) noexcept:
        """Let the session parse what the carrier brought and act on its events."""
        cdef Event event
        cdef App *app
        self.session.receive(data, length, self.loop.now_us)
        self.suspected = False
        if self.forsaken:
            self.revive()
        while True:
            self.session.poll_event(&event)
            if event.kind == EventKind.NOTHING:
                return
            if event.kind == EventKind.DATA:
                app = <App *>event.stream.owner
                if app != NULL:
                    app_deliver(app, event.data, event.length)
            elif event.kind == EventKind.OPENED:
                self.opened(event.stream, event.data, event.length)
            elif event.kind == EventKind.RESET:
                app = <App *>event.stream.owner
                app_close(app, True)
                self.tell(self.observer.on_reset, (self, event.stream.id, event.code))
            elif event.kind == EventKind.RESUMED:
                self.tell(self.observer.on_resumed, (self,))
            else:
                self.write_carrier()
                self.end_carrier(False)
                self.reset_apps()
                self.was_busy = False  # the end is told; that nobody is left then is no news
                reason = (<const char *>event.data)[:event.length].decode(errors="replace")
                self.tell(self.observer.on_closed, (self, event.code, reason, bool(event.local)))
                return

    cdef void read_apps(self) noexcept:
        """Read applications that have something and whose stream has room, in turns."""
        cdef Stream *stream
        cdef App *app
        cdef size_t done = 0
        while done < TURN_BYTES:
            app = app_next_ready(&self.apps)
            if app == NULL:
                stream = self.session.poll_space()
                if stream == NULL:
                    break
                app = <App *>stream.owner
            done += app_read(app)
        if self.session.starved:
            self.wait_for_memory()
        if done > 0 and not self.session.is_server and not self.attached and (
                self.loop.now_us - self.waiting_told_at > WAITING_US):
            self.waiting_told_at = self.loop.now_us
            self.tell(self.observer.on_waiting, (self,))

    cdef void write_carrier(self) noexcept:
        """Send frames until there are none or the carrier takes no more."""
        cdef iovec parts[MAX_IOVECS]
        cdef size_t offered, taken, done = 0
        cdef int64_t room
        cdef int i, count, error = 0
        if self.carrier_writable and self.tls is not None:
            taken = self.tls.unsent()
            error = send_sealed(self.carrier.fd, self.tls, False)
            if self.tls.unsent() > 0:
                self.note_full()
            pace_note(&self.pace, 0, taken - self.tls.unsent(), self.loop.now_us)
        while not error and self.carrier_writable and done < TURN_BYTES:
            room = pace_bulk_room(&self.pace, self.session.transmitter.bulk.first != NULL, self.loop.now_us)
            count = self.session.poll_transmit(self.pace.batch_bytes, room > 0, parts)
            if count == 0:
                if room > 0:
                    pace_idle(&self.pace)
                else:
                    self.hold_bulk()
                return
            offered = 0
            for i in range(count):
                offered += parts[i].iov_len
            taken = send_frames(self.carrier.fd, self.tls, parts, count, offered, &error)
            self.session.transmitted(taken)
            done += taken
            if self.session.life.unanswered_at == 0 and self.session.out_held > 0 and taken > 0:
                self.session.life.unanswered_at = self.loop.now_us
                if self.session.deadline() < self.armed_at:
                    self.arm()
            if self.tls is not None:
                taken -= min(taken, self.tls.unsent())
            pace_note(&self.pace, offered, taken, self.loop.now_us)
            pace_note_overtakes(&self.pace, self.session.transmitter.overtakes, self.loop.now_us)
            if taken < offered:
                self.note_full()
        if error and self.session.state != CarrierState.CLOSED_FOR_GOOD:
            self.carrier_failed(os.strerror(error) if error != EPROTO else self.tls.why())

    cdef void note_full(self) noexcept:
        """The socket takes no more."""
        self.carrier_writable = False
        self.session.stalled = True

    cdef void hold_bulk(self) noexcept:
        """Let bulk wait for room on the path."""
        if not self.holding:
            self.holding = True
            self.loop.call_later(self.pace.hold_us, self.on_hold_over)

    def on_hold_over(self):
        """Try bulk again; called by the loop."""
        self.holding = False
        if self.carrier.fd >= 0:
            self.loop.schedule(&self.work)

    # ---- carrier

    cdef void carrier_failed(self, str why) noexcept:
        """The carrier is gone; the session goes on without."""
        cdef bint told = self.forsaken
        self.end_carrier(True)
        self.session.carrier_lost()
        # When it was told already, something has answered now: the path may be back.
        if told:
            self.tell(self.observer.on_waiting, (self,))
        else:
            self.tell(self.observer.on_lost, (self, why))

    cdef void forsake(self, str why) noexcept:
        """The carrier counts as lost. cproxy keeps it until another one works: the path may come back before.

        Nothing is sent to keep it alive: the kernel repeats what is on its way.
        """
        if self.session.is_server:
            self.carrier_failed(why)
            return
        self.forsaken = True
        self.tell(self.observer.on_lost, (self, why))

    cdef void revive(self) noexcept:
        """The carrier that counted as lost brings bytes again."""
        self.forsaken = False
        self.vitals.failures = 0
        self.arm()
        self.tell(self.observer.on_revived, (self,))

    cdef void end_carrier(self, bint abort) noexcept:
        """Close the carrier. With `abort` what is on its way is given up: it is sent again on the next one, and would
        else stay in the kernel for minutes."""
        if self.carrier.fd >= 0 and abort:
            reset_on_close(self.carrier.fd)
        elif self.carrier.fd >= 0:
            set_option(self.carrier.fd, IPPROTO_TCP, TCP_USER_TIMEOUT, GOODBYE_MS)
            if self.tls is not None and self.tls.unsent() == 0:
                self.tls.seal_end()
                send_sealed(self.carrier.fd, self.tls, False)
        self.tls = None
        self.forsaken = False
        self.loop.close(&self.carrier)
        self.carrier_readable = self.carrier_writable = False

    cdef void arm(self) noexcept:
        """Have `on_timer` called no later than the session's deadline."""
        self.armed_at = self.session.deadline()
        if self.timer is not None:
            self.timer.cancel()
        self.timer = self.loop.call_at(self.armed_at, self.on_timer) if self.carrier.fd >= 0 else None

    def on_timer(self):
        """Heartbeats and judgement of the carrier; called by the loop."""
        if self.carrier.fd < 0 or self.forsaken:
            return
        if self.carrier_readable and (self.short_of_memory or self.work.queue != NULL):
            liveness_note_life(&self.session.life, self.loop.now_us)  # it is we who do not read
        vitals_examine(&self.vitals, self.session, self.loop.now_us)
        self.session.handle_timeout(self.loop.now_us)
        self.loop.schedule(&self.work)
        if self.session.life.dead:
            vitals_died(&self.vitals, self.session)
            self.forsake(f"nothing heard for {(self.loop.now_us - self.session.received_at) / 1e6:.1f}s")
            return
        if self.session.life.suspect and not self.suspected:
            self.suspected = True
            self.tell(self.observer.on_suspect, (self,))
        stuck = vitals_news(&self.vitals, self.session)
        if stuck:
            self.tell(self.observer.on_stuck, (self, stuck == 2))
        if self.carrier.fd >= 0:
            self.arm()

    # ---- applications

    cdef void reset_apps(self) noexcept:
        """Reset every application; one that has been given all there was keeps what it has not read yet.

        sproxy, whose clients may have thousands, does so in portions, one in each turn: `pump` goes on.
        """
        cdef int left = RESETS_A_TURN
        self.unopened.clear()
        while self.apps.first != NULL and (left > 0 or not self.session.is_server):
            app_close(self.apps.first, not self.apps.first.write_ended)
            left -= 1
        self.ending = self.apps.first != NULL

    cdef void end_rest(self) noexcept:
        """The session is over and some applications are left."""
        self.reset_apps()
        if self.ending:
            self.work.slow = True
            self.loop.schedule(&self.work)
        elif self.disposed:
            self.vanish()

    cdef int accepted(self, int fd, bytes target) noexcept:
        """cproxy: a stream for an application just accepted; -1 (the application is reset) without room."""
        cdef Stream *stream = self.session.open_stream(target, NULL)
        cdef App *app = app_new(&self.apps, stream, fd, -1) if stream != NULL else NULL
        if app == NULL:
            if stream != NULL:
                self.session.reset(stream, ResetCode.LOCAL_ERROR)
            close_with_reset(fd)
            return -1
        self.was_busy = True
        app_watch(app)
        return 0

    cdef void opened(self, Stream *stream, const uint8_t *target, uint32_t length) noexcept:
        """sproxy: the peer opened a stream."""
        self.was_busy = True
        if self.opens_left == 0:
            self.unopened.append((stream.id, (<const char *>target)[:length]))
        else:
            self.open_app(stream, target, length)

    cdef void open_rest(self) noexcept:
        """Go on with streams whose daemons had to wait for another turn."""
        cdef Stream *stream
        self.opens_left = OPENS_ALONE if self.loop.undisturbed() else OPENS_A_TURN
        while self.unopened and self.opens_left > 0:
            number, target = self.unopened.popleft()
            stream = table_find(&self.session.table, number)
            if stream != NULL and not stream.aborted and stream.owner == NULL:
                self.open_app(stream, target, len(target))

    cdef void open_app(self, Stream *stream, const uint8_t *target, size_t length) noexcept:
        self.opens_left -= 1
        if length == 0 and self.default_target is not None:
            self.dial(stream, self.default_target)
        else:
            self.tell(self.observer.on_opened, (self, stream.id, (<const char *>target)[:length]))

    cdef void dial(self, Stream *stream, Target target) noexcept:
        """Connect the stream's daemon."""
        cdef int error = daemon_dial(&self.apps, stream, target) if apps_may_grow(&self.apps) else EMFILE
        if error:
            self.refused(stream, target, error)

    cdef void try_next(self, App *app, int error) noexcept:
        """The address that was tried failed: on to the next, or tell the peer."""
        if not self.ending:
            if daemon_next(app):
                return
            self.refused(app.stream, <Target>app.target, error)
        app_close(app, False)

    cdef void refused(self, Stream *stream, Target target, int error) noexcept:
        self.session.reset(stream, app_refusal(error))
        self.loop.schedule(&self.work)
        self.tell_news(self.observer.on_refused, (self, stream.id, target.text, error))

    cdef void tell_news(self, method, tuple arguments) noexcept:
        """Call the observer for an application that was refused or left, but not for a flood of them."""
        if is_news(&self.news, self.loop.now_us):
            self.tell(method, arguments)

    cdef void tell(self, method, tuple arguments) noexcept:
        """Call a method of the observer; what it lets through goes to the loop's `on_error`."""
        self.loop.guard(partial(method, *arguments), None)


_endpoints = set()  # alive until `dispose`: the kernel and the loop hold pointers to them
