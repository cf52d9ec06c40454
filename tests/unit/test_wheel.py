"""The timer wheel: no timer is early (except those beyond its range), late or lost."""

from hypothesis import given
from hypothesis import strategies as st
from tests.drivers._relay import TimeoutWheel

TICK_US = 250_000
REACH_US = 511 * TICK_US
START = 1_000_000_000


@given(st.lists(st.integers(0, 100_000_000), max_size=30), st.lists(st.integers(0, 9_000_000), max_size=40))
def test_due_within_a_tick_and_never_early(delays, pauses):
    wheel = TimeoutWheel(START)
    for n, delay in enumerate(delays):
        wheel.put(n, START + delay)
    now, swept_at = START, {}
    for pause in [*pauses, 200_000_000]:
        before, now = now, now + pause
        for n in wheel.sweep(now):
            assert START + delays[n] <= now and n not in swept_at
            assert START + delays[n] >= before - TICK_US or before == START
            swept_at[n] = now
    assert len(swept_at) == len(delays) and wheel.count == 0


def test_what_is_beyond_the_wheel_falls_out_early_and_can_be_put_back():
    wheel = TimeoutWheel(START)
    at = START + 5 * REACH_US // 2
    wheel.put("far", at)
    now, returns = START, 0
    while now < at:
        now += TICK_US
        if wheel.sweep(now) and now < at:
            returns += 1
            wheel.put("far", at)
    assert returns == 2 and wheel.count == 0


def test_moving_and_taking_out():
    wheel = TimeoutWheel(START)
    for name in "abc":
        wheel.put(name, START + 1_000_000)
    wheel.put("a", START + 3_000_000)
    wheel.take("b")
    wheel.take("b")
    assert wheel.count == 2
    assert wheel.sweep(START + 1_250_000) == ["c"]
    assert wheel.sweep(START + 3_250_000) == ["a"]


def test_a_time_that_has_passed_falls_out_in_the_next_sweep():
    wheel = TimeoutWheel(START)
    wheel.sweep(START + 5_000_000)
    wheel.put("late", START)
    assert wheel.sweep(START + 5_000_001) == []
    assert wheel.sweep(START + 5_250_000) == ["late"]


def test_a_long_sleep_loses_nothing():
    wheel = TimeoutWheel(START)
    for n in range(600):
        wheel.put(n, START + n * TICK_US)
    assert sorted(wheel.sweep(START + 10 * REACH_US)) == list(range(600))
