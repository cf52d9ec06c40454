"""The event loop on real descriptors: when it polls for events before it sleeps."""

import os
import threading
import time

import pytest

from mproxy.io._loop import Loop


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
