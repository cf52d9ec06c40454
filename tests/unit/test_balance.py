"""Which target a connection goes to, in literal time."""

import socket

import pytest

from mproxy.net._socket import Target
from mproxy.relay._balance import Balance

NOW = 50_000_000
SECOND = 1_000_000


def target(name, known=True):
    return Target(name, [(socket.AF_INET, ("127.0.0.1", 80))] if known else [])


def make(names, *, least=False, unknown=""):
    balance = Balance(least)
    balance.set_targets([target(name, name not in unknown) for name in names])
    return balance


def picks(balance, count, now=NOW):
    return "".join(balance.pick(now).target.text for _ in range(count))


def fail(balance, name, now):
    backend = next(backend for backend in balance.backends if backend.target.text == name)
    return balance.note(backend, False, now)


def test_in_turn():
    assert picks(make("abc"), 7) == "abcabca"


def test_fewest_connections_first_and_in_turn_among_equals():
    balance = make("abc", least=True)
    assert picks(balance, 6) == "abcabc"
    for backend in balance.backends:
        if backend.target.text == "b":
            balance.end(backend)
            balance.end(backend)
    assert picks(balance, 3) == "bbc"


def test_what_is_not_resolved_is_skipped():
    assert picks(make("abc", unknown="b"), 4) == "acac"
    assert make("ab", unknown="ab").pick(NOW) is None
    assert make("").pick(NOW) is None


def test_a_failed_target_is_left_out_for_a_second_and_then_tried_by_one():
    balance = make("ab")
    assert fail(balance, "a", NOW) is True
    assert picks(balance, 4, NOW + SECOND - 1) == "bbbb"
    assert picks(balance, 4, NOW + SECOND) == "abbb"


def test_the_pause_doubles_up_to_30_seconds():
    balance = make("ab")
    now, pauses = NOW, []
    for n in range(8):
        assert fail(balance, "a", now) is (n == 0)
        pauses.append(balance.backends[0].down_until - now)
        now = balance.backends[0].down_until
    assert [pause // SECOND for pause in pauses] == [1, 2, 4, 8, 16, 30, 30, 30]


def test_success_takes_it_back_at_once():
    balance = make("ab")
    fail(balance, "a", NOW)
    trial = balance.pick(NOW + SECOND)
    assert trial.target.text == "a"
    assert balance.note(trial, True, NOW + SECOND) is True
    assert balance.note(trial, True, NOW + SECOND) is False
    assert sorted(picks(balance, 2, NOW + SECOND)) == ["a", "b"]


@pytest.mark.parametrize("least", [False, True])
def test_all_down_each_is_tried_in_the_order_of_its_return(least):
    balance = make("abc", least=least)
    for name, at in ("b", 1), ("c", 2), ("a", 3):
        fail(balance, name, NOW + at)
    tried = ""
    for n in range(3):
        backend = balance.pick(NOW + 10 + n)
        tried += backend.target.text
        balance.note(backend, False, NOW + 10 + n)
    assert tried == "bca"


def test_new_addresses_keep_the_state_of_targets_that_stay():
    balance = make("ab")
    fail(balance, "a", NOW)
    old = balance.pick(NOW)
    balance.set_targets([target("c"), target("b"), target("a")])
    assert balance.backends[1] is old and old.connections == 1
    assert "a" not in picks(balance, 4)
