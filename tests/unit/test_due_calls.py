"""Calls in C that a loop makes when they are due: order, once, and never so many that others have no turn."""

import pytest
from tests.drivers._pydues import PyDues

from mproxy.io._loop import Loop

COUNT = 600
LATEST_US = 30_000_000


@pytest.fixture
def loop():
    return Loop()


def run_until(loop, is_done):
    """Run the loop until that is so, 30 s at most."""
    def look():
        if is_done():
            loop.stop()
        else:
            loop.call_later(1000, look)
    late = loop.call_later(LATEST_US, loop.stop)
    look()
    loop.run()
    late.cancel()
    assert is_done()


def test_they_come_in_order_and_once(loop):
    dues = PyDues(loop, 4)
    now = loop.now()
    for number, after in ((0, 3000), (1, 1000), (2, 2000), (3, 4000)):
        dues.set(number, now + after)
    run_until(loop, lambda: len(dues.rung) >= 4 and loop.now() > now + 8000)
    assert [number for number, _turn in dues.rung] == [1, 2, 0, 3]


def test_the_loop_wakes_for_them_alone(loop):
    """There is no timer before and no event; a call comes at the time that it was set to last."""
    dues = PyDues(loop, 2)
    now = loop.now()
    dues.set(0, now + 3_600_000_000)
    dues.set(0, now + 3000)
    dues.set(1, now + 1000)
    dues.cancel(1)
    dues.cancel(1)
    late = loop.call_later(LATEST_US, loop.stop)
    dues.then = loop.stop
    loop.run()
    late.cancel()
    assert [number for number, _turn in dues.rung] == [0] and loop.now() >= now + 3000


def test_one_that_sets_itself_anew_comes_again(loop):
    dues = PyDues(loop, 1)
    dues.set(0, loop.now() + 1000, again_us=500)
    run_until(loop, lambda: len(dues.rung) >= 5)


def test_many_at_once_leave_others_a_turn(loop):
    """All are called, but events are seen in between."""
    dues = PyDues(loop, COUNT)
    for number in range(COUNT):
        dues.set(number, loop.now() - 1)
    run_until(loop, lambda: len(dues.rung) == COUNT)
    assert sorted(number for number, _turn in dues.rung) == list(range(COUNT))
    assert len({turn for _number, turn in dues.rung}) > 1
