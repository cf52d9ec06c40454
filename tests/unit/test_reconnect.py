"""When cproxy looks for another carrier although it has one: routes that change, in virtual time."""

from itertools import pairwise
from types import SimpleNamespace

import pytest

from mproxy.policy import reconnect
from mproxy.policy.reconnect import MOVE_US, Reconnect
from tests.unit.dial_parts import SECOND_US, FakeLoop

PEER = ("10.3.0.2", 6200)
WIFI, CABLE = ("wlan0", "10.1.0.2"), ("eth0", "10.2.0.2")


class Carried:
    """An endpoint with a carrier from `local`, on which something is heard each second unless it is `mute`."""

    def __init__(self, loop):
        self.loop = loop
        self.attached = True
        self.local = WIFI[1]
        self.mute_since = None
        self.probes = 0
        self.seeks = 0
        self.carrier = self
        self.session = SimpleNamespace(streams=SimpleNamespace(opened=1))

    @property
    def receive_silence_us(self):
        now = self.loop.now()
        return now % SECOND_US if self.mute_since is None else now - self.mute_since

    def addresses(self):
        return (self.local, 40000), PEER

    def probe(self):
        self.probes += 1

    def seek(self):
        self.seeks += 1


class Dials:
    """A dialer that is welcomed `after_s`, by the best way that there is then."""

    follows_routes = True

    def __init__(self, host, stays):
        self.host = host
        self.stays = stays
        self.device = None
        self.after_s = 0.2
        self.running = False
        self.moves = []  # when, and to which device

    def start(self):
        if not self.running:
            self.running = True
            self.host.loop.call_later(int(self.after_s * SECOND_US), self._connected)

    def _connected(self):
        self.running = False
        if self.host.policy.still_wanted():
            device, self.host.endpoint.local = next(iter(self.host.ways.items()))
            self.device = device if self.device else None
            self.moves.append((self.host.loop.now(), device))
            self.host.policy.settled((PEER, PEER))

    def network_changed(self):
        pass


class Host:
    """`ways`: {device: address} that lead to sproxy, the best first."""

    def __init__(self, monkeypatch, *, stays=False):
        monkeypatch.setattr(reconnect, "NetworkWatch", lambda: self)
        monkeypatch.setattr(reconnect, "outgoing_device", lambda _peer: next(iter(self.ways), None))
        monkeypatch.setattr(reconnect, "preferred_source", self._preferred_source)
        self.loop = FakeLoop()
        self.watch = None
        self.fd = self.loop.descriptor(self)
        self.ways = dict([WIFI])
        self.endpoint = Carried(self.loop)
        self.dialer = Dials(self, stays)
        log = SimpleNamespace(debug=lambda *_, **__: None)
        self.policy = Reconnect(self.loop, self.endpoint, self.dialer, log, lambda: True)
        self.policy.settled((PEER, PEER))

    def _preferred_source(self, _peer, device=None):
        return self.ways.get(device) if device else next(iter(self.ways.values()), None)

    def fileno(self):
        return self.fd

    def read_events(self):
        return [SimpleNamespace(kind="route-changed", address="default")]

    def has(self, *ways, seconds=1.0):
        """From now on these are the ways, the best first; it takes several events."""
        self.ways = dict(ways)
        for _ in range(3):
            self.watch.call(0)
            self.loop.run(seconds / 3)

    def devices(self):
        return [device for _at, device in self.dialer.moves]


def test_a_better_network_is_used_at_once(monkeypatch):
    host = Host(monkeypatch)
    host.has(CABLE, WIFI)
    assert host.devices() == ["eth0"]


def test_a_cable_with_a_loose_contact_moves_nobody_to_and_fro(monkeypatch):
    """Goal: both networks work all the time: one move a minute at most, and in the end the best one is used."""
    host = Host(monkeypatch)
    for _ in range(100):
        host.has(CABLE, WIFI, seconds=2)
        host.has(WIFI, CABLE, seconds=2)
    host.has(CABLE, WIFI)
    host.loop.run(70)
    times = [at for at, _device in host.dialer.moves]
    assert all(later - earlier >= MOVE_US for earlier, later in pairwise(times))
    assert 2 <= len(times) <= 9
    assert host.endpoint.local == CABLE[1]


def test_what_no_longer_leads_to_sproxy_is_left_at_once_whenever_the_last_move_was(monkeypatch):
    host = Host(monkeypatch)
    host.has(CABLE, WIFI)
    host.has(WIFI)
    host.has(CABLE)
    assert host.devices() == ["eth0", "wlan0", "eth0"]


def test_a_carrier_in_doubt_is_replaced_though_the_last_move_was_a_moment_ago(monkeypatch):
    """Right: the better network is back, the carrier on the other one is mute."""
    host = Host(monkeypatch)
    host.has(CABLE, WIFI)
    host.has(WIFI, CABLE)
    assert host.devices() == ["eth0"]
    host.endpoint.mute_since = host.loop.now()
    host.policy.doubt("nothing heard for too long")
    host.loop.run(1)
    assert host.devices() == ["eth0", "wlan0"]


def test_a_doubt_that_was_refuted_moves_nobody_before_the_time(monkeypatch):
    host = Host(monkeypatch)
    host.has(CABLE, WIFI)
    host.has(WIFI, CABLE)
    host.dialer.after_s = 2
    host.policy.doubt("nothing heard for too long")
    host.loop.run(5)
    assert host.devices() == ["eth0"]
    host.loop.run(60)
    assert host.devices() == ["eth0", "wlan0"]


def test_a_move_is_called_off_when_the_route_is_the_old_one_again(monkeypatch):
    host = Host(monkeypatch)
    host.dialer.after_s = 3
    host.has(CABLE, WIFI)
    host.has(WIFI, CABLE)
    host.loop.run(100)
    assert host.devices() == []


def test_the_carrier_in_doubt_is_asked_beside_the_dial(monkeypatch):
    host = Host(monkeypatch)
    host.policy.doubt("nothing heard for too long")
    assert host.endpoint.seeks == 1


def test_a_carrier_that_counts_as_lost_is_asked_whenever_one_is_needed(monkeypatch):
    """Right: over UDP it may be the first to work again; where it is gone for good there is nobody to ask."""
    host = Host(monkeypatch)
    host.endpoint.attached = False
    host.policy.needed()
    assert host.endpoint.seeks == 1 and host.dialer.running
    host.endpoint.carrier = None
    host.policy.needed()
    assert host.endpoint.seeks == 1


@pytest.mark.parametrize("bound", [True, False])
def test_stay(monkeypatch, bound):
    """Goal: a better network is never used while the one in use works; one that is gone is left at once."""
    host = Host(monkeypatch, stays=True)
    host.dialer.device = "wlan0" if bound else None
    host.policy.settled((PEER, PEER))
    host.has(CABLE, WIFI)
    host.loop.run(300)
    assert host.devices() == [] and host.endpoint.probes > 0
    host.has(CABLE)
    assert host.devices() == ["eth0"]
