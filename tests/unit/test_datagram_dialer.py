"""Attempts to find a carrier over datagrams, in virtual time and with links that say what they are told to."""

from types import SimpleNamespace

import pytest

from mproxy.ground.config import SessionConfig
from mproxy.policy.datagram_dialer import DatagramDialer
from tests.unit.dial_parts import SECOND_US, FakeCaller, FakeLoop, FakeResolver, Observer


class FakeLink:
    """Notes what is said on it and how it is ended."""

    peer = ("10.3.0.2", 6200)

    def __init__(self):
        self.said, self.aborted = [], False

    def send(self, data):
        self.said.append(data)

    def fill(self, _buffer, _least):
        pass

    def abort(self, _code, _reason):
        self.aborted = True


class TwoSteps:
    """An agreement on keys that needs two packets of sproxy."""

    link_keys = None

    def take(self, _link, data):
        self.link_keys = "keys" if data == b"second" else None


class Bench:
    """A dialer whose sockets lead to `links`."""

    def __init__(self, monkeypatch):
        self.loop = FakeLoop()
        self.observer = Observer(self.loop)
        self.callers = []
        self.observer.make_caller = self._make_caller
        self.links = []
        config = SimpleNamespace(sproxy_host="server.example", sproxy_port=6200, connect_timeout_us=10 * SECOND_US,
                                 session=SessionConfig(), keeper=False)
        self.dialer = DatagramDialer(self.loop, FakeResolver(self.loop, ["10.3.0.2"]), config, self.observer, TwoSteps,
                                     lambda: 0)
        monkeypatch.setattr(self.dialer, "_open", lambda: SimpleNamespace(connect=self._connect))

    def _connect(self, _target, handler, _tag):
        self.handler = handler
        self.links.append(FakeLink())
        return self.links[-1]

    def _make_caller(self, keys):
        assert keys == "keys"
        self.callers.append(FakeCaller())
        return self.callers[-1]

    def start(self):
        self.dialer.start()
        self.loop.run(1)
        (link,) = self.links
        return link


@pytest.fixture
def bench(monkeypatch):
    return Bench(monkeypatch)


def test_hello_follows_the_keys(bench):
    link = bench.start()
    bench.handler.on_handshake(link, b"first")
    assert not bench.callers
    bench.handler.on_handshake(link, b"second")
    assert len(bench.callers) == len(link.said) == 1 and bench.dialer.running and not link.aborted


@pytest.mark.parametrize("answers", [0, 1])
def test_the_carrier_in_doubt_works_again_before_hello(bench, answers):
    """Goal: it stays. sproxy hears nothing of the session on the link that is not needed any more."""
    link = bench.start()
    for data in [b"first"][:answers]:
        bench.handler.on_handshake(link, data)
    bench.observer.wanted = False
    bench.handler.on_handshake(link, b"second")
    assert not bench.callers and not link.said
    assert link.aborted and not bench.dialer.running and bench.dialer.next_try_at is None
    bench.handler.on_handshake(link, b"second")  # what was on its way
    assert not bench.callers
    bench.loop.run(100)
    assert len(bench.links) == 1 and not bench.observer.failed
    bench.observer.wanted = True
    bench.dialer.start()
    bench.loop.run(1)
    assert len(bench.links) == 2


def test_a_dial_beside_a_carrier_in_doubt_goes_on(bench):
    """Goal: what was heard of the carrier may have been its last for long, as on a slow line whose queue is full; the
    dial has its answer later, and that decides."""
    link = bench.start()
    bench.observer.wanted = False
    bench.dialer.ease()
    bench.observer.wanted = True
    bench.handler.on_handshake(link, b"first")
    bench.handler.on_handshake(link, b"second")
    assert len(bench.callers) == 1 and not link.aborted
