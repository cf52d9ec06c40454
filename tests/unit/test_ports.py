"""Resting ports, in literal time: a port rests until no answer to its former user can arrive any more."""

import os

import pytest
from tests.drivers._relay import rest, rests

SECOND = 1_000_000
NOW = 50_000 * SECOND


def test_a_port_rests_for_its_time():
    assert not rests(4000, NOW)
    rest(4000, NOW, 3 * SECOND)
    assert rests(4000, NOW) and rests(4000, NOW + 3 * SECOND - 1000)
    assert not rests(4000, NOW + 3 * SECOND)
    assert not rests(4001, NOW)


def test_no_port_rests_for_longer_than_anybody_waits():
    rest(4002, NOW, 60 * SECOND)
    assert rests(4002, NOW + 10 * SECOND - 1000) and not rests(4002, NOW + 10 * SECOND)


def test_at_need_a_port_that_owes_nothing_ends_its_rest():
    rested, may_end, must_not_end = range(3)
    rest(4005, NOW, SECOND, False)
    assert rests(4005, NOW) == may_end and rests(4005, NOW + SECOND) == rested
    rest(4005, NOW, SECOND, True)
    assert rests(4005, NOW) == must_not_end and rests(4005, NOW + SECOND) == rested


@pytest.mark.parametrize("days", [1, 24, 25, 49, 60, 400])
def test_what_was_long_ago_is_over(days):
    rest(4003, NOW, 10 * SECOND)
    assert not rests(4003, NOW + days * 86_400 * SECOND)


def test_processes_that_were_forked_know_each_other_s_ports():
    child = os.fork()
    if child == 0:
        rest(4004, NOW, SECOND)
        os._exit(0)
    os.waitpid(child, 0)
    assert rests(4004, NOW)
