"""Several connections share an address and port, so trains that the kernel joins may have packets of each of them."""

import socket
import struct

import pytest
from test_transfer import MANY, content

from mproxy.io._loop import Loop
from mproxy.io._socket import Target
from mproxy.io.bind import open_udp
from mproxy.transport._datagram_endpoint import DatagramEndpoint
from mproxy.transport.datagram_config import DatagramConfig
from mproxy.transport.observers import DatagramObserver, LinkHandler

UDP_SEGMENT = 103  # linux/udp.h
PACKET_BYTES = 1228
PEERS, BYTES = 3, 600_000
WAIT_US = 5_000  # for a packet of each peer


class Nat:
    """Puts packets of all peers into the trains of one socket, one of each in turn, as they come from a router behind
    which the peers share a port. What comes back goes to all of them: its connection id says whose it is."""

    def __init__(self, loop, port):
        self.loop = loop
        self.inside, self.outside = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        for sock in (self.inside, self.outside):
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.outside.connect(("127.0.0.1", port))
        self.queues = {}
        self.trains = 0
        self.watches = [loop.watch(self.inside.fileno(), lambda _events: self.take()),
                        loop.watch(self.outside.fileno(), lambda _events: self.give_back())]

    def take(self):
        while (packet := received(self.inside)) is not None:
            self.queues.setdefault(packet[1], []).append(packet[0])
        self.send()
        self.loop.call_later(WAIT_US, self.send_rest)

    def send(self):
        """Send one train after the other, while each peer has a packet."""
        while len(self.queues) == PEERS and all(self.queues.values()):
            heads = [queue.pop(0) for queue in self.queues.values()]
            if {len(head) for head in heads} == {PACKET_BYTES}:
                self.trains += 1
                self.outside.sendmsg(heads, [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("@H", PACKET_BYTES))])
            else:
                for head in heads:
                    self.outside.send(head)

    def send_rest(self):
        for queue in self.queues.values():
            while queue:
                self.outside.send(queue.pop(0))

    def give_back(self):
        while (packet := received(self.outside)) is not None:
            for peer in self.queues:
                self.inside.sendto(packet[0], peer)

    def close(self):
        for watch in self.watches:
            watch.close()
        self.inside.close()
        self.outside.close()


def received(sock):
    """(packet, address) that waits at a socket; None if there is none."""
    try:
        return sock.recvfrom(65536)
    except BlockingIOError:
        return None


class Receiver(LinkHandler, DatagramObserver):
    """Receives BYTES of each peer; stops the loop when it has all."""

    def __init__(self, loop):
        self.loop = loop
        self.buffers = {}
        self.missing = PEERS

    def on_link(self, link):
        link.handler = self

    def on_established(self, link):
        self.buffers[link] = bytearray(BYTES)
        link.fill(self.buffers[link])

    def on_filled(self, _link):
        self.missing -= 1
        if not self.missing:
            self.loop.stop()


@pytest.fixture
def open_endpoint():
    """Make endpoints that are closed at the end."""
    made = []

    def make(loop, observer=None):
        config = DatagramConfig(max_packet_bytes=PACKET_BYTES, congestion="fixed", window=32)
        with open_udp("127.0.0.1", 0) as sock:
            made.append(DatagramEndpoint(loop, sock.fileno(), config, observer))
            return made[-1], sock.getsockname()[1]
    yield make
    for endpoint in made:
        endpoint.close()


def test_a_train_of_several_connections(open_endpoint):
    """Goal: each packet reaches its connection: everything arrives, and nothing had to be sent again."""
    loop = Loop()
    receiver = Receiver(loop)
    _server, port = open_endpoint(loop, receiver)
    nat = Nat(loop, port)
    target = Target("there", [(socket.AF_INET, nat.inside.getsockname())])
    links = [open_endpoint(loop)[0].connect(target, LinkHandler()) for _ in range(PEERS)]
    sent = [content(number, BYTES) for number in range(PEERS)]
    for link, data in zip(links, sent, strict=True):
        link.send(data)
    loop.call_later(MANY * 1_000_000, loop.stop)
    try:
        loop.run()
    finally:
        nat.close()
    assert [bytes(buffer) in sent for buffer in receiver.buffers.values()] == [True] * PEERS, "everything arrived"
    assert nat.trains > BYTES / PACKET_BYTES / 2, "most packets came in trains of all of them"
    assert [link.statistics["lost"] for link in links] == [0] * PEERS
    assert [link.statistics["corrupt"] for link in receiver.buffers] == [0] * PEERS
