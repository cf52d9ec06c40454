"""Random schedules of writes, reads, stalls, half-closes, resets, cuts, delayed and superseded carriers.

A part of what `make soak` does: always the same seeds, and a few fresh ones whose first seed is printed. A
failure says how to replay it.
"""

import random

import pytest

from tests.sim.schedule import play

BLOCK = 60
FRESH = random.SystemRandom().randrange(1 << 40)


@pytest.mark.parametrize("first", range(0, 10 * BLOCK, BLOCK))
def test_schedules(first):
    for seed in range(first, first + BLOCK):
        play(seed)


def test_fresh_schedules():
    print(f"first seed {FRESH}")
    for seed in range(FRESH, FRESH + BLOCK):
        play(seed)


@pytest.mark.parametrize("first", [0, FRESH], ids=["known", "fresh"])
def test_early_answers(first):
    """Daemons that answer and close while their clients still upload: each answer arrives whole, then the reset."""
    for seed in range(first, first + BLOCK):
        play(seed, "early-answer")


@pytest.mark.parametrize("first", [0, FRESH], ids=["known", "fresh"])
def test_dying_processes(first):
    """Either side's process dies at any moment, and its successor continues with its states and rings."""
    revived = sum(play(seed, "dying").world.revived for seed in range(first, first + 2 * BLOCK))
    assert revived > BLOCK


@pytest.mark.parametrize("seed", [34, 75, 209, 638, 873, 984, 1478, 2211])
def test_schedules_that_once_failed(seed):
    """Kept because each showed a fault of the protocol that a unit test now holds; see tests/unit/test_session.py."""
    play(seed)


def test_a_seed_alone_replays_a_schedule():
    one, other = play(7), play(7)
    assert one.world.clock.now == other.world.clock.now
    assert [carrier.down.total for carrier in one.world.carriers] == [
        carrier.down.total for carrier in other.world.carriers]
