"""The number of connections of a rule, and of all rules, across all workers."""

import os

import pytest
from tests.drivers._relay import DrivenTally


def in_child(work):
    """Runs `work()` in a fork; its exit status is the number that it returns."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            status = work()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_limit_holds_for_all_workers_together():
    tally = DrivenTally(2)

    def other_worker():
        tally.be(1)
        return sum(tally.try_enter(7, 5) for _ in range(10))

    assert [tally.try_enter(7, 5) for _ in range(2)] == [True, True]
    assert in_child(other_worker) == 3
    assert tally.count(7) == 5
    assert not tally.try_enter(7, 5)


def test_rules_are_counted_apart_and_without_a_limit_too():
    tally = DrivenTally()
    assert all(tally.try_enter(1, 0) for _ in range(100))
    assert (tally.count(1), tally.count(2)) == (100, 0)
    assert not tally.try_enter(1, 100)
    assert tally.try_enter(1, 101)


def test_any_key_has_a_place():
    """Names may have negative hashes, and different ones in each process."""
    tally = DrivenTally()
    for key in (-5, -(2**60), "::1", "127.0.0.1", *map(str, range(50))):
        assert tally.try_enter(key, 0) and tally.count(key) >= 1


def test_all_rules_are_counted_apart_from_each():
    tally = DrivenTally()
    assert [tally.try_enter(None, 2) for _ in range(3)] == [True, True, False]
    assert [tally.count(key) for key in (0, 1, 1_048_575, 1_048_576)] == [0, 0, 0, 0]
    assert tally.try_enter(0, 1)


def test_a_dead_worker_s_connections_leave_the_sum():
    tally = DrivenTally(2)
    assert in_child(lambda: (tally.be(1), sum(tally.try_enter(7, 3) for _ in range(9)))[1]) == 3
    assert not tally.try_enter(7, 3)
    tally.forget(1)
    assert tally.count(7) == 0
    assert tally.try_enter(7, 3)


def test_workers_at_the_same_time_never_let_one_too_many_in():
    tally, start = DrivenTally(4), os.pipe()
    pids = []
    for number in range(4):
        pid = os.fork()
        if pid == 0:
            tally.be(number)
            os.read(start[0], 1)
            os._exit(sum(tally.try_enter(7, 100) for _ in range(1000)))
        pids.append(pid)
    os.write(start[1], b"gogo")
    entered = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert 0 < sum(entered) <= 100
    assert tally.count(7) == sum(entered)


def test_workers_that_are_none():
    tally = DrivenTally(2)
    for wrong in (tally.be, tally.forget):
        with pytest.raises(IndexError):
            wrong(2)


def test_connections_that_outlive_a_worker_count_while_they_are_taken_over():
    """Goal: no other worker admits a caller in their place; and they do not count twice afterwards."""
    tally = DrivenTally(2)
    for alive in (3, 2, 2):  # a worker dies with so many, and the next one finds them again, twice
        def worker(alive=alive):
            tally.be(1)
            before = tally.count(7)
            again = sum(tally.try_enter(7, 0) for _ in range(alive))
            return 0 if tally.count(7) == before + again and not tally.try_enter(7, 3) else 1

        def settled(alive=alive):
            tally.be(1)
            entered = [tally.try_enter(7, 0) for _ in range(alive)]
            tally.settled()
            return 0 if tally.count(7) == len(entered) == alive else 1

        if alive == 3:
            assert in_child(settled) == 0 and tally.count(7) == 3
        assert in_child(worker) == 0
        assert in_child(settled) == 0 and tally.count(7) == alive
    tally.forget(1)
    assert tally.count(7) == 0


def test_what_a_worker_may_have_of_a_bound_is_what_the_others_leave():
    """Goal: all of it while they have none, and its own part however many they have."""
    tally = DrivenTally(2)

    def other_worker(count):
        tally.be(1)
        entered = sum(tally.try_enter(7, 0) for _ in range(count))
        if count == 3:
            tally.settled()
        return entered

    assert (tally.share_of(7, 10), tally.share_of(7, 1)) == (10, 1)
    assert in_child(lambda: other_worker(3)) == 3
    assert [tally.share_of(7, most) for most in (10, 7, 4, 3, 1)] == [7, 4, 2, 1, 1]
    assert tally.share_of(8, 10) == 10
    assert in_child(lambda: other_worker(20)) == 20  # of which 3 are the same, taken over
    tally.try_enter(7, 0)
    assert (tally.share_of(7, 100), tally.share_of(7, 10)) == (80, 5)
