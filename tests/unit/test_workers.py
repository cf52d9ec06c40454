"""What workers give back to the loop: all of it, once, whoever fails."""

import threading

import pytest

from mproxy.datagram.workers import Workers


class Loop:
    """Calls wait until the test turns."""

    def __init__(self):
        self.calls, self.called = [], threading.Event()

    def call_soon_threadsafe(self, callback):
        self.calls.append(callback)
        self.called.set()

    def turn(self):
        assert self.called.wait(30)
        self.called.clear()
        self.calls.pop(0)()


def do(workers, jobs, results):
    """Submit jobs that are all over when this returns."""
    for job in jobs:
        workers.submit(job, lambda result, error: results.append((result, error)))
    over = threading.Event()
    workers.submit(over.set, lambda _result, _error: None)
    assert over.wait(30)  # one thread, in order


def test_many_results_in_one_call():
    loop, results = Loop(), []
    workers = Workers(loop.call_soon_threadsafe, 1)
    do(workers, [lambda number=number: number for number in range(100)], results)
    assert results == []
    loop.turn()
    assert results == [(number, None) for number in range(100)]
    assert len(loop.calls) <= 1


def test_who_fails_does_not_cost_the_others_their_results():
    loop, results = Loop(), []
    workers = Workers(loop.call_soon_threadsafe, 1)

    def fail(_result, _error):
        raise LookupError

    workers.submit(lambda: None, fail)
    do(workers, [lambda: 1], results)
    with pytest.raises(LookupError):
        loop.turn()
    loop.turn()
    assert results == [(1, None)]
