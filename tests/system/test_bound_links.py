"""Links on a socket that has an address of its own."""

import socket

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


class Side(LinkHandler, DatagramObserver):
    """One end, with a key of its own, bound to `address`."""

    def __init__(self, loop, address, dials):
        self.loop = loop
        self.pair = KeyPair(fresh_pem(), "the key")
        self.keying = Keying(self.pair, dials, lambda _spki, _link: None, SESSION_PURPOSE)
        self.heard = bytearray(len(WORDS))
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


def test_packets_leave_by_the_address_to_which_the_socket_is_bound():
    """Right: another one, which the kernel would choose, would be a move to the peer, and its answers would reach
    nobody."""
    loop = Loop()
    server, client = Side(loop, "127.0.0.1", False), Side(loop, "127.0.0.2", True)
    between = Between(loop, server.address, client.address)
    link = client.endpoint.connect(Target("there", [(socket.AF_INET, between.sock.getsockname())]), client)
    link.send(WORDS)
    late = loop.call_later(30 * SECOND_US, loop.stop)
    loop.run()
    late.cancel()
    assert bytes(server.heard) == WORDS
    assert between.sources == {server.address, client.address}
    for side in (server, client):
        side.endpoint.close()
    between.watch.close()
    between.sock.close()
