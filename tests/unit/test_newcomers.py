"""How often each source may come, in literal time."""

import os

import pytest
from tests.drivers._relay import DrivenNewcomers

from mproxy.relay.rule_file import parse_rules

NOW = 50_000_000
TENTH_NS = 100_000_000


def comes(newcomers, times, source="192.0.2.7", now=NOW, burst=3, **more):
    """How many of so many are let in at once, at ten a second."""
    return sum(newcomers.let_in(source, now, TENTH_NS, burst, **more) for _ in range(times))


def test_a_burst_and_then_the_rate():
    newcomers = DrivenNewcomers()
    assert comes(newcomers, 5) == 3
    assert comes(newcomers, 5, now=NOW + 99_999) == 0
    assert comes(newcomers, 5, now=NOW + 100_000) == 1
    assert comes(newcomers, 5, now=NOW + 300_000) == 2
    assert comes(newcomers, 9, now=NOW + 10_000_000) == 3


def test_who_is_refused_does_not_pay():
    newcomers = DrivenNewcomers()
    comes(newcomers, 1000)
    assert comes(newcomers, 1, now=NOW + 100_000) == 1


def test_sources_and_rules_count_apart():
    newcomers = DrivenNewcomers()
    assert comes(newcomers, 4) == comes(newcomers, 4, "192.0.2.8") == comes(newcomers, 4, rule=2) == 3
    assert comes(newcomers, 4, "::ffff:192.0.2.7") == 0


def test_an_ipv6_network_is_one_source():
    newcomers = DrivenNewcomers()
    assert comes(newcomers, 3, "2001:db8::1") == 3
    assert comes(newcomers, 3, "2001:db8::ffff:2") == 0
    assert comes(newcomers, 3, "2001:db8:0:1::1") == 3


def test_a_flood_of_sources_is_bounded_and_most_are_limited_all_the_same():
    newcomers = DrivenNewcomers()
    sources = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(150_000)]
    for source in sources:
        assert newcomers.let_in(source, NOW, TENTH_NS, 1)
    again = sum(newcomers.let_in(source, NOW, TENTH_NS, 1) for source in sources[-1000:])
    assert again < 100


def test_all_processes_count_together():
    newcomers, out = DrivenNewcomers(), os.pipe()
    if os.fork() == 0:
        os.write(out[1], bytes([comes(newcomers, 2)]))
        os._exit(0)
    os.wait()
    assert os.read(out[0], 1) == b"\2"
    assert comes(newcomers, 2) == 1
    for fd in out:
        os.close(fd)


@pytest.mark.parametrize("words, interval_ns, burst", [
    ("", 0, 0), ("new-per-source=10/s", 100_000_000, 10), ("new-per-source=30/m new-burst=5", 2_000_000_000, 5),
    ("new-per-source=1/h", 3_600_000_000_000, 1)])
def test_options(words, interval_ns, burst):
    [rule] = parse_rules(f"80 -> a:1 {words}")
    assert (rule.options.new_interval_ns, rule.options.most_new) == (interval_ns, burst)
