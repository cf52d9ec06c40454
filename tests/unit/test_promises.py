"""How --memory-limit is shared: what every session is promised, and what it keeps of that beside a greedy one."""

import pytest
from tests.drivers._memory import charge_memory, memory_left

from mproxy._pool import limit_memory
from mproxy.policy.memory import LEAST_PROMISE_BYTES, SESSION_BYTES, limit_for, promises

MIB = 1 << 20


@pytest.mark.parametrize("whole", [MIB, 31 * MIB, 423 * MIB, 870 * MIB, 1 << 40])
@pytest.mark.parametrize("most", [1, 10, 1000, 1_000_000])
def test_half_is_promised_and_never_more(whole, most):
    sessions, each = promises(whole, most)
    assert 1 <= sessions <= most
    assert sessions * (each + SESSION_BYTES) <= max(whole // 2, SESSION_BYTES)
    assert each >= LEAST_PROMISE_BYTES or sessions == 1


def test_fewer_sessions_where_there_is_little():
    assert promises(31 * MIB, 1000)[0] == 31 * MIB // 2 // (SESSION_BYTES + LEAST_PROMISE_BYTES)
    assert promises(870 * MIB, 1000)[0] == 1000


def test_what_is_promised_is_not_free_for_others():
    before = memory_left()
    try:
        limit_memory(100 * MIB, 10, 5 * MIB)
        assert memory_left() <= 50 * MIB
        charge_memory(60 * MIB)
        assert memory_left() == 0
        charge_memory(-60 * MIB)
    finally:
        limit_memory(2**64 - 1)
    assert before - memory_left() < MIB


@pytest.mark.parametrize("most", [1, 1000, 10_000, 1_000_000])
def test_the_limit_that_is_said_to_be_enough_is_enough(most):
    """And not much more than that: an administrator buys it."""
    limit, held = 64 * MIB, 20 * MIB
    enough = limit_for(most, limit - limit // 8 - held, limit)
    assert promises(enough - enough // 8 - held, most)[0] == most
    less = enough * 9 // 10
    assert promises(max(0, less - less // 8 - held), most)[0] < most or most == 1
