"""Peers that break the protocol on purpose: no crash, bounded memory, and at worst a session closed with a code.

Invariant of every test here: whatever bytes arrive, `receive` raises nothing; the session is either still there or
CLOSED with a code of the peer's faults; ring storage and streams stay within the limits; and all of it is given back.
"""

import gc
import random

import pytest
from tests.drivers._memory import pool_bytes
from tests.drivers._pysession import PySession

from mproxy._frames import FrameParser, encode_frame
from mproxy._session import CarrierState, EventKind, Session
from mproxy._wire import CloseCode, FrameFlag, FrameType
from tests.sim.apps import Plan
from tests.sim.ends import SECRET, SESSION_ID
from tests.sim.world import World, small_config

FAULTS = {CloseCode.FRAME_ERROR, CloseCode.STREAM_ERROR, CloseCode.OFFSET_ERROR, CloseCode.LIMIT_ERROR,
          CloseCode.STATE_ERROR}
ROUNDS = 1500
MOST_FINISHED = 16384   # finished streams that a session remembers beyond four times --max-streams
BOUNDARIES = (0, 1, 2, 27, 28, 4095, 4096, 4097, 1 << 20, (1 << 20) + 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 63,
              (1 << 64) - 1)


@pytest.fixture(autouse=True)
def nothing_waits_for_the_collector():
    """Sessions of earlier tests that the garbage collector has not freed yet would give their memory back in the
    middle of one of these."""
    gc.collect()


class Victim:
    """A session whose applications do random things, and which gets whatever `feed` is given."""

    def __init__(self, pick, *, is_server, config=None):
        self.pick = pick
        self.config = config or small_config(max_streams=20)
        self.base_bytes = pool_bytes()[0]
        self.ps = PySession(Session(self.config, is_server=is_server, session_id=SESSION_ID, secret=SECRET))
        self.owned = set()
        self.ended = set()
        self.now = 1000
        self.closed = None
        self.transmits = True
        if not is_server:
            for _ in range(5):
                self.owned.add(self.ps.open(b"host"))
        self.ps.session.attach(1, 16384, 65536, self.ps.session.streams.resume_list(), self.now)

    def feed(self, data):
        """Take bytes of the carrier, then let the applications do something."""
        self.now += self.pick.randrange(100_000)
        for event in self.ps.receive(data, self.now, lambda _stream, length: self.pick.randrange(length + 1)):
            if event[0] == EventKind.OPENED:
                self.owned.add(event[1])
            elif event[0] == EventKind.RESET:
                self.owned.discard(event[1])
            elif event[0] == EventKind.CLOSED:
                assert self.closed is None
                assert not event[3] or event[1] in FAULTS, event
                self.closed = event
        self.owned = {stream for stream in self.owned if self.ps.look(stream) is not None}
        for stream in self.pick.sample(sorted(self.owned), min(3, len(self.owned))):
            self._act(stream)
        if self.transmits:
            self.ps.transmit(self.pick.choice((1, 50, 1 << 20)))
        self.check()

    def _act(self, stream):
        what = self.pick.random()
        if what < 0.4 and stream not in self.ended:
            self.ps.write(stream, bytes(self.pick.randrange(3000)))
        elif what < 0.8:
            self.ps.hand(stream, self.pick.randrange(5000))
        elif what < 0.9:
            self.ps.end(stream)
            self.ended.add(stream)
        else:
            self.owned.discard(stream)
            if what < 0.93 and stream in self.ended:
                self.ps.discard(stream)
            elif what < 0.95:
                self.ps.reset(stream)
            else:
                self.ps.release(stream)
        self.ps.spaces()
        if what > 0.98:
            self.ps.session.handle_timeout(self.now)

    def check(self):
        """The limits hold."""
        streams, config = self.ps.session.streams, self.config
        count = self.ps.stream_count
        assert count <= 4 * config.max_streams + MOST_FINISHED + 1
        assert streams.in_held <= config.session_budget_bytes + 4096 * count
        assert streams.out_held <= config.session_budget_bytes + 4096 * count
        lent = pool_bytes()[0] - self.base_bytes
        assert lent <= 4 * (config.session_budget_bytes + 4096 * count) + 28 * count + 300_000

    def end(self):
        """Let go of the session: everything comes back."""
        self.ps = None
        assert pool_bytes()[0] == self.base_bytes


def record(seed):
    """(bytes to the server, bytes to the client) of one carrier's honest exchange, from behind the handshake."""
    pick = random.Random(seed)
    world = World(latency=1000)
    recorded = [b"", b""]

    def tap(end, index):
        receive = end.arrived

        def arrived(carrier, data):
            if data is not None:
                recorded[index] += data
            receive(carrier, data)
        end.arrived = arrived
    tap(world.server, 0)
    tap(world.client, 1)
    world.client.dial()
    for _ in range(5):
        world.client.open(Plan(pick.randrange(3000), chunk=500, reset_at=pick.choice((None, None, 900))),
                          Plan(pick.randrange(3000), chunk=500, pause=pick.choice((0, 3000))))
    world.run(until=world.clock.now + 300_000)
    world.client.ps.session.probe(world.clock.now)
    world.client.pump()
    world.run(until=world.clock.now + 300_000)
    return recorded


RECORDED = [record(seed) for seed in range(4)]


def mutate_bytes(pick, data):
    """Flip, cut out, repeat, insert or swap some bytes."""
    data = bytearray(data)
    for _ in range(pick.choice((1, 1, 2, 5))):
        at, length = pick.randrange(len(data)), pick.choice((1, 4, 28, 300))
        what = pick.randrange(5)
        if what == 0:
            data[at] ^= 1 << pick.randrange(8)
        elif what == 1:
            del data[at:at + length]
        elif what == 2:
            data[at:at] = data[at:at + length]
        elif what == 3:
            data[at:at] = pick.randbytes(length)
        else:
            other = pick.randrange(len(data))
            data[at], data[other] = data[other], data[at]
        if not data:
            return b"\0"
    return bytes(data)


def mutate_frames(pick, data):
    """Change fields of whole frames, repeat, drop and reorder them: all that a peer with the right codec can do."""
    frames = [list(frame[:6]) for frame in FrameParser().feed(data)]
    for _ in range(pick.choice((1, 1, 2, 5, 20))):
        at = pick.randrange(len(frames))
        frame = frames[at]
        what = pick.randrange(9)
        if what == 0:
            frame[0] = pick.choice((*FrameType, 0, 10, 200))
        elif what == 1:
            frame[1] ^= 1 << pick.randrange(8)
        elif what == 2:
            frame[2] = pick.choice((0, 1, 2, 3, 6, 77, (1 << 32) - 1))
        elif what in (3, 4):
            field = what
            frame[field] = pick.choice((pick.choice(BOUNDARIES), max(0, frame[field] + pick.randrange(-3, 4))))
        elif what == 5:
            frame[5] = pick.randbytes(pick.choice((0, 1, 16, 300, 5000)))
        elif what == 6:
            frames.insert(pick.randrange(len(frames)), frame)
        elif what == 7 and len(frames) > 1:
            del frames[at]
        else:
            other = pick.randrange(len(frames))
            frames[at], frames[other] = frames[other], frames[at]
    return b"".join(
        encode_frame(kind, flags=flags, stream=stream, seq=seq % (1 << 64), ack=ack % (1 << 64), payload=payload)
        for kind, flags, stream, seq, ack, payload in frames)


@pytest.mark.parametrize("mutate", [mutate_bytes, mutate_frames])
@pytest.mark.parametrize("is_server", [True, False], ids=["server", "client"])
def test_mutated_traffic(is_server, mutate):
    outcomes = set()
    for seed in range(ROUNDS):
        pick = random.Random(seed)
        data = mutate(pick, pick.choice(RECORDED)[0 if is_server else 1])
        victim = Victim(pick, is_server=is_server)
        size = pick.choice((1 << 20, 1 << 20, 1000, 100, 17))
        for at in range(0, len(data), size):
            victim.feed(data[at:at + size])
            if victim.closed:
                break
        outcomes.add(victim.closed and victim.closed[1])
        if victim.closed:
            assert victim.ps.session.state == CarrierState.CLOSED_FOR_GOOD
            assert victim.ps.receive(b"anything", victim.now, None) == []
        victim.end()
    assert {CloseCode.FRAME_ERROR, CloseCode.OFFSET_ERROR, CloseCode.STATE_ERROR} <= outcomes


@pytest.mark.parametrize("is_server", [True, False], ids=["server", "client"])
def test_noise(is_server):
    """Random frames, each well formed and most of them plausible, in any order and on several carriers."""
    fed = 0
    for seed in range(ROUNDS):
        pick = random.Random(seed)
        victim = Victim(pick, is_server=is_server)
        if pick.random() < 0.8:
            victim.feed(encode_frame(FrameType.RESUME, flags=FrameFlag.END, seq=pick.choice((0, 5))))
        for _ in range(60):
            if victim.closed:
                break
            victim.feed(chance_frame(pick, victim))
            fed += 1
            if pick.random() < 0.02 and not victim.closed:
                victim.ps.session.attach(
                    victim.ps.session.epoch + 1, pick.choice((4096, 16384)), 65536, b"", victim.now)
        victim.end()
    assert fed > 10 * ROUNDS


def chance_frame(pick, victim):
    """A frame that the codec accepts, mostly with numbers that are plausible to the session."""
    known = [stream for stream in range(1, 40) if victim.ps.look(stream)]
    unknown = [stream for stream in range(1, 40) if stream not in known]
    kind = pick.choice((FrameType.HEARTBEAT, FrameType.OPEN, FrameType.DATA, FrameType.DATA, FrameType.DATA,
                        FrameType.ACK, FrameType.RESET))
    if victim.ps.session.state == CarrierState.RESUMING or pick.random() < 0.003:
        kind = FrameType.RESUME
    elif not known or (kind == FrameType.OPEN and not victim.ps.session.is_server):
        kind = FrameType.OPEN if victim.ps.session.is_server else FrameType.HEARTBEAT
    stream = pick.choice((unknown if kind == FrameType.OPEN else known) or [1])
    if pick.random() < 0.005:
        stream = pick.choice((unknown, known, [1 << 31]))[0] if known and unknown else 1
    look = victim.ps.look(stream)
    seq, ack = pick.choice(BOUNDARIES), pick.choice(BOUNDARIES)
    if look and pick.random() < 0.98:
        seq, ack = look["received"], pick.choice((look["acked"] + look["out_done"], look["peak"]))
        if kind == FrameType.RESUME:
            seq, ack = look["peak"], look["acked"]
    if kind == FrameType.RESUME:
        flags = pick.choice((0, 0, FrameFlag.DONE, FrameFlag.DONE | FrameFlag.ABORTED))
        if pick.random() < 0.2:
            stream, flags = 0, FrameFlag.END
        return encode_frame(kind, flags=flags, stream=stream, seq=seq, ack=ack)
    if kind == FrameType.HEARTBEAT:
        flags, ack = pick.choice(((0, 0), (FrameFlag.REPLY, victim.now), (FrameFlag.REPLY, ack)))
        return encode_frame(kind, flags=flags, seq=victim.now, ack=ack, payload=SESSION_ID)
    if kind == FrameType.DATA:
        back = pick.randrange(30) if seq > 30 and pick.random() < 0.3 else 0
        payload = bytes(back + pick.choice((1, 10, 3000)))
        flags = pick.choice((0, 0, 0, FrameFlag.FIN, FrameFlag.WANT_ACK))
        return encode_frame(kind, flags=flags, stream=stream, seq=seq - back, ack=ack, payload=payload)
    flags = pick.choice((0, FrameFlag.WANT_ACK)) if kind == FrameType.ACK else 0
    return encode_frame(kind, flags=flags, stream=stream, seq=seq if kind == FrameType.RESET else 0, ack=ack)


# ---- floods

def flooded(frames, *, most_rounds, transmits=True, max_streams=20):
    """Feed `frames(round)` to a server until it closes the session or `most_rounds`; returns the victim."""
    victim = Victim(random.Random(1), is_server=True, config=small_config(max_streams=max_streams))
    victim.transmits = transmits
    victim.feed(encode_frame(FrameType.RESUME, flags=FrameFlag.END))
    for number in range(most_rounds):
        victim.feed(frames(number))
        if victim.closed:
            break
    return victim


@pytest.mark.parametrize("transmits", [True, False])
def test_open_flood(transmits):
    def frames(number):
        return b"".join(encode_frame(FrameType.OPEN, stream=1 + number * 100 + i, payload=b"x:1") for i in range(100))
    victim = flooded(frames, most_rounds=1000, transmits=transmits)
    assert victim.closed[1] == CloseCode.LIMIT_ERROR
    assert len(victim.owned) <= 20
    victim.end()


def test_open_and_reset_flood():
    def frames(number):
        return b"".join(
            encode_frame(kind, stream=1 + number * 100 + i)
            for i in range(100) for kind in (FrameType.OPEN, FrameType.RESET))
    victim = flooded(frames, most_rounds=1000)
    assert victim.closed[1] == CloseCode.LIMIT_ERROR
    victim.end()


@pytest.mark.parametrize("transmits", [True, False])
def test_heartbeat_flood(transmits):
    def frames(number):
        return b"".join(
            encode_frame(FrameType.HEARTBEAT, flags=flags, seq=number * 100 + i, ack=i, payload=SESSION_ID)
            for i in range(100) for flags in (0, FrameFlag.REPLY))
    victim = flooded(frames, most_rounds=1000, transmits=transmits)
    assert not victim.closed
    assert pool_bytes()[0] - victim.base_bytes < 300_000
    victim.end()


@pytest.mark.parametrize("kind", [FrameType.RESET, FrameType.ACK])
def test_flood_for_one_stream(kind):
    """Repeated frames after a RESET, or with nothing to acknowledge, have no effect."""
    def frames(number):
        opened = encode_frame(FrameType.OPEN, stream=1) if number == 0 else b""
        return opened + encode_frame(kind, flags=FrameFlag.WANT_ACK if kind == FrameType.ACK else 0, stream=1) * 100
    victim = flooded(frames, most_rounds=300)
    assert not victim.closed
    victim.end()


@pytest.mark.parametrize("length", [1, 1000, 4096])
def test_data_flood_over_many_streams(length):
    """More than a window or the budget is refused; until then no more than the limits is kept."""
    def frames(number):
        stream = 1 + number % 20
        opened = encode_frame(FrameType.OPEN, stream=stream) if number < 20 else b""
        return opened + encode_frame(
            FrameType.DATA, stream=stream, seq=number // 20 * length, payload=bytes(length))
    victim = Victim(random.Random(1), is_server=True)
    victim.pick = Miser()
    victim.feed(encode_frame(FrameType.RESUME, flags=FrameFlag.END))
    for number in range(20 * 17_000):
        victim.feed(frames(number))
        if victim.closed:
            break
    assert victim.closed[1] == CloseCode.LIMIT_ERROR
    assert victim.ps.session.streams.in_held <= 65536 + 20 * 4096
    victim.end()


class Miser:
    """Stands in for the random generator, so that applications take nothing and do nothing."""

    def randrange(self, *_arguments):
        return 0

    def sample(self, _population, _count):
        return ()

    def choice(self, options):
        return options[-1]


def test_resume_flood():
    """A list longer than the streams there are, and one that repeats itself, cost nothing."""
    victim = Victim(random.Random(1), is_server=True)
    for _ in range(300):
        victim.feed(encode_frame(FrameType.RESUME, stream=1) * 100 + encode_frame(FrameType.RESUME, stream=77) * 100)
    assert not victim.closed
    assert pool_bytes()[0] - victim.base_bytes < 10_000
    victim.end()
