"""The pauses between dials, with a literal clock and literal random numbers."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mproxy.policy.backoff import (
    FIRST_CEILING_US,
    LAST_CEILING_US,
    LAST_HURRY_US,
    LAST_PAUSE_US,
    LAST_SILENT_US,
    NEW_US,
    NEWCOMER_US,
    REPEATS_US,
    Backoff,
    draw_from_system,
)

ALMOST_ONE = 1 - 2 ** -48
SECOND_US = 1_000_000


def refused(backoff, now):
    """The delay to the next dial when one fails at once."""
    later, sooner = backoff.next_us(now), backoff.after_failure_us(now)
    return later if sooner is None else sooner


def unanswered(backoff, now):
    """The same when dials are not answered at all."""
    return backoff.next_us(now)


def dials(backoff, kind, until):
    """The times of all dials of a series, including the first, up to a given time."""
    now, times = 0, []
    while now < until:
        times.append(now)
        now += kind(backoff, now)
    return times


def gaps(times):
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def test_at_once_then_doubling_to_the_limit():
    backoff = Backoff(draw=lambda: 0.0)
    ceilings = [0, 50_000, 100_000, 200_000, 400_000, 800_000, 1_000_000, 1_000_000]
    assert [backoff.after_failure_us(0) for _ in ceilings] == [ceiling // 2 for ceiling in ceilings]


@pytest.mark.parametrize("drawn, share", [(0.0, 0.5), (ALMOST_ONE, 1.0)])
def test_jitter_reaches_from_half_to_the_whole(drawn, share):
    backoff = Backoff(draw=lambda: drawn)
    delays = [backoff.after_failure_us(0) for _ in range(12)]
    assert delays[1] == pytest.approx(FIRST_CEILING_US * share, abs=1)
    assert delays[-1] == pytest.approx(LAST_CEILING_US * share, abs=1)


@pytest.mark.parametrize("kind, half_us", [(refused, 500_000), (unanswered, 1_000_000)])
def test_in_two_minutes_a_path_that_comes_back_is_dialled_soon(kind, half_us):
    """Right: half of all moments have a dial within so long behind them: refused ones follow within a second, of
    unanswered ones each repeats its own SYN besides."""
    backoff = Backoff()
    times = dials(backoff, kind, NEW_US - REPEATS_US)
    waits = [next(at for at in [*times, NEW_US] if at >= moment) - moment
             for moment in range(2 * SECOND_US, NEW_US - 10 * SECOND_US, 10_000)]
    assert sorted(waits)[len(waits) // 2] <= half_us
    assert max(waits) <= LAST_SILENT_US


@pytest.mark.parametrize("kind, last_of_new", [(refused, NEW_US), (unanswered, NEW_US - REPEATS_US)])
@pytest.mark.parametrize("drawn", [0.0, 0.5, ALMOST_ONE])
def test_then_a_firewall_that_counts_half_a_minute_forgets(kind, last_of_new, drawn):
    """Right: from the last SYN of the new outage, repetitions included, more than 30 s pass at once, less than 40 s
    for somebody who waits; then more and more, to ten minutes, but never longer than 0.6 of the outage."""
    backoff = Backoff(draw=lambda: drawn)
    times = dials(backoff, kind, 3600 * SECOND_US)
    new, old = [at for at in times if at < last_of_new], [at for at in times if at >= last_of_new]
    assert NEW_US + 30 * SECOND_US < old[0] < NEW_US + 38 * SECOND_US
    assert max(gaps(new)) <= LAST_SILENT_US
    assert min(gaps(old)) > 50 * SECOND_US
    assert gaps(old)[-1] > 610 * SECOND_US
    assert max(gaps(old)) <= LAST_PAUSE_US
    assert all(gap <= 0.6 * at for at, gap in zip(old, gaps(old), strict=False))


def test_a_day_costs_few_dials():
    for kind in (refused, unanswered):
        assert len(dials(Backoff(), kind, 86_400 * SECOND_US)) < 1200


def test_a_series_begins_anew():
    backoff = Backoff(draw=lambda: 0.0)
    dials(backoff, refused, 1000 * SECOND_US)
    assert backoff.is_old(1000 * SECOND_US)
    backoff.begin(1000 * SECOND_US)
    assert not backoff.is_old(1000 * SECOND_US)
    assert [backoff.after_failure_us(1000 * SECOND_US) for _ in range(3)] == [0, 25_000, 50_000]


def test_somebody_who_writes_each_second_is_not_followed_for_ever():
    """Right: at once the first time; then the pauses grow beyond what a firewall counts."""
    backoff = Backoff()
    followed = [at for at in range(0, 3600 * SECOND_US, SECOND_US) if backoff.may_hurry(at)]
    assert followed[:3] == [0, SECOND_US, 3 * SECOND_US]
    assert gaps(followed) == sorted(gaps(followed))
    assert gaps(followed)[-1] == LAST_HURRY_US


def test_somebody_who_has_just_connected_waits_half_a_minute_at_most():
    backoff = Backoff()
    for at in range(0, 3600 * SECOND_US, SECOND_US):
        backoff.may_hurry(at)
    assert backoff.may_hurry(3600 * SECOND_US + NEWCOMER_US, NEWCOMER_US)
    assert not backoff.may_hurry(3600 * SECOND_US + 2 * NEWCOMER_US)


@settings(deadline=None)
@given(st.lists(st.floats(0, ALMOST_ONE), min_size=1, max_size=100))
def test_no_delay_exceeds_its_ceiling(draws):
    backoff = Backoff(draw=iter(draws).__next__)
    for number in range(len(draws)):
        ceiling_us = 0 if number == 0 else min(FIRST_CEILING_US << (number - 1), LAST_CEILING_US)
        delay_us = backoff.after_failure_us(0)
        assert isinstance(delay_us, int)
        assert ceiling_us // 2 <= delay_us <= ceiling_us


def test_the_systems_draws_lie_in_range_and_differ():
    drawn = [draw_from_system() for _ in range(200)]
    assert all(0.0 <= value < 1.0 for value in drawn)
    assert len(set(drawn)) > 190
    assert 0.2 < sum(drawn) / len(drawn) < 0.8
