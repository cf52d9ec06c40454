"""The event loop on real descriptors: when it polls for events before it sleeps, and what it watches."""

import gc
import os
import socket
import threading
import time
from pathlib import Path

import pytest
from tests.drivers._carriers import DrivenCarrier

from mproxy.carrier._tcp_carrier import TcpCarrier
from mproxy.ground.config import SproxyConfig
from mproxy.io._loop import Loop
from mproxy.io.bind import open_udp
from mproxy.transport._datagram_endpoint import DatagramEndpoint
from mproxy.transport.datagram_config import for_session

CROWD = 20  # slow calls at once: as many as make the loop careful
STEPS, STEP_SECONDS = 300, 0.0003


@pytest.fixture
def loop():
    return Loop()


class Leave(BaseException):
    """What a signal handler raises here."""


@pytest.mark.parametrize("way", ["watch", "timer", "soon"])
def test_what_a_signal_handler_raises_leaves_the_loop(loop, way):
    """Also from a callback that C code calls: nothing is printed, and the exception is not lost."""
    read_end, write_end = os.pipe()
    os.write(write_end, b"x")

    def leave(*_events):
        raise Leave

    loop.on_error = lambda error: pytest.fail(f"{error} is no error")
    loop.call_later(5_000_000, loop.stop)
    watch = loop.watch(read_end, leave if way == "watch" else lambda _events: None)
    if way == "timer":
        loop.call_later(1, leave)
    elif way == "soon":
        loop.call_soon_threadsafe(leave)
    with pytest.raises(Leave):
        loop.run()
    watch.close()
    os.close(read_end)
    os.close(write_end)


def test_a_loop_that_was_stopped_before_it_runs_does_not_begin_once(loop):
    seen = []
    loop.call_later(0, lambda: seen.append(1))
    loop.stop()
    loop.run()
    assert not seen
    loop.call_later(1000, loop.stop)
    loop.run()
    assert seen == [1]


def test_a_paused_watch_hears_nothing_until_it_is_set(loop):
    """A connection's end is ready in every turn, whatever is waited for."""
    ours, theirs = socket.socketpair()
    told = []

    def hear(events):
        told.append(events)
        watch.pause()

    watch = loop.watch(ours.fileno(), hear)
    watch.pause()
    watch.pause()
    theirs.close()
    loop.call_later(5000, loop.stop)
    loop.run()
    assert not told
    watch.set(read=True)
    loop.call_later(5000, loop.stop)
    loop.run()
    assert len(told) == 1
    loop.renew()
    loop.call_later(5000, loop.stop)
    loop.run()
    assert len(told) == 1
    watch.close()
    watch.pause()
    watch.set(read=True)
    ours.close()


def run_with_events(loop, count, interval_us):
    """Give the loop single events, so many and so far apart; returns the CPU seconds that it took for them."""
    read_end, write_end = os.pipe()
    left = count

    def write():
        nonlocal left
        left -= 1
        os.write(write_end, b"x")

    def on_event(_events):
        os.read(read_end, 1)
        if left:
            loop.call_later(interval_us, write)
        else:
            loop.stop()

    watch = loop.watch(read_end, on_event)
    write()
    begun = time.thread_time()
    loop.run()
    watch.close()
    os.close(read_end)
    os.close(write_end)
    return time.thread_time() - begun


def test_events_far_apart_are_slept_for(loop):
    """Goal: after looks in vain the loop looks less often: for 300 single events, 3 ms apart and so not a conversation,
    at most the looks of a doubling series (8, 16, 32, ... events between them)."""
    run_with_events(loop, 300, 3000)
    assert loop.looks_in_vain <= 6


def test_it_does_look(loop):
    """Goal: the test above could fail: events in quick succession do lead to a look."""
    for _ in range(20):
        run_with_events(loop, 40, 3000)
        if loop.looks_in_vain:
            return
    pytest.fail("800 single events in a row, and the loop never looked for the next one before sleeping")


def test_idle_loop_sleeps(loop):
    """Goal: a loop without events neither wakes up nor looks."""
    run_with_events(loop, 20, 1000)
    turns, looks = loop.turns, loop.looks_in_vain
    threading.Timer(0.5, loop.call_soon_threadsafe, (loop.stop,)).start()
    begun = time.thread_time()
    loop.run()
    assert loop.turns - turns <= 3
    assert loop.looks_in_vain == looks
    assert time.thread_time() - begun < 0.1


@pytest.mark.parametrize("pause_us, least", [(3000, 2), (0, 3 * STEPS // 5)], ids=["now and then", "all the time"])
def test_slow_work_has_what_other_work_leaves(loop, pause_us, least):
    """Goal: what thousands cause that come back at once does not wait, while the loop sleeps, because somebody else has
    a packet now and then; but it does not hold up packets that come all the time."""
    left, knocks = [STEPS], [0]

    def step():
        until = time.thread_time() + STEP_SECONDS
        while time.thread_time() < until:
            pass
        left[0] -= 1
        loop.call_slow(step) if left[0] else loop.stop()

    def knock():
        knocks[0] += 1
        for _ in range(1 if pause_us else 200):
            ours.sendto(bytes(1200), there)
        loop.call_later(pause_us, knock)

    with open_udp("127.0.0.1", 0) as sock, open_udp("127.0.0.1", 0) as ours:
        there = sock.getsockname()
        endpoint = DatagramEndpoint(loop, sock.fileno(), for_session(SproxyConfig(port=0).session, 1500))
        for _ in range(CROWD):
            loop.call_slow(step)
        knock()
        loop.run()
        endpoint.close()
    assert knocks[0] >= least  # two steps in each turn, if nothing held them back
    assert not pause_us or loop.slow_waits < STEPS // 2


def watchers_of(fd):
    """How many epoll instances of this process watch what has, or had, this number: proc(5), fdinfo."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            if os.readlink(link) == "anon_inode:[eventpoll]":
                found += f"tfd: {fd:8} " in Path(f"/proc/self/fdinfo/{link.name}").read_text()
        except FileNotFoundError:
            pass  # that of the look itself
    return found


def test_what_was_closed_is_watched_no_longer_though_somebody_has_a_duplicate(loop):
    """Right: a process that is just being started has one of everything. As long as it does, closing alone would not
    end the watching, and the next event would be for memory that is free by then."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        connection, _address = listener.accept()
    connection.setblocking(False)
    duplicate, fd = connection.dup(), connection.detach()
    before = watchers_of(fd)
    carrier = DrivenCarrier(TcpCarrier(loop, fd))
    carrier.begin()
    assert watchers_of(fd) == before + 1
    carrier.close(False)
    assert watchers_of(fd) == before
    wakes = carrier.wakes
    with peer, duplicate:
        for number in range(20):
            if number == 10:
                assert carrier.wakes == wakes
                del carrier
                gc.collect()
            peer.sendall(b"x")
            loop.call_later(1, loop.stop)
            loop.run()
        duplicate.setblocking(True)
        assert duplicate.recv(20, socket.MSG_WAITALL) == b"x" * 20
