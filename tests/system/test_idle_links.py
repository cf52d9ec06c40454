"""What a turn of an endpoint costs: links at rest are not looked at, however many there are, and miss nothing."""

import socket

import pytest
from lab import outage
from test_transfer import MANY
from tests.drivers._pydeadlines import mark, next_us, was_seen

from mproxy.ground.config import HOUR_US, SECOND_US
from mproxy.io._loop import Loop
from mproxy.io._socket import Target
from mproxy.io.bind import open_udp
from mproxy.transport._datagram_endpoint import DatagramEndpoint
from mproxy.transport.datagram_config import DatagramConfig
from mproxy.transport.observers import DatagramObserver, LinkHandler

LINKS = 40
ROUNDS = 20
MESSAGE = bytes(1000)
KEEPALIVE_US = 20_000
POLL_US = 5_000
STOPPED_S = 2.5  # long enough to be taken for a process that was stopped, and not for a busy one


class Crowd(LinkHandler, DatagramObserver):
    """LINKS connections between two endpoints of a loop. Those who dialled count what comes back; the others send back
    what comes."""

    def __init__(self, **settings):
        self.loop = Loop()
        self.established = 0
        self.served = []
        self.back = 0
        config = DatagramConfig(congestion="fixed", **settings)
        with open_udp("127.0.0.1", 0) as sock, open_udp("127.0.0.1", 0) as own:
            target = Target("there", [(socket.AF_INET, sock.getsockname())])
            self.endpoints = [DatagramEndpoint(self.loop, sock.fileno(), config, self),
                              DatagramEndpoint(self.loop, own.fileno(), config)]
        self.dialled = [self.endpoints[1].connect(target, self) for _ in range(LINKS)]
        self.run_until(lambda: self.established == 2 * LINKS)

    def on_link(self, link):
        self.served.append(link)
        link.handler = self

    def on_established(self, link):
        self.established += 1
        link.fill(bytearray(len(MESSAGE)))

    def on_filled(self, link):
        link.fill(bytearray(len(MESSAGE)))
        if link in self.served:
            link.send(MESSAGE)
        else:
            self.back += 1

    def run_until(self, condition):
        """Run the loop until it is so."""
        def look():
            if condition():
                self.loop.stop()
            else:
                timers.append(self.loop.call_later(POLL_US, look))
        late = self.loop.call_later(MANY * SECOND_US, self.loop.stop)
        timers = [self.loop.call_later(0, look)]
        self.loop.run()
        late.cancel()
        timers[-1].cancel()
        assert condition()

    @property
    def links(self):
        return self.dialled + self.served

    def close(self):
        for endpoint in self.endpoints:
            endpoint.close()


class Reluctant(Crowd):
    """Has enough to do, however often each has asked twice."""

    def __init__(self):
        self.asked = self.heard = 0
        super().__init__()

    def is_busy(self):
        self.asked += 1
        if self.asked > 2 * LINKS:
            return False
        self.heard += len(self.served)
        return True


def test_who_dials_while_there_is_enough_to_do_is_heard_later():
    """Goal: nothing is kept of them meanwhile, and none has to dial anew."""
    crowd = Reluctant()
    assert crowd.asked >= 3 * LINKS and not crowd.heard
    assert len(crowd.served) == crowd.endpoints[1].count == LINKS
    crowd.close()


@pytest.fixture
def crowd():
    made = []

    def make(**settings):
        made.append(Crowd(**settings))
        return made[0]
    yield make
    for many in made:
        many.close()


def test_turns_look_at_busy_links_alone(crowd):
    """Goal: beside the link that works only the other end of it is looked at, in all the turns of ROUNDS messages."""
    many = crowd(keepalive_us=HOUR_US, idle_us=2 * HOUR_US)
    many.run_until(lambda: min(map(next_us, many.links)) > many.loop.now() + 5 * SECOND_US)
    busy, *others = many.links
    for link in others:
        mark(link)
    for number in range(ROUNDS):
        busy.send(MESSAGE)
        many.run_until(lambda number=number: many.back > number)
    assert sum(map(was_seen, others)) == 1
    for endpoint in many.endpoints:
        endpoint.probe()
    many.run_until(lambda: all(map(was_seen, others)))


def test_a_late_turn_looks_at_links_that_are_due_alone(crowd, monkeypatch):
    """Goal: a process that was stopped excuses the link whose answer it could not hear meanwhile; the others wait for
    nothing that could be late."""
    many = crowd(keepalive_us=HOUR_US, idle_us=2 * HOUR_US)
    many.run_until(lambda: min(map(next_us, many.links)) > many.loop.now() + 5 * SECOND_US)
    busy, *others = many.links
    for link in others:
        mark(link)
    hear = many.on_filled

    def stop_and_hear(link):
        if link in many.served and many.back == 0:
            outage(STOPPED_S)
        hear(link)
    monkeypatch.setattr(many, "on_filled", stop_and_hear)
    for number in range(2):  # the turn after the late one would look at what that has touched
        busy.send(MESSAGE)
        many.run_until(lambda number=number: many.back > number)
    assert sum(map(was_seen, others)) == 1


def test_links_at_rest_miss_no_deadline(crowd):
    """Goal: each of many asks for a sign of life again and again, and lives on."""
    many = crowd(keepalive_us=KEEPALIVE_US, idle_us=MANY * SECOND_US)
    before = [link.statistics["packets_out"] for link in many.dialled]
    many.run_until(lambda: all(link.statistics["packets_out"] >= count + 5
                               for link, count in zip(many.dialled, before, strict=True)))
    assert not any(link.ended for link in many.links)
