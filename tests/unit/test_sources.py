"""Strangers: how many from one source, how many failures, and what counts as one source."""

import pytest

from mproxy.policy.sources import FAILURE_US, FAILURES, MOST_SOURCES, Sources, source_of

A, B = "10.0.0.1", "10.0.0.2"


@pytest.mark.parametrize(("host", "source"), [
    ("10.0.0.1", "10.0.0.1"),
    ("::ffff:10.0.0.1", "10.0.0.1"),
    ("fd00:1:2:3:4:5:6:7", "fd00:1:2:3::/64"),
    ("fd00:1:2:3::9", "fd00:1:2:3::/64"),
    ("fd00:1:2:4::9", "fd00:1:2:4::/64"),
    ("fe80::1%eth0", "fe80::/64"),
    ("::1", "::/64"),
])
def test_source_of(host, source):
    assert source_of(host) == source


def test_oldest_of_a_source_that_has_its_share_gives_way():
    sources = Sources(40)
    assert [sources.arrived(A, n) for n in range(12)] == [None] * 10 + [0, 0]
    sources.left(A, 0)
    assert sources.arrived(A, 12) == 1
    assert sources.arrived(B, 99) is None, "another source has a share of its own"


def test_small_limits_are_not_divided():
    sources = Sources(3)
    assert [sources.arrived(A, n) for n in range(4)] == [None, None, None, 0]


def test_who_left_counts_no_more():
    sources = Sources(40)
    for n in range(1000):
        assert sources.arrived(A, n) is None
        sources.left(A, n)
        sources.left(A, n)
    assert not sources._waiting


def test_failures_block_and_are_forgotten():
    sources = Sources(40)
    told = [sources.failed(A, 0) for _ in range(FAILURES)]
    assert told == [False] * (FAILURES - 1) + [True]
    assert sources.blocked(A, 0) and not sources.blocked(B, 0)
    assert not sources.failed(A, 0), "told once"
    assert sources.blocked(A, FAILURE_US - 1) and not sources.blocked(A, 2 * FAILURE_US)
    assert sources.failed(A, 2 * FAILURE_US), "and again"


def test_slow_failures_never_block():
    sources = Sources(40)
    for n in range(10 * FAILURES):
        sources.failed(A, n * FAILURE_US)
        assert not sources.blocked(A, n * FAILURE_US)


def test_long_series_does_not_block_for_long():
    sources = Sources(40)
    for _ in range(100_000):
        sources.failed(A, 0)
    assert not sources.blocked(A, (FAILURES + 1) * FAILURE_US)


def test_many_sources_take_no_memory():
    sources = Sources(40)
    for n in range(2 * MOST_SOURCES):
        sources.failed(str(n), 0)
    assert len(sources._failures) == MOST_SOURCES
