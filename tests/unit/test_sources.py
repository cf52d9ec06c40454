"""Sources: how many failures each may have, where clients are known, and what counts as one source."""

import pytest

from mproxy.policy.sources import FAILURE_US, FAILURES, KNOWN_US, MOST_SOURCES, Sources, source_of

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


def test_failures_block_and_are_forgotten():
    sources = Sources()
    told = [sources.failed(A, 0) for _ in range(FAILURES)]
    assert told == [False] * (FAILURES - 1) + [True]
    assert sources.blocked(A, 0) and not sources.blocked(B, 0)
    assert not sources.failed(A, 0), "told once"
    assert sources.blocked(A, FAILURE_US - 1) and not sources.blocked(A, 2 * FAILURE_US)
    assert sources.failed(A, 2 * FAILURE_US), "and again"


def test_slow_failures_never_block():
    sources = Sources()
    for n in range(10 * FAILURES):
        sources.failed(A, n * FAILURE_US)
        assert not sources.blocked(A, n * FAILURE_US)


def test_long_series_does_not_block_for_long():
    sources = Sources()
    for _ in range(100_000):
        sources.failed(A, 0)
    assert not sources.blocked(A, (FAILURES + 1) * FAILURE_US)


def test_many_sources_take_no_memory():
    sources = Sources()
    for n in range(2 * MOST_SOURCES):
        sources.failed(str(n), 0)
        sources.welcomed(str(n), 0)
    assert len(sources._failures) == len(sources._welcomed) == MOST_SOURCES


def test_where_known_people_are_nobody_is_shut_out():
    """However many failures their neighbours have, before or after."""
    sources = Sources()
    for _ in range(FAILURES):
        sources.failed(A, 0)
    sources.welcomed(A, 1)
    assert not sources.blocked(A, 1) and not sources.blocked(A, KNOWN_US)
    assert not any(sources.failed(A, 2) for _ in range(10 * FAILURES)), "what is not so is not told"
    for _ in range(FAILURES + 1):
        sources.failed(A, KNOWN_US)
    assert not sources.blocked(A, KNOWN_US) and sources.blocked(A, KNOWN_US + 1)
