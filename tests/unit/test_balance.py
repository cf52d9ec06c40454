"""Which target a connection goes to, in literal time."""

import errno
import socket

import pytest
from tests.drivers._relay import DrivenBalance

from mproxy.io._socket import Target

NOW = 50_000_000
SECOND = 1_000_000


def target(name, known=True):
    return Target(name, [(socket.AF_INET, ("127.0.0.1", 80))] if known else [])


def make(names, *, least=False, unknown=""):
    balance = DrivenBalance(least)
    balance.set_targets([target(name, name not in unknown) for name in names])
    return balance


def picks(balance, count, now=NOW):
    return "".join(balance.pick(now).target.text for _ in range(count))


def fail(balance, name, now):
    address = next(address for address in balance.addresses if address.target.text == name)
    return balance.note(address, False, now)


def test_in_turn():
    assert picks(make("abc"), 7) == "abcabca"


def test_fewest_connections_first_and_in_turn_among_equals():
    balance = make("abc", least=True)
    assert picks(balance, 6) == "abcabc"
    for address in balance.addresses:
        if address.target.text == "b":
            balance.end(address)
            balance.end(address)
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
        pauses.append(balance.addresses[0].down_until - now)
        now = balance.addresses[0].down_until
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
        address = balance.pick(NOW + 10 + n)
        tried += address.target.text
        balance.note(address, False, NOW + 10 + n)
    assert tried == "bca"


def test_new_addresses_keep_the_state_of_targets_that_stay():
    balance = make("ab")
    fail(balance, "a", NOW)
    old = balance.pick(NOW)
    balance.set_targets([target("c"), target("b"), target("a")])
    assert balance.addresses[1] is old and old.connections == 1
    assert "a" not in picks(balance, 4)


# ---- addresses

def several(name, *hosts):
    return Target(name, [(socket.AF_INET6, (host, 80, 0, 0)) if ":" in host else (socket.AF_INET, (host, 80))
                         for host in hosts])


def aimed(*targets):
    balance = DrivenBalance()
    balance.set_targets(targets)
    return balance


def test_every_address_of_a_name_has_its_turn_and_its_own_state():
    balance = aimed(several("web:80", "10.0.0.1", "2001:db8::2"), target("b"))
    assert [balance.pick(NOW).text for _ in range(4)] == [
        "web:80 at 10.0.0.1", "web:80 at 2001:db8::2", "b", "web:80 at 10.0.0.1"]
    balance.note(balance.addresses[0], False, NOW)
    assert [balance.pick(NOW).text for _ in range(3)] == ["web:80 at 2001:db8::2", "b", "web:80 at 2001:db8::2"]


def test_an_address_that_stays_keeps_its_state_and_one_that_is_lost_is_gone():
    balance = aimed(several("web:80", "10.0.0.1", "10.0.0.2"))
    first, second = balance.addresses
    balance.note(first, False, NOW)
    balance.set_targets([several("web:80", "10.0.0.3", "10.0.0.1")])
    assert balance.addresses[1] is first and first.failures == 1
    assert (first.gone, second.gone) == (False, True)
    assert first.text == "web:80 at 10.0.0.1"


def test_what_was_tried_is_not_chosen_again():
    balance = make("ab")
    first = balance.pick(NOW)
    second = balance.pick(NOW, [first])
    assert {first.target.text, second.target.text} == {"a", "b"}
    assert balance.pick(NOW, [first, second]) is None


def test_a_hundred_callers_that_find_the_same_failure_are_one_finding():
    balance = make("ab")
    for n in range(100):
        fail_began(balance, "a", NOW, NOW + n)
    assert balance.addresses[0].down_until == NOW + SECOND


def fail_began(balance, name, began, now):
    address = next(address for address in balance.addresses if address.target.text == name)
    return balance.note(address, False, now, began)


def test_one_silence_is_no_news_and_two_in_a_row_are():
    balance = make("ab")
    address = balance.addresses[0]
    assert balance.note(address, False, NOW, NOW, errno.ETIMEDOUT) is False
    assert balance.note(address, True, NOW) is False
    assert [balance.note(address, False, NOW + n, NOW + n, errno.ETIMEDOUT) for n in range(3)] == [False, True, False]
    assert balance.note(address, True, NOW) is True
    assert balance.note(address, False, NOW + SECOND, NOW, errno.ETIMEDOUT) is True, "silent for a second"


def test_the_only_address_is_no_news():
    balance = make("a")
    assert fail(balance, "a", NOW) is False
    assert balance.note(balance.addresses[0], True, NOW) is False


# ---- datagrams

def test_an_address_that_two_sessions_asked_in_vain_while_another_answered_is_left_out():
    balance = make("ab")
    a, b = balance.addresses
    balance.ask(a, NOW)
    balance.ask(b, NOW)
    balance.answer(b, NOW + 1)
    assert picks(balance, 2, NOW + SECOND // 2) == "ab", "one packet may get lost"
    balance.ask(a, NOW + 1)
    assert picks(balance, 2, NOW + 299_999) == "ab", "it may be slow"
    assert picks(balance, 4, NOW + 300_000) == "bbbb"
    assert picks(balance, 3, NOW + 300_000 + SECOND) == "abb", "it is tried again"


def test_where_nobody_answers_nobody_is_silent():
    balance = make("ab")
    for n in range(10):
        balance.ask(balance.pick(NOW + n * SECOND), NOW + n * SECOND)
    assert picks(balance, 4, NOW + 60 * SECOND) == "abab"


def test_a_trial_that_is_not_answered_doubles_the_pause():
    balance = make("ab")
    a, b = balance.addresses
    balance.ask(a, NOW)
    balance.ask(a, NOW)
    balance.answer(b, NOW + 1)
    now, pauses = NOW + SECOND, []
    for _ in range(6):
        assert "a" not in picks(balance, 2, now)
        pauses.append((a.down_until - now) // SECOND)
        now = a.down_until
        assert picks(balance, 1, now) == "a"
        balance.ask(a, now)
    assert pauses == [1, 2, 4, 8, 16, 30]
    assert balance.answer(a, now + 1) is False, "it was never told"
    assert sorted(picks(balance, 2, now + 2)) == ["a", "b"]


# ---- weights and health checks

def weighed(weights, *, least=False, count=1):
    balance = DrivenBalance(least)
    balance.set_targets([several(name, *(f"10.0.{ord(name)}.{n}" for n in range(count if name == "a" else 1)))
                         for name in "abcd"[:len(weights)]], weights)
    return balance


def test_weights_are_the_parts_of_the_callers_and_evenly_mixed():
    assert picks(weighed([3, 1]), 8) == "abaaabaa"
    assert sorted(picks(weighed([5, 3, 2]), 100)) == sorted("a" * 50 + "b" * 30 + "c" * 20)


def test_a_weight_is_the_targets_and_not_each_of_its_addresses():
    drawn = picks(weighed([1, 1], count=4), 80)
    assert drawn.count("a") == drawn.count("b") == 40


def test_fewest_connections_for_their_weight():
    assert sorted(picks(weighed([3, 1], least=True), 8)) == sorted("aaabaaab")


def test_weight_0_gets_nobody_new_while_another_has_more():
    balance = weighed([0, 1])
    assert picks(balance, 3) == "bbb"
    fail(balance, "b", NOW)
    assert picks(balance, 2) == "bb"
    assert picks(weighed([0]), 2) == "aa"


def test_a_down_address_leaves_its_part_to_the_others():
    balance = weighed([2, 1, 1])
    fail(balance, "a", NOW)
    assert sorted(picks(balance, 4)) == ["b", "b", "c", "c"]


def sick(balance, *failing):
    balance.set_targets(balance.targets, None, list(failing))


def test_an_address_whose_check_fails_gets_nobody_while_another_one_is_well():
    balance = make("abc")
    sick(balance, [0], [], [])
    assert picks(balance, 4) == "bcbc"
    for name in "bc":  # what callers find out is no reason to try it
        fail(balance, name, NOW)
    assert "a" not in picks(balance, 4)
    sick(balance, [], [], [])
    assert picks(balance, 3) == "aaa"


def test_if_all_checks_fail_they_are_tried_as_without_checks():
    balance = make("ab")
    sick(balance, [0], [0])
    assert sorted(picks(balance, 4)) == ["a", "a", "b", "b"]
    fail(balance, "a", NOW)
    assert picks(balance, 2) == "bb"


def test_each_address_of_a_name_has_a_check_of_its_own():
    balance = aimed(several("web:80", "10.0.0.1", "10.0.0.2"), target("b"))
    sick(balance, [1], [])
    assert {balance.pick(NOW).text for _ in range(6)} == {"web:80 at 10.0.0.1", "b"}


def test_weight_0_helps_out_before_one_whose_check_fails():
    balance = DrivenBalance()
    balance.set_targets([target("a"), target("b")], [0, 1], [[], [0]])
    assert picks(balance, 2) == "aa"
