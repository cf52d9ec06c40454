"""Packets of those who come wait, packets of those who are there do not."""

import socket
from contextlib import suppress
from functools import partial

from tests.drivers._pybacklog import MOST_BYTES, PyBacklog

from mproxy.io._loop import Loop
from mproxy.io._socket import Target
from mproxy.io.bind import open_udp
from mproxy.transport._datagram_endpoint import DatagramEndpoint
from mproxy.transport.datagram_config import DatagramConfig
from mproxy.transport.observers import DatagramObserver, LinkHandler

PATIENCE_US = 30_000_000
LOOK_US = 5_000
KEY = b"k"
COMERS = 100
RUN_BYTES = 60_000


def test_the_oldest_come_first_as_they_were():
    backlog = PyBacklog()
    backlog.add(b"abcdefgh", 2, 6, 2, b"one")
    backlog.add(b"x", 0, 1, 1, b"another")
    assert backlog.take() == (b"cdef", 2, b"one", 2)
    assert backlog.take() == (b"x", 1, b"another", 1)
    assert backlog.take() is None and backlog.held == 0


def test_when_there_is_no_room_the_oldest_go():
    """Goal: whatever comes, storage has a bound, and the newest are kept, in their order."""
    backlog = PyBacklog()
    count = 3 * MOST_BYTES // RUN_BYTES
    for number in range(count):
        backlog.add(number.to_bytes(4) + bytes(RUN_BYTES), 0, RUN_BYTES, 1000, b"they")
        assert backlog.held <= MOST_BYTES
    kept = []
    while run := backlog.take():
        kept.append(int.from_bytes(run[0][:4]))
    assert kept == list(range(count - len(kept), count))
    assert len(kept) > MOST_BYTES // RUN_BYTES * 9 // 10 and backlog.dropped == count - len(kept)
    assert backlog.held == 0


class Echo(LinkHandler, DatagramObserver):
    """Who is there: each link gets back what it sends. `note()` is called before."""

    def __init__(self):
        self.note = None

    def on_link(self, link):
        link.handler = self

    def on_established(self, link):
        link.fill(bytearray(1))

    def on_filled(self, link):
        link.fill(bytearray(1))
        link.send(KEY)
        self.note()


class Person(LinkHandler):
    """Who types a key, and waits for it."""

    def __init__(self):
        self.echoes = 0
        self.is_there = False

    def on_established(self, link):
        self.is_there = True
        link.fill(bytearray(1))

    def on_filled(self, link):
        self.echoes += 1
        link.fill(bytearray(1))


def run_until(loop, condition):
    """Run until it is so."""
    end = loop.now() + PATIENCE_US

    def look():
        if condition() or loop.now() >= end:
            loop.stop()
        else:
            loop.call_later(LOOK_US, look)

    loop.call_later(0, look)
    loop.run()
    assert condition()


def first_packet(loop, endpoint):
    """What whoever dials sends first."""
    with open_udp("127.0.0.1", 0) as deaf:
        link = endpoint.connect(Target("deaf", [(socket.AF_INET, deaf.getsockname())]), LinkHandler())
        found = []

        def look():
            if not found:
                with suppress(BlockingIOError):
                    found.append(deaf.recv(2000))
            return bool(found)

        run_until(loop, look)
        link.abort(1, b"")
    return found[0]


def answers(comers):
    """How many have been answered, of those that have not been counted."""
    count = 0
    while True:
        try:
            comers.recv(2000)
        except BlockingIOError:
            return count
        count += 1


def test_a_key_does_not_wait_for_those_who_come():
    """Goal: a hundred dial, and behind their packets, in the same queue, comes somebody's key. It is answered while
    most of them wait; then all of these are."""
    loop, echo, person = Loop(), Echo(), Person()
    answered, when_typed = [0], []
    config = DatagramConfig(congestion="fixed")
    with open_udp("127.0.0.1", 0) as here, open_udp("127.0.0.1", 0) as there, open_udp("127.0.0.1", 0) as comers:
        place = here.getsockname()
        server = DatagramEndpoint(loop, here.fileno(), config, echo)
        client = DatagramEndpoint(loop, there.fileno(), config)
        link = client.connect(Target("here", [(socket.AF_INET, place)]), person)
        run_until(loop, lambda: person.is_there)
        syn = first_packet(loop, client)

        def count():
            answered[0] += answers(comers)
            return answered[0]

        echo.note = lambda: when_typed.append(count())
        for _ in range(COMERS):
            comers.sendto(syn, place)
        link.send(KEY)
        run_until(loop, partial(bool, when_typed))
        assert when_typed[0] < COMERS // 2
        run_until(loop, lambda: person.echoes == 1 and count() == COMERS)
        client.close()
        server.close()
