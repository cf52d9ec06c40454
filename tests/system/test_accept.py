"""The gate that accepts connections for Python: on a real loop, also without a free descriptor."""

import contextlib
import os
import resource
import socket

import pytest

from mproxy.io._accept import AcceptGate
from mproxy.io._loop import Loop
from mproxy.io.accept_observer import AcceptObserver
from mproxy.io.bind import listen_on
from mproxy.io.slow_accept import SlowAcceptor

SECONDS = 10


class Told(AcceptObserver):
    """What the gate says."""

    def __init__(self):
        self.words = []

    def on_accept_paused(self, why):
        self.words.append(why)

    def on_accept_resumed(self):
        self.words.append("resumed")


@pytest.fixture
def no_descriptors():
    """A function that takes all there are, and gives them back when its result is closed."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    @contextlib.contextmanager
    def take_all():
        highest = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 8, limits[1]))
        with contextlib.ExitStack() as taken, contextlib.suppress(OSError):
            try:
                while True:
                    taken.callback(os.close, os.dup(2))
            except OSError:
                yield
    yield take_all
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def run_until(loop, is_so):
    """Turn the loop until it is so."""
    def look():
        if is_so() or loop.now() >= end:
            loop.stop()
        else:
            loop.call_later(1000, look)
    end = loop.now() + SECONDS * 1_000_000
    loop.call_later(0, look)
    loop.run()
    assert is_so()


def test_strangers_wait_while_there_is_no_descriptor(no_descriptors):
    loop, told, guests = Loop(), Told(), []
    gate = AcceptGate(loop, told, takes_spare=True)
    listeners = listen_on(["127.0.0.1", "::1"], 0, named=False)
    acceptors = [SlowAcceptor(loop, gate, listener, lambda sock, address: guests.append((sock, address)))
                 for listener in listeners]
    callers = [socket.create_connection(listener.getsockname()[:2]) for listener in listeners]
    with no_descriptors():
        run_until(loop, lambda: told.words)
        assert not guests
    run_until(loop, lambda: len(guests) == len(callers))
    assert {address[:2] for _, address in guests} == {caller.getsockname()[:2] for caller in callers}
    run_until(loop, lambda: "resumed" in told.words)
    assert told.words == [os.strerror(24), "resumed"]
    for one in (*acceptors, *callers, *(sock for sock, _ in guests)):
        one.close()
