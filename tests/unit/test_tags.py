"""Routing tags: who can make one, how long it is valid, and that it tells an eavesdropper nothing."""

import random

import pytest

from mproxy.policy.tags import LEAST_PERIOD_S, NONCE_BYTES, PERIODS, Tags

NOON = 1_800_000_000
WEEK_US = 7 * 86_400 * 1_000_000


def test_only_the_key_makes_tags_that_hold():
    ours, theirs = Tags(b"one key", WEEK_US), Tags(b"another", WEEK_US)
    tag = ours.make(b"abc", NOON)
    assert 0 < tag < 1 << 64
    assert ours.holds(tag, NOON) and not theirs.holds(tag, NOON)
    assert not ours.holds(0, NOON)
    for bit in range(64):
        assert not ours.holds(tag ^ 1 << bit, NOON), f"bit {bit} means nothing"


@pytest.mark.parametrize("node", [0, 17, 255])
def test_it_leads_to_node_and_worker(node, seed):
    chance, tags, others = random.Random(seed), Tags(b"key", WEEK_US, node), Tags(b"key", WEEK_US, 1)
    for worker in (0, 1, 17, 63):
        tag = tags.make(chance.randbytes(NONCE_BYTES), NOON, worker)
        assert tags.worker(tag, NOON + 60) == worker
        assert tag >> 56 == node, "whoever stands in front reads it in the first byte"
        assert others.holds(tag, NOON) and others.worker(tag, NOON) is None, "of another node"
        assert tags.worker(tag, NOON + 9 * 86_400) is None, "too old"
        for bit in range(64):
            assert tags.worker(tag ^ 1 << bit, NOON) is None, f"forged at bit {bit}"
    assert tags.worker(0, NOON) is None


def test_it_holds_after_a_restart():
    assert Tags(b"key", WEEK_US).holds(Tags(b"key", WEEK_US).make(b"abc", NOON), NOON + 60)


def test_it_holds_as_long_as_a_session_waits_and_not_much_longer():
    tags = Tags(b"key", WEEK_US)
    for begin in range(NOON, NOON + 86_400, 3_571):
        tag = tags.make(b"abc", begin)
        assert tags.holds(tag, begin + 7 * 86_400)
        assert not tags.holds(tag, begin + 9 * 86_400)


def test_a_clock_that_went_back_makes_strangers_and_no_errors():
    tag = Tags(b"key", 1_000_000).make(b"abc", NOON)
    assert not Tags(b"key", 1_000_000).holds(tag, -5)
    assert not Tags(b"key", 1_000_000).holds(tag, NOON + (PERIODS + 1) * LEAST_PERIOD_S)


def test_no_two_are_alike(seed):
    chance = random.Random(seed)
    tags = Tags(b"key", WEEK_US)
    made = {tags.make(chance.randbytes(NONCE_BYTES), NOON) for _ in range(500)}
    assert len(made) > 495


def test_guesses_do_not_hold(seed):
    chance = random.Random(seed)
    tags = Tags(b"key", WEEK_US)
    assert not any(tags.holds(chance.getrandbits(64), NOON) for _ in range(2000))
