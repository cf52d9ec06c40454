"""How much may be in flight (carrier/_flight) on paths of many speeds, in virtual time: key strokes wait little, and
lines are kept busy."""

import statistics

import pytest
from tests.drivers._carriers import DrivenFlight

from tests.sim.net import Clock
from tests.sim.path import Faults
from tests.sim.tcp import SEGMENT, connect

SECOND = 1_000_000
KEY_BYTES = 29
KEY_EVERY = 500_000
LEAST_FRAME = 4096
HOLD_MOST = 20_000
SHARED = 2 * SECOND       # for so long a key counts
BATCH = 65_536
SHORT_PATH = 5_000        # of a round trip


class ByFlight:
    """Bulk as the carrier gives it to the socket, asking `_flight`."""

    def __init__(self):
        self.flight = DrivenFlight()

    def room(self, socket, shared, now):
        bound = self.flight.bound(now, socket.acked, socket.unacked, socket.rtt, socket.least_rtt, shared, SEGMENT)
        if bound is not None:
            return bound - socket.unacked
        return 2 * socket.window - socket.unacked if socket.rtt >= SHORT_PATH else BATCH

    @property
    def rate(self):
        return self.flight.rate


class ByWindow:
    """As much as the kernel takes; on a long path twice what it may have in flight."""

    rate = 0

    def room(self, socket, _shared, _now):
        return 2 * socket.window - socket.unacked if socket.rtt >= SHORT_PATH else BATCH


class ByNewestRate(ByWindow):
    """The same until a key meets a long queue; from then on limited by the rate of the latest packets."""

    slow = False

    def room(self, socket, shared, now):
        self.slow |= shared and socket.rtt - socket.least_rtt > 100_000
        if not self.slow:
            return super().room(socket, shared, now)
        self.rate = socket.delivery_rate
        return max(self.rate * (socket.least_rtt + 6_000) // SECOND, LEAST_FRAME) - socket.unacked


class Proxy:
    """One end of a session: keys go first, bulk as `rule` lets it. With `echoes` keys are sent back."""

    def __init__(self, clock, socket, rule, echoes):
        self.clock, self.socket, self.rule, self.echoes = clock, socket, rule, echoes
        self.bulk = 0              # bytes still to send
        self.bulk_arrived = 0
        self.bulk_arrived_at = None
        self.keys = []             # to send
        self.took = []             # (typed at, how long until it was back)
        self.shared_until = 0
        self.held = False
        socket.deliver = self.on_message

    def type_key(self):
        self.keys.append(self.clock.now)
        self.pump()

    def on_message(self, typed_at, length):
        if typed_at is None:
            self.bulk_arrived += length
            self.bulk_arrived_at = self.clock.now
            if self.bulk:  # its acks go beside our own
                self.shared_until = self.clock.now + SHARED
        elif self.echoes:
            self.keys.append(typed_at)
        else:
            self.took.append((typed_at, self.clock.now - typed_at))
        self.pump()

    def pump(self):
        """Give the socket what it may have; look again soon where something has to wait."""
        now = self.clock.now
        while self.keys and self.socket.space() >= KEY_BYTES:
            self.socket.write(self.keys.pop(0), KEY_BYTES)
            if self.bulk:
                self.shared_until = now + SHARED
        while self.bulk:
            room = self.rule.room(self.socket, now < self.shared_until, now)
            frame = min(max(room, LEAST_FRAME), BATCH, self.bulk, self.socket.space())
            if room <= 0 or frame <= 0:
                self.hold(max(1, -room) * SECOND // self.rule.rate if self.rule.rate else 0)
                return
            self.socket.write(None, frame)
            self.bulk -= frame

    def hold(self, delay):
        if not self.held:
            self.held = True
            self.clock.after(min(max(delay, 1_000), HOLD_MOST), self.look_again)

    def look_again(self):
        self.held = False
        self.pump()


class Line:
    """A session over a path; delay in microseconds each way, queue in seconds."""

    def __init__(self, rule, mbit_s, delay=0, queue=2.0, burst=0):
        self.clock = Clock()
        self.rate = mbit_s * 1e6 / 8
        faults = Faults(delay=delay, rate=self.rate, queue_bytes=int(queue * self.rate))
        sockets = connect(self.clock, faults, burst)
        self.client = Proxy(self.clock, sockets[0], rule(), echoes=False)
        self.server = Proxy(self.clock, sockets[1], rule(), echoes=True)
        self.client.type_key()  # the round trip is known by the handshake
        self.run(SECOND)
        self.client.took.clear()

    def run(self, duration):
        end = self.clock.now + duration
        while self.clock.now < end:
            if not self.clock.step():
                return

    def copy(self, up=1 << 40, down=1 << 40):
        """Start to copy so many bytes."""
        for proxy, size in ((self.client, up), (self.server, down)):
            proxy.bulk = size
            proxy.pump()

    def type_keys(self, count):
        """Type a key every half second; returns the seconds that each took."""
        for _ in range(count):
            self.client.type_key()
            self.run(KEY_EVERY)
        self.run(60 * SECOND)
        return [took / SECOND for _at, took in self.client.took]

    def shares(self, duration):
        """The share of the line that bulk gets from now on, up and down."""
        before = self.server.bulk_arrived, self.client.bulk_arrived
        self.run(duration)
        return [(proxy.bulk_arrived - had) * SECOND / duration / self.rate
                for proxy, had in zip((self.server, self.client), before, strict=True)]


def seconds_of_copy(rule, size, mbit_s, delay, **path):
    """How long a copy up takes, of so many bytes."""
    line = Line(rule, mbit_s, delay, **path)
    begun = line.clock.now
    line.copy(size, 0)
    while line.server.bulk_arrived < size:
        line.run(SECOND)
        assert line.clock.now - begun < 600 * SECOND, line.client.rule
    return (line.server.bulk_arrived_at - begun) / SECOND


@pytest.mark.parametrize("warm_up", [0, 2, 40])
@pytest.mark.parametrize(("mbit_s", "delay", "burst"), [
    (0.2, 0, 0), (0.2, 0, 4096), (0.2, 50_000, 0), (0.2, 200_000, 4096), (0.5, 20_000, 0), (1, 10_000, 32_768),
    (3, 10_000, 0),
])
def test_a_key_waits_for_little_on_a_slow_line(mbit_s, delay, burst, warm_up):
    line = Line(ByFlight, mbit_s, delay, burst=burst)
    line.copy()
    line.run(warm_up * SECOND)
    took = line.type_keys(60)
    path = 2 * delay / SECOND
    assert len(took) == 60
    assert statistics.median(took) < path + 0.45, sorted(took)
    assert max(took) < path + 1.8, sorted(took)


@pytest.mark.parametrize("rule", [ByWindow, ByNewestRate])
def test_a_key_waits_for_seconds_without_the_rule(rule):
    """What carriers did before, in the same simulation."""
    line = Line(rule, 0.2, burst=4096)
    line.copy()
    took = line.type_keys(60)
    assert max(took) > 2.5, sorted(took)


@pytest.mark.parametrize("mbit_s", [0.064, 0.2, 0.5, 1, 3])
@pytest.mark.parametrize("down", [0, 1 << 40], ids=["up", "both ways"])
def test_a_slow_line_is_kept_busy(mbit_s, down):
    line = Line(ByFlight, mbit_s, 20_000)
    line.copy(down=down)
    line.run(10 * SECOND)
    shares = line.shares(40 * SECOND)
    assert shares[0] > (0.65 if down else 0.85), shares


@pytest.mark.parametrize(("size", "mbit_s", "delay"), [
    (20_000_000, 100, 25_000), (5_000_000, 10, 100_000), (2_000_000, 50, 5_000), (300_000, 100, 25_000),
    (20_000_000, 1000, 500),
])
def test_a_fast_path_loses_nothing(size, mbit_s, delay):
    by_flight, by_window = (seconds_of_copy(rule, size, mbit_s, delay, queue=0.05) for rule in (ByFlight, ByWindow))
    assert by_flight < 1.05 * by_window + 0.005, (by_flight, by_window)


def test_a_fast_path_is_soon_free():
    line = Line(ByFlight, 100, 25_000, queue=0.05)
    line.copy()
    line.run(SECOND // 3)
    assert line.client.rule.flight.state == line.server.rule.flight.state == "free"


def test_a_copy_alone_is_left_to_the_kernel_after_a_while():
    """Goal: it keeps its share beside other traffic, and a key pressed later still shortens its queue."""
    line = Line(ByFlight, 0.2)
    line.copy(down=0)
    flight = line.client.rule.flight
    line.run(20 * SECOND)
    assert flight.state in ("full", "probing")
    line.run(20 * SECOND)
    assert flight.state == "free"
    took = line.type_keys(30)
    assert max(took[15:]) < 0.7, took
