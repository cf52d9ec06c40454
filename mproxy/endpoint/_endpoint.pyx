"""Joins a session to its carrier and its applications. Life of a byte: _endpoint.pxd."""

import os
from collections import deque
from functools import partial

from libc.errno cimport ECONNRESET, EMFILE, errno
from libc.stdint cimport uint16_t

from mproxy._liveness cimport liveness_death_us, liveness_note_life
from mproxy._parcel_reader cimport ParcelReader
from mproxy._ring cimport iovec
from mproxy._session cimport CarrierState, EventKind, SessionEvent
from mproxy._stream cimport table_find
from mproxy._transmit cimport MAX_IOVECS
from mproxy._wire cimport ResetCode
from mproxy.endpoint._adopt cimport Adopted, adopt_stream, serve_again
from mproxy.endpoint._app cimport (
    app_close, app_deliver, app_new, app_next_ready, app_read, app_refusal, app_watch, apps_may_grow,
)
from mproxy.endpoint._cost cimport cost_begin, cost_end, cost_init
from mproxy.endpoint._daemon cimport daemon_dial, daemon_next
from mproxy.endpoint._flow_side cimport FlowSide
from mproxy.endpoint._news cimport is_news
from mproxy.endpoint._vitals cimport vitals_attach, vitals_died, vitals_examine, vitals_news, vitals_sent
from mproxy.ground._arena cimport arena_turn
from mproxy.ground._stores cimport store_whole
from mproxy.io._loop cimport BUFFER_BYTES, CROWD
from mproxy.io._socket cimport close_with_reset


cdef enum:
    TURN_BYTES = 1048576        # read from applications before the carrier's turn
    MANY = 64                   # with more sessions than these all carriers begin with a small window
    RESETS_A_TURN = 16          # daemon connections reset in one turn when a session is over
    OPENS_A_TURN = 4            # daemons connected to in one pump: each costs as much as a large read;
    OPENS_ALONE = 64            # for a session that has the loop to itself
    MEMORY_LOOK_US = 100000     # from one look for memory to the next
    SPREAD_US = 2500            # idle sessions times this from one heartbeat to the next: 400 a second from all
    WAITING_US = 250000         # from one report that an application waits to the next


cdef void run_endpoint(Work *work) noexcept:
    cdef Endpoint endpoint = <Endpoint>work.owner
    endpoint.take_turn()
    endpoint.pump()
    store_whole(arena_turn, 0)


cdef void connect_failed(Apps *apps, App *app, int error) noexcept:
    (<Endpoint>apps.owner).try_next(app, error)


cdef void left_away(Apps *apps, App *app, bint broken) noexcept:
    cdef Endpoint endpoint = <Endpoint>apps.owner
    endpoint.tell_news(endpoint.observer.on_left_away, (endpoint, app.stream.state.id, bool(broken)))


cdef void deadline_due(DueCall *due) noexcept:
    (<Endpoint>due.owner).on_due()


cdef bint take(void *owner, const uint8_t *data, uint32_t length, bint is_parcel) noexcept:
    cdef Endpoint endpoint = <Endpoint>owner
    cdef bint taken
    endpoint.loop.schedule(&endpoint.work)  # before: it may be disposed of, and then has no more turns
    endpoint.take_turn()
    taken = endpoint.process(data, length, is_parcel)
    store_whole(arena_turn, 0)
    return taken


cdef class Endpoint:
    """One session's I/O. It ends by `close` or by the peer; then `renew` it or drop it."""

    def __init__(self, Loop loop, Session session, observer):
        self.loop = loop
        self.observer = observer
        cost_init(&self.cost)
        self.unopened = deque()
        self.work.run = run_endpoint
        self.work.owner = <void *>self
        self.due.call = deadline_due
        self.due.owner = <void *>self
        self.apps.loop = <void *>loop
        self.apps.work = &self.work
        self.apps.connect_failed = connect_failed
        self.apps.left_away = left_away
        self.apps.owner = <void *>self
        self.session = session
        self.apps.session = <void *>session
        self.recipient = Recipient(take, <void *>self)
        self.flows = FlowSide()
        _endpoints.add(self)

    # ---- commands

    def renew(self, Session session):
        """Go on with another session; the former one is closed and has no applications, and its secret is wiped."""
        self.session.forget_secret()
        self.session = session
        self.apps.session = <void *>session

    cdef bint adopt(self, StreamState *state) noexcept:
        """Go on with a stream of a process that is gone, before there is a carrier.

        `state`, the storage of its rings and its application's descriptor are ours from now on. False: what was done
        for the application cannot be told, so it is reset, and so is the peer's.
        """
        cdef Adopted how = adopt_stream(&self.apps, state)
        cdef bint kept = how == Adopted.KEPT or (
            how == Adopted.UNSERVED and serve_again(self.session, self.unopened, state))
        self.was_busy |= self.apps.all.count > 0 or len(self.unopened) > 0
        self.loop.schedule(&self.work)
        return kept

    def attach(self, Carrier carrier not None, uint64_t epoch, uint32_t peer_window, uint64_t peer_budget, bytes first,
               bytes leftover):
        """Go on over `carrier`, which is ours from now on; a former one is closed. `first` is sent before all else;
        `leftover` is what arrived after the handshake."""
        self.end_carrier(True)
        self.session.attach(epoch, peer_window, peer_budget, first, self.loop.now_us)
        self.session.streams.sealed = carrier.sealed
        self.carrier = carrier
        self.suspected = self.forsaken = False
        vitals_attach(&self.vitals, self.session, self.loop.now_us)
        carrier.begin(&self.work)
        if carrier.over:
            self.carrier_failed(carrier.why)
            return
        if carrier.pulls:
            self.parcels = ParcelReader(self.session)
            carrier.join(self.session, &self.recipient)
        if len(_endpoints) > MANY:
            carrier.bound(True)
        self.arm()
        self.loop.schedule(&self.work)
        if leftover:
            self.take_turn()
            self.process(leftover, len(leftover), False)
            store_whole(arena_turn, 0)

    def add_pipes(self, int read_fd, int write_fd, bytes target):
        """cproxy: relay an application on two descriptors (ours from now on), non-blocking or files."""
        cdef Stream *stream = self.session.open_stream(target, NULL)
        cdef App *app = app_new(&self.apps, stream, read_fd, write_fd) if stream != NULL else NULL
        if app == NULL or app_watch(app) < 0:
            raise OSError(errno, os.strerror(errno))
        self.was_busy = True
        self.loop.schedule(&self.work)

    def add_greeted(self, int fd, bytes target, uint16_t read, uint16_t written):
        """Relay an application that has said where to, over a connection that has carried `read` bytes from it and
        `written` to it. The descriptor is ours from now on."""
        self.accepted(fd, target, read, written)
        self.loop.schedule(&self.work)
        if self.carrier is None or self.forsaken:
            self.tell(self.observer.on_waiting, (self,))

    def connect(self, uint32_t stream_id, Target target):
        """Connect the daemon of a stream of the peer's; does nothing if it has ended meanwhile."""
        cdef Stream *stream = table_find(&self.session.streams.table, stream_id)
        if stream != NULL and not stream.state.aborted and stream.owner == NULL:
            self.dial(stream, target)

    def refuse(self, uint32_t stream_id, int code):
        """Reset such a stream instead."""
        cdef Stream *stream = table_find(&self.session.streams.table, stream_id)
        if stream != NULL and not stream.state.aborted and stream.owner == NULL:
            self.session.streams.reset(stream, code)
            self.loop.schedule(&self.work)

    def kill(self, uint32_t stream_id, str why):
        """End one stream: its application here is reset, and so is the peer's. False: there is no such stream."""
        cdef Stream *stream = table_find(&self.session.streams.table, stream_id)
        cdef App *app
        if stream == NULL or stream.state.aborted or stream.state.retired:
            return False
        app = <App *>stream.owner
        self.session.streams.kill(stream, why.encode(errors="replace"))
        if app != NULL:
            self.apps.vanished = ECONNRESET
            app_close(app, True)
        self.loop.schedule(&self.work)
        return True

    def probe(self):
        """Send a heartbeat now."""
        self.session.probe(self.loop.now_us)
        self.loop.schedule(&self.work)

    def close(self, int code, str reason):
        """End the session: tell the peer, reset the applications. The observer is not told."""
        self.session.close(code, reason)
        self.write_carrier()
        self.end_carrier(False)
        self.reset_apps()

    def dispose(self):
        """Let the loop forget this endpoint; it has no carrier and no application. The session's secret is wiped."""
        self.session.forget_secret()
        self.flows.close()
        self.end_carrier(False)
        self.loop.cancel_due(&self.due)
        self.disposed = True
        self.reset_apps()
        if self.apps.all.first == NULL:
            self.vanish()

    def reset_rest(self):
        """Reset the applications that are left: there will be no more turns."""
        while self.apps.all.first != NULL:
            self.reset_apps()

    cdef void vanish(self) noexcept:
        self.loop.unschedule(&self.work)
        # An event of this turn may still point here.
        self.loop.soon.append(lambda: _endpoints.discard(self))

    # ---- getters

    @property
    def attached(self):
        """There is a carrier, and it does not count as lost."""
        return self.carrier is not None and not self.forsaken

    @property
    def app_count(self):
        """Application connections now."""
        return self.apps.all.count

    @property
    def vanished(self):
        """errno with which the last application's connection broke; 0: none has."""
        return self.apps.vanished

    @property
    def drained(self):
        """Nothing is buffered in either direction."""
        return self.session.streams.out_held == 0 and self.session.streams.in_held == 0

    @property
    def receive_silence_us(self):
        """Time since the carrier's last byte."""
        return self.loop.now_us - self.session.received_at

    def addresses(self):
        """(local, peer) sockaddr tuples of the carrier, or None."""
        return self.carrier.addresses() if self.carrier is not None else None

    # ---- one turn

    cdef void pump(self) noexcept:
        """Do what the turn's events made possible: carrier in, applications in, carrier out."""
        cdef int reads = 0
        cost_begin(&self.cost, self.session.moved_bytes())
        if self.ending:
            self.end_rest()
            return
        self.session.streams.stalled = self.carrier is not None and not self.carrier.writable
        self.open_rest()
        while self.carrier is not None and self.carrier.readable:
            self.read_carrier()
            reads += 1
            # A read brings little while memory is short; a session that keeps none of it may read again.
            if reads == 4 or self.work.slow or self.session.streams.in_held or self.short_of_memory or (
                    self.session.streams.receive_room() >= BUFFER_BYTES):
                break
        if self.ending:
            return
        if self.carrier is not None and self.carrier.moved:
            self.carrier.moved = False
            self.tell(self.observer.on_moved, (self,))
        if self.carrier is not None and self.carrier.denied:
            self.carrier.denied = False
            self.tell(self.observer.on_denied, (self,))
        self.read_apps()
        self.write_carrier()
        if self.apps.ready.first != NULL or self.unopened or self.session.streams.has_space() or (
                self.carrier_can_go_on()):
            self.loop.schedule(&self.work)
        if self.was_busy and self.apps.all.count == 0:
            self.was_busy = False
            self.tell(self.observer.on_idle, (self,))
        self.session.streams.settle()
        cost_end(&self.cost, self.session.moved_bytes(), self.loop.now_us, self.loop.slow_count(),
                 self.loop.undisturbed())
        self.work.slow = self.cost.slow
        if self.carrier is not None and (self.cost.long_pump or not self.cost.slow or self.loop.slow_count() > CROWD):
            self.carrier.bound(self.cost.long_pump or self.cost.slow)

    cdef bint carrier_can_go_on(self) noexcept:
        """Whether there is more to receive or to send, and nothing to wait for."""
        cdef Carrier carrier = self.carrier
        return carrier is not None and ((carrier.readable and not self.short_of_memory) or (
            carrier.writable and not carrier.holding and self.session.wants_transmit()))

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
        if self.session.streams.relieve() or (self.short_of_memory and self.session.streams.receive_room() > 0):
            self.loop.schedule(&self.work)
        elif self.short_of_memory or self.session.streams.starved:
            self.wait_for_memory()

    cdef void read_carrier(self) noexcept:
        """Receive as much as may be kept, and act on it."""
        cdef Carrier carrier = self.carrier
        cdef size_t most = min(self.cost.read_bytes, self.session.streams.receive_room())
        cdef const uint8_t *data
        cdef long length
        self.short_of_memory = most == 0
        if self.short_of_memory:
            carrier.bound(True)
            self.wait_for_memory()
            return
        length = carrier.receive(most, &data)
        if length >= 0:
            self.process(data, length, False)
        if carrier.over and self.carrier is carrier:  # the session may have ended it
            self.carrier_failed(carrier.why)

    cdef bint process(self, const uint8_t *data, size_t length, bint is_parcel) noexcept:
        """Let the session parse what the carrier brought, and act on its events. False: a parcel finds no room."""
        cdef SessionEvent event
        cdef App *app
        if is_parcel:
            self.parcels.begin(data, <uint32_t>length, self.loop.now_us)
        else:
            self.session.receive(data, length, self.loop.now_us)
        self.suspected = False
        if self.forsaken:
            self.revive()
        while True:
            if is_parcel:
                self.parcels.poll_event(&event)
            else:
                self.session.poll_event(&event)
            if event.kind == EventKind.NOTHING:
                return not (is_parcel and self.parcels.refused)
            if event.kind == EventKind.DATA:
                app = <App *>event.stream.owner
                if app != NULL:
                    app_deliver(app, event.data, event.length)
            elif event.kind == EventKind.DATAGRAM:
                self.flows.arrived(event.flow, event.code, event.data, event.length)
            elif event.kind == EventKind.OPENED:
                self.opened(event.stream, event.data, event.length)
            elif event.kind == EventKind.RESUMED:
                self.tell(self.observer.on_resumed, (self,))
            else:
                text = (<const char *>event.data)[:event.length].decode(errors="replace")
                if event.kind == EventKind.CLOSED:
                    self.write_carrier()
                    self.end_carrier(False)
                    self.reset_apps()
                    self.was_busy = False  # with the end told, it goes without saying that nobody is left
                    self.tell(self.observer.on_closed, (self, event.code, text, bool(event.local)))
                    return True
                if event.kind == EventKind.RESET:
                    app_close(<App *>event.stream.owner, True)
                    self.tell(self.observer.on_reset, (self, event.stream.state.id, event.code, text))
                else:
                    method = self.observer.on_listen if self.session.is_server else self.observer.on_listening
                    method = method if event.kind < EventKind.ASSOCIATE else self.flows.told
                    self.tell(method, (self, event.code, bool(event.ends), text))

    cdef void read_apps(self) noexcept:
        """Read applications that have something and whose stream has room, in turns."""
        cdef Stream *stream
        cdef App *app
        cdef size_t done = 0
        while done < TURN_BYTES:
            app = app_next_ready(&self.apps)
            if app == NULL:
                stream = self.session.streams.poll_space()
                if stream == NULL:
                    break
                app = <App *>stream.owner
            done += app_read(app)
        if self.session.streams.starved:
            self.wait_for_memory()
        if done > 0 and not self.session.is_server and not self.attached and (
                self.loop.now_us - self.waiting_told_at > WAITING_US):
            self.waiting_told_at = self.loop.now_us
            self.tell(self.observer.on_waiting, (self,))

    cdef void write_carrier(self) noexcept:
        """Send frames until there are none or the carrier takes no more."""
        cdef Carrier carrier = self.carrier
        cdef iovec parts[MAX_IOVECS]
        cdef size_t most, taken, done = 0
        cdef bint bulk_too
        cdef int count
        if carrier is None:
            return
        while carrier.writable and done < TURN_BYTES:
            most = carrier.room(self.session.transmitter.bulk_waits(), &bulk_too)
            if most == 0:
                if carrier.pulls:
                    self.note_unanswered()
                break
            count = self.session.poll_transmit(most, bulk_too, parts)
            if count == 0:
                carrier.idle()
                return
            taken = carrier.send(parts, count, self.session.transmitter.overtakes)
            self.session.transmitted(taken)
            done += taken
            if taken > 0:
                self.note_unanswered()
        self.session.streams.stalled = not carrier.writable
        if carrier.over and self.session.state != CarrierState.CLOSED_FOR_GOOD:
            self.carrier_failed(carrier.why)

    cdef void note_unanswered(self) noexcept:
        """Something was sent: from now on applications' bytes are to be answered."""
        if vitals_sent(self.session, self.loop.now_us) and self.session.deadline() < self.due.deadline.at:
            self.arm()

    # ---- carrier

    cdef void carrier_failed(self, str why) noexcept:
        """The carrier is gone; the session goes on without one."""
        cdef bint told = self.forsaken
        self.end_carrier(True)
        self.session.carrier_lost()
        # If that was told before, something has answered now: the path may be back.
        if told:
            self.tell(self.observer.on_waiting, (self,))
        else:
            self.tell(self.observer.on_lost, (self, why))

    cdef void forsake(self, str why) noexcept:
        """The carrier counts as lost, and is kept until another one works: the path may come back before. Not at sproxy
        over TCP: the kernel would repeat what is on its way more and more seldom, and a dial is quicker."""
        if self.session.is_server and not self.carrier.pulls:
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
        """Close the carrier, and `abort` what is on its way, which stays in the kernel for minutes else."""
        if self.carrier is not None:
            self.carrier.close(abort)
            self.carrier = None
        self.forsaken = False

    cdef void arm(self) noexcept:
        """Have `on_due` called no later than the session's deadline."""
        if self.carrier is None:
            self.loop.cancel_due(&self.due)
        elif self.loop.set_due(&self.due, self.session.deadline()) < 0:
            self.carrier_failed("out of memory")

    cdef void on_due(self) noexcept:
        """Send heartbeats, and see whether the carrier still lives."""
        if self.carrier is None or self.forsaken:
            return
        if self.carrier.readable and (self.short_of_memory or self.work.queue != NULL):
            liveness_note_life(&self.session.life, self.loop.now_us)  # it is this side that does not read
        vitals_examine(&self.vitals, self.session, self.carrier, self.loop.now_us)
        self.session.rest.spread_us = len(_endpoints) * SPREAD_US
        self.session.handle_timeout(self.loop.now_us)
        self.carrier.expect(self.session.life.interval_us, liveness_death_us(&self.session.life))
        if self.carrier.pulls or self.session.wants_transmit() or (
                self.session.streams.out_held + self.session.streams.in_held > 0):
            self.loop.schedule(&self.work)  # else there is nothing to do: sproxy has left its heartbeat out
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
        if self.carrier is not None:
            self.arm()

    # ---- applications

    cdef void reset_apps(self) noexcept:
        """Reset every application; one that was given everything, and the end, keeps what it has not read yet. sproxy,
        whose clients may have thousands, does so in portions, one a turn: `pump` continues."""
        cdef int left = RESETS_A_TURN
        self.unopened.clear()
        while self.apps.all.first != NULL and (left > 0 or not self.session.is_server):
            app_close(<App *>self.apps.all.first, not (<App *>self.apps.all.first).write_ended)
            left -= 1
        self.ending = self.apps.all.first != NULL

    cdef void end_rest(self) noexcept:
        """The session is over and some applications are left."""
        self.reset_apps()
        if self.ending:
            self.work.slow = True
            self.loop.schedule(&self.work)
        elif self.disposed:
            self.vanish()

    cdef int accepted(self, int fd, bytes target, uint16_t read=0, uint16_t written=0) noexcept:
        """Make a stream for an application just accepted; -1 (the application is reset) if there is no room.

        `read` and `written` bytes of its connection are no part of the stream.
        """
        cdef Stream *stream = self.session.open_stream(target, NULL) if apps_may_grow(&self.apps) else NULL
        cdef App *app = NULL
        if stream != NULL:
            stream.state.read_before, stream.state.written_before = read, written  # before `fd`, for whoever goes on
            app = app_new(&self.apps, stream, fd, -1)
        if app == NULL:
            if stream != NULL:
                self.session.streams.reset(stream, ResetCode.LOCAL_ERROR)
            close_with_reset(fd)
            return -1
        self.was_busy = True
        app_watch(app)
        return 0

    cdef void opened(self, Stream *stream, const uint8_t *target, uint32_t length) noexcept:
        """The peer opened a stream."""
        self.was_busy = True
        if self.opens_left == 0:
            self.unopened.append((stream.state.id, (<const char *>target)[:length]))
        else:
            self.open_app(stream, target, length)

    cdef void open_rest(self) noexcept:
        """Go on with streams whose daemons had to wait for another turn."""
        cdef Stream *stream
        self.opens_left = OPENS_ALONE if self.loop.undisturbed() else OPENS_A_TURN
        while self.unopened and self.opens_left > 0:
            number, target = self.unopened.popleft()
            stream = table_find(&self.session.streams.table, number)
            if stream != NULL and not stream.state.aborted and stream.owner == NULL:
                self.open_app(stream, target, len(target))

    cdef void open_app(self, Stream *stream, const uint8_t *target, size_t length) noexcept:
        self.opens_left -= 1
        if length == 0 and self.default_target is not None:
            self.dial(stream, self.default_target)
        else:
            self.tell(self.observer.on_opened, (self, stream.state.id, (<const char *>target)[:length]))

    cdef void dial(self, Stream *stream, Target target) noexcept:
        """Connect the stream's daemon."""
        cdef int error = daemon_dial(&self.apps, stream, target) if apps_may_grow(&self.apps) else EMFILE
        if error:
            self.refused(stream, target, error)

    cdef void try_next(self, App *app, int error) noexcept:
        """The address being tried failed: go on to the next, or tell the peer."""
        if not self.ending:
            if daemon_next(app):
                return
            self.refused(app.stream, <Target>app.target, error)
        app_close(app, False)

    cdef void refused(self, Stream *stream, Target target, int error) noexcept:
        self.session.streams.reset(stream, app_refusal(error))
        self.loop.schedule(&self.work)
        self.tell_news(self.observer.on_refused, (self, stream.state.id, target.text, error))

    cdef void tell_news(self, method, tuple arguments) noexcept:
        """Tell the observer of an application that was refused or left, but not of each in a flood."""
        if is_news(&self.news, self.loop.now_us):
            self.tell(method, arguments)

    cdef void tell(self, method, tuple arguments) noexcept:
        """Call a method of the observer; exceptions go to the loop's `on_error`."""
        cdef uint32_t before = arena_turn[0]
        self.take_turn()
        self.loop.guard(partial(method, *arguments), None)
        store_whole(arena_turn, before)

    cdef void take_turn(self) noexcept:
        """Whoever finds the process dead sees that it was this session's turn."""
        store_whole(arena_turn, self.session.lasting.number)


_endpoints = set()  # alive until `dispose`: the kernel and the loop hold pointers to them
