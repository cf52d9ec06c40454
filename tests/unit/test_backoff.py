"""The delays between dials, with a literal source of chance."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mproxy.policy.backoff import FIRST_CEILING_US, LAST_CEILING_US, Backoff, draw_from_system

ALMOST_ONE = 1 - 2 ** -48


def delays(backoff, count):
    return [backoff.next_delay_us() for _ in range(count)]


def test_at_once_then_doubling_to_the_limit():
    ceilings = [0, 50_000, 100_000, 200_000, 400_000, 800_000, 1_600_000, 3_200_000, 5_000_000, 5_000_000]
    halves = [ceiling // 2 for ceiling in ceilings]
    assert delays(Backoff(draw=lambda: 0.5), len(ceilings)) == halves


def test_full_jitter_reaches_from_nothing_to_just_below_the_ceiling():
    assert delays(Backoff(draw=lambda: 0.0), 12) == [0] * 12
    highest = delays(Backoff(draw=lambda: ALMOST_ONE), 12)
    assert highest[1] == FIRST_CEILING_US - 1
    assert highest[-1] == LAST_CEILING_US - 1


def test_each_delay_is_drawn_anew():
    draws = iter([0.9, 0.1, 0.2, 0.3])
    assert delays(Backoff(draw=draws.__next__), 4) == [0, 5_000, 20_000, 60_000]


@pytest.mark.parametrize("dials", [0, 1, 2, 30])
def test_reset_starts_again_at_once(dials):
    backoff = Backoff(draw=lambda: 0.5)
    delays(backoff, dials)
    backoff.reset()
    assert delays(backoff, 3) == [0, 25_000, 50_000]


def test_ceilings_may_be_set():
    assert delays(Backoff(draw=lambda: 0.5, first_us=20, last_us=50), 5) == [0, 10, 20, 25, 25]


@settings(deadline=None)
@given(st.lists(st.floats(0, ALMOST_ONE), min_size=1, max_size=100))
def test_no_delay_exceeds_its_ceiling(draws):
    backoff = Backoff(draw=iter(draws).__next__)
    for number in range(len(draws)):
        ceiling_us = 0 if number == 0 else min(FIRST_CEILING_US << (number - 1), LAST_CEILING_US)
        delay_us = backoff.next_delay_us()
        assert isinstance(delay_us, int)
        assert 0 <= delay_us <= ceiling_us


def test_the_systems_draws_lie_in_range_and_differ():
    drawn = [draw_from_system() for _ in range(200)]
    assert all(0.0 <= value < 1.0 for value in drawn)
    assert len(set(drawn)) > 190
    assert 0.2 < sum(drawn) / len(drawn) < 0.8
