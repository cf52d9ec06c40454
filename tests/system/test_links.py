"""Links of a loop: the address from which they send, and the order of what is said on them."""

import socket

import pytest

from mproxy._session import Session
from mproxy._wire import CloseCode
from mproxy.carrier._datagram_carrier import DatagramCarrier
from mproxy.endpoint._endpoint import Endpoint
from mproxy.endpoint.observer import EndpointObserver
from mproxy.ground.config import SECOND_US, CproxyConfig
from mproxy.io._loop import Loop
from mproxy.io._socket import Target
from mproxy.io.bind import open_udp
from mproxy.policy.keys import fresh_pem
from mproxy.transport._datagram_endpoint import DatagramEndpoint
from mproxy.transport.datagram_config import for_session
from mproxy.transport.keying import SESSION_PURPOSE, Keying, KeyPair
from mproxy.transport.observers import DatagramObserver, LinkHandler

WORDS = b"hello"
FIRST = b" world"


class Side(LinkHandler, DatagramObserver):
    """One end, with a key of its own, bound to `address`; it hears so many bytes."""

    def __init__(self, loop, address, dials, hears=0):
        self.loop = loop
        self.pair = KeyPair(fresh_pem(), "the key")
        self.keying = Keying(self.pair, dials, lambda _spki, _link: None, SESSION_PURPOSE)
        self.heard = bytearray(hears)
        with open_udp(address, 0) as sock:
            self.address = sock.getsockname()
            self.endpoint = DatagramEndpoint(loop, sock.fileno(), for_session(CproxyConfig().session, 1500),
                                             None if dials else self)

    def on_link(self, link):
        self.link = link
        link.handler = self

    def on_handshake(self, link, data):
        self.keying.take(link, data)

    def on_established(self, link):
        if self.heard:
            link.fill(self.heard)

    def on_filled(self, link):
        self.loop.stop()


class Between:
    """Passes packets on between two; `sources`: the addresses from which some came."""

    def __init__(self, loop, server, client):
        self.server, self.client = server, client
        self.sources = set()
        self.sock = open_udp("127.0.0.1", 0)
        self.watch = loop.watch(self.sock.fileno(), lambda _events: self.pass_on())

    def pass_on(self):
        data, source = self.sock.recvfrom(65536)
        self.sources.add(source)
        self.sock.sendto(data, self.client if source == self.server else self.server)


def run(loop):
    """Until somebody has heard all."""
    late = loop.call_later(30 * SECOND_US, loop.stop)
    loop.run()
    late.cancel()


def test_packets_leave_by_the_address_to_which_the_socket_is_bound():
    """Right: another one, which the kernel would choose, would be a move to the peer, and its answers would reach
    nobody."""
    loop = Loop()
    server, client = Side(loop, "127.0.0.1", False, len(WORDS)), Side(loop, "127.0.0.2", True)
    between = Between(loop, server.address, client.address)
    link = client.endpoint.connect(Target("there", [(socket.AF_INET, between.sock.getsockname())]), client)
    link.send(WORDS)
    run(loop)
    assert bytes(server.heard) == WORDS
    assert between.sources == {server.address, client.address}
    for side in (server, client):
        side.endpoint.close()
    between.watch.close()
    between.sock.close()


class Host(Side, EndpointObserver):
    """Tells a guest something, gives its link to a session, and ends that at once, or not."""

    def __init__(self, loop, words, ends):
        super().__init__(loop, "127.0.0.1", False)
        self.words, self.ends = words, ends

    def on_established(self, link):
        link.send(self.words)
        config = CproxyConfig().session
        self.served = Endpoint(self.loop, Session(config, is_server=True, session_id=bytes(16), secret=bytes(32)), self)
        self.served.attach(DatagramCarrier(link), 1, config.window_bytes, config.session_budget_bytes, FIRST, b"")
        if self.ends:
            self.served.close(CloseCode.ORDERLY, "")


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("words", [WORDS, WORDS * 200_000], ids=["short", "more than the ring has room for"])
def test_what_a_guest_was_told_comes_before_what_its_session_says(words, ends):
    """Right: the other way round, as it was when the session said something in the same turn, the guest takes the
    server for no sproxy; and in the middle of a long list the session is over."""
    loop = Loop()
    host, client = Host(loop, words, ends), Side(loop, "127.0.0.1", True, len(words + FIRST))
    client.endpoint.connect(Target("there", [(socket.AF_INET, host.address)]), client)
    run(loop)
    assert bytes(client.heard) == words + FIRST
    for side in (host, client):
        side.endpoint.close()
    host.served.dispose()
