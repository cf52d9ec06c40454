"""Two sessions joined in memory, in virtual time, and what must hold of them at every moment."""

from tests.drivers._memory import pool_bytes

from mproxy._session import CarrierState
from mproxy._wire import ResetCode
from mproxy.ground.config import SessionConfig
from tests.sim.ends import Client, Server
from tests.sim.net import Carrier, Clock

HOUR_US = 3_600_000_000


def small_config(**values):
    """A SessionConfig with small limits and, unless told otherwise, no heartbeat that could hide a stall."""
    defaults = {"heartbeat_us": HOUR_US, "misses": 3, "window_bytes": 16384, "session_budget_bytes": 65536}
    return SessionConfig(**{**defaults, **values})


class World:
    """Both ends, the clock, the network. `new_carrier` and `redial_pause` are the schedule's to replace."""

    def __init__(self, client_config=None, server_config=None, *, latency=5_000, capacity=65536):
        self.base_bytes = pool_bytes()[0]
        self.clock = Clock()
        self.latency = latency
        self.capacity = capacity
        self.carriers = []
        self.dial_patience = 2_000_000_000
        self.make_carrier = lambda: Carrier(self.clock, self.latency, self.capacity)
        self.redial_pause = lambda: 50_000
        self.on_carrier = lambda carrier: None
        self.healing = False      # no more faults; applications hurry
        self.attached = 0
        self.packet_carriers = 0  # ends that sent frames as parcels
        self.deaths = 0           # of carriers
        self.keys = 0             # of patterns, given so far
        self.revived = 0          # processes that another one went on for
        self.may_limit = False    # more streams than the server's limit may be opened
        self.client = Client(self, client_config or small_config())
        self.server = Server(self, server_config or small_config())

    @staticmethod
    def target_of(plan):
        """The target a stream to `plan` is opened with: of varying length, sometimes empty."""
        length = plan.total % 40
        return b"host%d:%d" % (plan.total, plan.chunk) if length > 5 else b""

    def new_keys(self):
        """Two keys of patterns: the one to use, and the next one for the peer."""
        self.keys += 2
        return self.keys - 2

    def new_carrier(self):
        """Make a carrier and let the schedule know."""
        carrier = self.make_carrier()
        self.carriers.append(carrier)
        self.on_carrier(carrier)
        return carrier

    # ---- invariants

    def check(self, end):
        """What must hold of one end at every moment."""
        streams, config = end.ps.session.streams, end.config
        peer_config = (self.server if end is self.client else self.client).config
        budget = min(config.session_budget_bytes, peer_config.session_budget_bytes)
        more = 4096 * end.ps.stream_count
        assert streams.out_held <= budget + more, f"{end.name} holds {streams.out_held} to send"
        kept = streams.in_held + streams.early_held
        assert kept <= config.session_budget_bytes + more, f"{end.name}: {kept} kept"

    def check_streams(self, end):
        """The same of every stream: slower, so not after every event. Returns the storage of the rings."""
        streams, window = end.ps.session.streams, end.config.window_bytes
        out_held = in_held = storage = early = 0
        for stream_id in end.apps:
            look = end.ps.look(stream_id)
            if look is None:
                continue
            storage += look["out_capacity"] + look["in_capacity"]
            if look["aborted"]:
                continue
            out_held += look["written"] - look["acked"]
            in_held += look["received"] - look["handed"]
            assert look["acked"] <= look["sent"] <= look["written"] + look["out_ended"], look
            assert look["acked"] <= look["peak"] <= look["written"] + look["out_ended"], look
            assert look["written"] - look["acked"] <= min(max(window, 4096), look["out_capacity"]), look
            assert look["received"] - look["handed"] <= min(window, look["in_capacity"] or 0), look
            assert max(look["out_capacity"], look["in_capacity"]) < 2 * window, look
            assert look["out_capacity"] <= max(65536, 8 * (look["written"] - look["acked"])), look
            assert look["in_capacity"] <= max(65536, 8 * (look["received"] - look["handed"] + look["early"])), look
            early += look["early"]
        assert (out_held, in_held) == (streams.out_held, streams.in_held), end.name
        assert early == streams.early_held, f"{end.name}: {early} early, {streams.early_held} accounted for"
        return storage

    def check_memory(self):
        """Rings hold no more storage than streams use, except a little for the session's own frames."""
        ends = [end for end in (self.client, self.server) if end.ps is not None]
        storage = sum(self.check_streams(end) for end in ends)
        lists = sum(28 * stream_count(end) for end in ends)
        lent = pool_bytes()[0] - self.base_bytes - sum(carrier.storage() for carrier in self.carriers)
        assert lent <= storage + 2 * (8192 + 2 * lists), f"{lent} bytes lent, streams have {storage}"

    def judge_reset(self, app, code):
        """An application was reset: somebody must have caused that on purpose, and no promised byte may be lost."""
        peer = app.peer
        if code == ResetCode.STREAM_LIMIT and self.may_limit:
            return
        assert peer.did_reset or peer.did_discard, f"reset {ResetCode(code)!r} out of nowhere: {app}"
        if not app.did_reset and not peer.plan.refuse:
            assert app.received == peer.written, f"reset before what was written: {app}, {peer}"

    def settled(self):
        """Whether all applications have finished."""
        return all(app.over for end in (self.client, self.server) for app in end.every_app)

    def idle(self):
        """Whether no stream is left."""
        ends = [end for end in (self.client, self.server) if end.ps is not None]
        return all(stream_count(end) == 0 for end in ends)

    # ---- running

    def run(self, until=None, most_us=HOUR_US * 10, done=None):
        """Step until `done()`, or virtual time `until`, at most `most_us`; whether `done` was reached."""
        limit = self.clock.now + most_us if until is None else until
        count = 0
        while True:
            if done is not None and done():
                return True
            if not self.clock._events or self.clock._events[0][0] > limit:
                self.clock.now = max(self.clock.now, limit)
                return False
            self.clock.step()
            count += 1
            if count % 64 == 0 and self.server.ps is not None:
                self.check_memory()
            assert count < 2_000_000, "the world does not come to rest"

    def finish(self, within_us):
        """Without further faults, everything must finish `within_us`, and be forgotten some heartbeats later."""
        self.healing = True
        start = self.clock.now
        for end in (self.client, self.server):
            for app in end.every_app:
                app.stalled_until = 0
                if end.ps.look(app.id) is not None and not app.released:
                    app.reading = False
                    app.read_later()
                    if not app.ended and app.written == app.plan.total:
                        app.finish()
                    elif not app.ended and self.clock.now >= 0:
                        app.may_write = True
                        app.write()
                    app.let_go()
            end.pump()
        if not self.run(most_us=within_us, done=self.settled):
            raise AssertionError("stall:\n" + self.report())
        self.settled_after = self.clock.now - start
        beat = max(self.client.config.heartbeat_us, self.server.config.heartbeat_us)
        if not self.run(most_us=8 * beat + 60_000_000 + 8 * self.latency, done=self.idle):
            raise AssertionError("streams are left over:\n" + self.report())
        self.run(most_us=4 * self.latency)
        self.check_outcome()
        lent = pool_bytes()[0] - self.base_bytes - sum(carrier.storage() for carrier in self.carriers)
        assert lent <= 8192, f"{lent} bytes of ring storage leaked"

    def check_outcome(self):
        """Every stream ended as it should."""
        for app in self.client.began + self.server.began:
            peer = app.peer
            if peer.end.apps.get(app.id) is not peer:
                assert app.did_reset or app.saw_reset is not None, f"never opened: {app}"
                continue
            reset = app.did_reset or peer.did_reset or app.saw_reset is not None or peer.saw_reset is not None
            for one in (app, peer):
                assert one.released, one
                if not reset and not one.did_discard:
                    assert one.saw_end and one.received == one.peer.plan.total, one
        for end in (self.client, self.server):
            if end.ps is not None:
                session = end.ps.session
                assert (session.streams.out_held, session.streams.in_held) == (0, 0), end.name
                assert session.state != CarrierState.CLOSED_FOR_GOOD, end.name

    def report(self):
        """The state of everything that has not finished."""
        lines = []
        for end in (self.client, self.server):
            if end.ps is not None:
                session, streams = end.ps.session, end.ps.session.streams
                lines.append(f"{end.name}: state {session.state} epoch {session.epoch} open {streams.open_count}"
                             f" of {end.ps.stream_count} out {streams.out_held} in {streams.in_held}"
                             f" carrier {end.carrier is not None} now {self.clock.now}")
            lines += [f"  {app}" for app in end.every_app if not app.over or end.ps.look(app.id)]
        return "\n".join(lines)


def stream_count(end):
    """Streams that the end knows of, finished ones too."""
    return end.ps.stream_count
