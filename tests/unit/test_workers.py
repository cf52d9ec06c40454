"""What workers hand back to the loop: every result once, whichever job fails; and how many threads are woken."""

import itertools
import threading

import pytest

from mproxy.transfer import workers as module
from mproxy.transfer.workers import Workers

SECONDS = 30


class Loop:
    """Calls wait until the test runs a turn."""

    def __init__(self):
        self.calls, self.called = [], threading.Event()

    def call_soon_threadsafe(self, callback):
        self.calls.append(callback)
        self.called.set()

    def turn(self):
        assert self.called.wait(SECONDS)
        self.called.clear()
        self.calls.pop(0)()


@pytest.fixture
def no_time_passes(monkeypatch):
    monkeypatch.setattr(module.time, "monotonic", lambda: 0.0)


@pytest.fixture
def all_takes_long(monkeypatch):
    monkeypatch.setattr(module.time, "monotonic", itertools.count().__next__)


def do(workers, jobs, results):
    """Submit jobs and wait until all are done."""
    for job in jobs:
        workers.submit(job, lambda result, error: results.append((result, error)))
    over = threading.Event()
    workers.submit(over.set, lambda _result, _error: None)
    assert over.wait(SECONDS)  # one thread, in order


def nobody(_result, _error):
    """Ignores the result."""


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


def test_short_jobs_are_for_one_thread(no_time_passes):
    """Goal: jobs that take only a moment wake one thread, and the loop once."""
    loop, threads = Loop(), set()
    workers = Workers(loop.call_soon_threadsafe, 4)
    begin, over = threading.Event(), threading.Event()
    workers.submit(lambda: begin.wait(SECONDS), nobody, short=True)
    for _ in range(100):
        workers.submit(lambda: threads.add(threading.get_ident()), nobody, short=True)
    workers.submit(over.set, nobody, short=True)
    begin.set()
    assert over.wait(SECONDS)
    assert len(threads) == 1
    loop.turn()
    assert loop.calls == []


def test_short_jobs_that_are_not_are_shared(all_takes_long):
    """Goal: two jobs that wait for each other finish, since a second thread starts as soon as some jobs took long."""
    workers = Workers(Loop().call_soon_threadsafe, 2)
    meeting, met = threading.Barrier(2, timeout=SECONDS), []
    begin, over = threading.Event(), threading.Semaphore(0)
    for _ in range(module.OF_THE_LAST):
        workers.submit(lambda: begin.wait(SECONDS), nobody, short=True)
    for _ in range(2):
        workers.submit(lambda: (met.append(meeting.wait()), over.release()), nobody, short=True)
    begin.set()
    assert over.acquire(timeout=SECONDS) and over.acquire(timeout=SECONDS)
    assert sorted(met) == [0, 1]


def test_a_long_job_does_not_wait_for_short_ones(no_time_passes):
    workers = Workers(Loop().call_soon_threadsafe, 2)
    done, over = threading.Event(), threading.Event()
    workers.submit(lambda: done.wait(SECONDS) and over.set(), nobody, short=True)
    workers.submit(done.set, nobody)
    assert over.wait(SECONDS)


def test_a_short_job_does_not_wait_for_long_ones(no_time_passes):
    workers = Workers(Loop().call_soon_threadsafe, 2)
    done, over = threading.Event(), threading.Event()
    workers.submit(lambda: done.wait(SECONDS) and over.set(), nobody)
    workers.submit(done.set, nobody, short=True)
    assert over.wait(SECONDS)


def test_a_long_job_does_not_keep_the_results_of_short_ones(no_time_passes):
    loop, results = Loop(), []
    workers = Workers(loop.call_soon_threadsafe, 1)
    begin, told, over = threading.Event(), threading.Event(), threading.Event()
    workers.submit(lambda: begin.wait(SECONDS), nobody, short=True)
    workers.submit(lambda: 1, lambda result, _error: results.append(result), short=True)
    workers.submit(lambda: told.wait(SECONDS) and over.set(), nobody)
    begin.set()
    loop.turn()
    assert results == [1]
    told.set()
    assert over.wait(SECONDS)
