"""The two sides of the simulation: what cproxy and sproxy do around a session, without sockets.

`Client` dials, sends HELLO and the RESUME list while an old carrier may still bring data, and switches at WELCOME.
`Server` attaches at HELLO and drops the old carrier at once.
"""

from tests.drivers._pysession import PySession, image, revive

from mproxy._session import EventKind, Session
from mproxy._wire import CloseCode, ResetCode
from mproxy.ground.errors import PeerError
from mproxy.handshake import NO_SECRET, Caller, Greeter, Hello, Welcome
from tests.sim.apps import App

SECRET = bytes(range(32))
SESSION_ID = bytes(range(100, 116))
INSTANCE_ID = bytes(16)
MAX_BURST = 1 << 18    # bytes of one transmit


class End:
    """What both sides have in common: a session, its carrier, its applications, a timer, a pump."""

    def __init__(self, world, name, config):
        self.world = world
        self.clock = world.clock
        self.name = name
        self.config = config
        self.ps = None
        self.carrier = None
        self.inward = self.outward = None   # pipes of `carrier`
        self.apps = {}
        self.every_app = []
        self.began = []                     # those that this side opened
        self.frozen_until = 0
        self.timer_at = None
        self.heard_at = 0
        self.late = False                   # frozen since the last byte: liveness cannot be judged to the microsecond
        self.pumping = False

    # ---- carrier

    def use(self, carrier, inward, outward):
        """Make `carrier` the session's carrier; the one before is closed."""
        self.drop_carrier()
        self.carrier, self.inward, self.outward = carrier, inward, outward
        outward.on_room = self.pump
        self.heard_at = self.clock.now
        self.late = False

    def drop_carrier(self):
        """Close the carrier, if there is one."""
        if self.carrier is not None:
            self.carrier.close(self.inward, self.outward)
            self.carrier = None

    def lost(self):
        """The carrier is gone."""
        self.drop_carrier()
        self.ps.session.carrier_lost()
        self.pump()

    def arrived(self, carrier, data):
        """Bytes, or the end, of the session's carrier."""
        if carrier is not self.carrier:
            return
        if data is None:
            self.lost()
            return
        self.heard_at = self.clock.now
        self.late = False
        self.handle(self.ps.receive(data, self.clock.now, self._takes))
        self.pump()

    def _takes(self, stream_id, length):
        app = self.apps.get(stream_id)   # none yet: OPEN came in the same bytes
        return app.wants(length) if app else 0

    # ---- another process

    def die(self, *, sending=False):
        """The process dies, and its successor has only what is in the states and the rings.

        With `sending` it dies when the carrier has taken what there was to send, before that was noted. The
        applications are still there; the carrier is not.
        """
        if self.ps is None:
            return
        if sending and self.carrier is not None:
            self.outward.write(self.ps.transmit(min(self.outward.room(), MAX_BURST), counted=False))
        self.drop_carrier()
        held = {app.id for app in self.apps.values() if not app.released}
        self.ps = revive(self.config, image(self.ps), self.clock.now, held)
        self.ps.session.is_served = self is self.world.client
        self.timer_at = None
        self.world.revived += 1
        for app in self.apps.values():
            if not app.released and not app.ended:
                app.may_write = True
                app.write()
        self.pump()

    # ---- streams

    @property
    def other(self):
        """The other end."""
        return self.world.server if self is self.world.client else self.world.client

    def open(self, plan, peer_plan):
        """Open a stream with an application at each end; returns ours, or None when there cannot be one."""
        stream_id = self.ps.open(self.world.target_of(peer_plan))
        if stream_id == 0:
            return None
        app = App(self, stream_id, plan, self.world.new_keys())
        self.apps[stream_id] = app
        self.every_app.append(app)
        self.began.append(app)
        app.peer = App(self.other, stream_id, peer_plan, app.key + 1, app)
        app.begin()
        self.pump()
        return app

    def opened(self, stream_id, target):
        """The peer opened a stream."""
        app = self.other.apps[stream_id].peer
        assert target == self.world.target_of(app.plan), "target arrived changed"
        assert stream_id not in self.apps, "stream opened twice"
        self.apps[stream_id] = app
        self.every_app.append(app)
        if app.plan.refuse:
            app.did_reset = app.released = True
            self.ps.reset(stream_id, int(ResetCode.REFUSED))
        else:
            app.begin()

    # ---- events

    def handle(self, events):
        """Do what the I/O layer does with events."""
        for event in events:
            kind = event[0]
            if kind == EventKind.DATA:
                self._handle_data(*event[1:])
            elif kind == EventKind.OPENED:
                self.opened(event[1], event[2])
            elif kind == EventKind.RESET:
                self.apps[event[1]].told_reset(event[2])
            elif kind == EventKind.CLOSED:
                raise AssertionError(
                    f"{self.name}: session closed: {CloseCode(event[1])!r} {event[2].decode()} local={event[3]}")

    def _handle_data(self, stream_id, data, ends):
        app = self.apps[stream_id]
        if app.released:
            return
        if data:
            app.given(data)
        if app.released:
            return
        look = self.ps.look(stream_id)
        if look["aborted"]:
            return
        if ends and look["received"] == app.received:
            _data, ended = self.ps.hand(stream_id, 0)
            if ended and not app.saw_end:
                app.told_end()
        elif ends or look["received"] > app.received:
            app.read_later()

    # ---- time

    def freeze(self, duration):
        """Stop the process: it reads nothing and no timer fires."""
        self.frozen_until = self.clock.now + duration
        self.late = True
        self.clock.after(duration, self.pump)

    def frozen(self):
        """Whether the process is stopped now."""
        return self.clock.now < self.frozen_until

    def arm(self):
        """Have `on_timer` called at the session's deadline."""
        deadline = self.ps.session.deadline()
        if deadline < 1 << 62 and (self.timer_at is None or deadline < self.timer_at):
            self.timer_at = max(deadline, self.clock.now)
            self.clock.at(self.timer_at, self.on_timer, self.timer_at)

    def on_timer(self, armed_at):
        """The deadline is reached."""
        if armed_at != self.timer_at:
            return
        if self.frozen():
            self.timer_at = self.frozen_until
            self.clock.at(self.frozen_until, self.on_timer, self.frozen_until)
            return
        self.timer_at = None
        session = self.ps.session
        session.handle_timeout(self.clock.now)
        if self.carrier is not None and not self.late:
            rests = self.world.client.config.idle_heartbeat_us > 0 or self.ps.told_us > 0
            silent = self.clock.now - (self.ps.alive_at if rests else self.heard_at)
            beats = self.ps.interval_us
            assert session.dead == (silent >= self.config.misses * beats), f"{self.name}: dead after {silent} us"
            assert session.suspect == (silent >= min(2, self.config.misses) * beats), f"{self.name}: {silent} us"
        self.judge_carrier()
        self.pump()

    def judge_carrier(self):
        """Drop the carrier if it is dead."""
        if self.ps.session.dead and self.carrier is not None:
            self.world.deaths += 1
            self.lost()

    # ---- output

    def pump(self):
        """Let applications write, give the carrier what it takes, set the timer."""
        if self.ps is None or self.pumping or self.frozen():
            return
        self.pumping = True
        session = self.ps.session
        self.ps.wakes(self.clock.now)
        for stream_id in self.ps.spaces():
            app = self.apps.get(stream_id)
            if app is not None:
                app.may_write = True
                app.write()
        while self.carrier is not None:
            room = self.outward.room()
            data = self.ps.transmit(min(room, MAX_BURST)) if room else b""
            if not data:
                session.streams.stalled = bool(session.wants_transmit())
                break
            self.outward.write(data)
        if self.carrier is not None:
            self.carrier.pump(self, self.outward)
        self.pumping = False
        self.arm()
        self.world.check(self)


class Client(End):
    """cproxy's side."""

    def __init__(self, world, config):
        super().__init__(world, "client", config)
        self.ps = PySession(Session(config, is_server=False))
        self.ps.session.is_served = True
        self.epoch = 0
        self.dials = []          # carriers that are not answered yet
        self.redial_at = None

    def dial(self):
        """Dial a carrier, whether or not there is one already."""
        if self.frozen():
            self.clock.at(self.frozen_until, self.dial)
            return
        session = self.ps.session
        if not session.session_id and self.dials:
            return      # a second session would come of it
        self.epoch += 1
        hello = Hello(session.session_id, INSTANCE_ID, bytes(16), self.epoch,
                      self.config.session_budget_bytes, self.config.window_bytes)
        caller = Caller(lambda: (hello, self.ps.session.streams.resume_list(), self.ps.session.secret))
        carrier = self.world.new_carrier()
        self.dials.append(carrier)
        carrier.up.sink = lambda data: self.world.server.incoming(carrier, data)
        carrier.down.sink = lambda data: self._answer(carrier, caller, hello, data)
        carrier.up.reader, carrier.down.reader = self.world.server, self
        carrier.up.write(caller.outgoing)

    def die(self, *, sending=False):
        """The process dies, and so do its dials under way."""
        for carrier in self.dials:
            carrier.close(carrier.down, carrier.up)
        self.dials.clear()
        super().die(sending=sending)
        self.epoch = self.ps.session.epoch
        self._dial_over()

    def redial(self, delay):
        """Dial in `delay` unless something is under way by then."""
        if self.redial_at is None:
            self.redial_at = self.clock.now + delay
            self.clock.after(delay, self._redial)

    def _redial(self):
        self.redial_at = None
        if self.carrier is None and not self.dials:
            self.dial()
            self.clock.after(self.world.dial_patience, self._lose_patience, self.dials[-1:])

    def _lose_patience(self, dials):
        for carrier in dials:
            if carrier in self.dials:
                self.dials.remove(carrier)
                carrier.close(carrier.down, carrier.up)
                self._dial_over()

    def _dial_over(self):
        if self.carrier is None and not self.dials:
            self.redial(self.world.redial_pause())

    def _answer(self, carrier, caller, hello, data):
        if carrier not in self.dials:
            return
        welcome = None
        try:
            welcome = None if data is None else caller.feed(data)
        except PeerError as error:
            assert error.code == CloseCode.STALE_EPOCH, error
            self.epoch = max(self.epoch, caller.detail)
            data = None
        if data is None:
            self.dials.remove(carrier)
            carrier.close(carrier.down, carrier.up)
            self._dial_over()
        elif welcome is not None:
            self.dials.remove(carrier)
            self._switch(carrier, caller, hello, welcome)

    def _switch(self, carrier, caller, hello, welcome):
        session = self.ps.session
        if hello.epoch <= session.epoch:     # answered later than a newer dial; the server has dropped it
            carrier.close(carrier.down, carrier.up)
            return
        if not session.session_id:
            session.learn_identity(welcome.session_id, welcome.secret)
        self.use(carrier, carrier.down, carrier.up)
        carrier.down.sink = lambda data: self.arrived(carrier, data)
        session.attach(hello.epoch, welcome.window_bytes, welcome.budget_bytes, b"", self.clock.now)
        carrier.attached(self, self.outward)
        self.world.attached += 1
        if caller.leftover:
            self.arrived(carrier, caller.leftover)
        self.pump()

    def lost(self):
        super().lost()
        self._dial_over()

    def judge_carrier(self):
        super().judge_carrier()
        if self.ps.session.suspect and self.carrier is not None and not self.dials:
            self.dial()
            self.clock.after(self.world.dial_patience, self._lose_patience, self.dials[-1:])


class Server(End):
    """sproxy's side."""

    def __init__(self, world, config):
        super().__init__(world, "server", config)

    def incoming(self, carrier, data):
        """First bytes of a carrier."""
        greeter = Greeter(self._check)
        carrier.up.sink = lambda more: self._greet(carrier, greeter, more)
        self._greet(carrier, greeter, data)

    def _greet(self, carrier, greeter, data):
        if data is None or carrier.up.closed:
            carrier.close(carrier.up, carrier.down)
            return
        try:
            hello = greeter.feed(data)
            if hello is None:
                return
            self._check_epoch(hello)         # the list may have taken its time
        except PeerError as error:
            assert error.code == CloseCode.STALE_EPOCH, error
            carrier.down.write(greeter.farewell(error))
            carrier.close(carrier.up, carrier.down)
            return
        self._attach(carrier, greeter, hello)

    def _check(self, hello, channel):
        if not hello.session_id:             # an earlier WELCOME, if any, never arrived
            assert not self.apps
            self.ps = PySession(Session(
                self.config, is_server=True, session_id=SESSION_ID, secret=SECRET))
        else:
            assert hello.proves(SECRET, channel)
        self._check_epoch(hello)

    def _check_epoch(self, hello):
        session = self.ps.session
        if hello.epoch <= session.epoch:
            raise PeerError(CloseCode.STALE_EPOCH, "stale", session.epoch)

    def _attach(self, carrier, greeter, hello):
        session = self.ps.session
        welcome = Welcome(SESSION_ID, NO_SECRET if hello.session_id else SECRET, bytes(16), hello.epoch,
                          self.config.session_budget_bytes, self.config.window_bytes)
        resume_list = session.streams.resume_list()
        if hello.session_id:
            welcome.prove(SECRET, greeter.channel(), hello, resume_list)
        self.use(carrier, carrier.up, carrier.down)
        carrier.up.sink = lambda data: self.arrived(carrier, data)
        first = greeter.prefix + welcome.encode() + resume_list
        session.attach(hello.epoch, hello.window_bytes, hello.budget_bytes, first, self.clock.now)
        carrier.attached(self, self.outward)
        if greeter.leftover:
            self.arrived(carrier, greeter.leftover)
        self.pump()

    def open(self, plan, peer_plan):
        """Not before the client knows the session, and so can have asked for it."""
        return super().open(plan, peer_plan) if self.world.client.ps.session.session_id else None
