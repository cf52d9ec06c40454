"""Health checks: when an address counts as well, in literal order."""

import pytest

from mproxy.relay.health import CheckedState, place_of
from mproxy.relay.rule_file import parse_rules
from mproxy.relay.rules import HealthCheck


def after(results, rise=2, fall=3):
    """How the address is after each result: `+` well, `-` failed."""
    state = CheckedState(HealthCheck(1_000_000, rise=rise, fall=fall))
    seen = ""
    for result in results:
        before = state.well
        changed = state.result(None if result == "+" else "refused")
        assert changed == (before != state.well)
        seen += "+" if state.well else "-"
    return seen


@pytest.mark.parametrize("results, seen", [
    ("+++", "+++"),
    ("-", "-"),                  # the first answer decides
    ("-+-++", "----+"),
    ("+--+---", "++++++-"),      # in a row
    ("+---+-++", "+++----+"),
])
def test_rise_and_fall(results, seen):
    assert after(results) == seen


def test_one_is_enough_where_one_is_asked_for():
    assert after("+-+-", rise=1, fall=1) == "+-+-"


def test_the_reason_of_the_last_failure_is_kept():
    state = CheckedState(HealthCheck(1_000_000))
    state.result("refused")
    state.result("no answer")
    assert (state.why, state.asked, state.failed) == ("no answer", 2, 2)


def test_rules_that_lead_to_one_place_in_the_same_way_share_its_check():
    one, two, other = parse_rules("80 -> 10.0.0.1:8080 check=2s\n81 -> 10.0.0.1:8080 check=2s max=5\n"
                                  "82 -> 10.0.0.1:8080 check=2s check-port=9")
    address = (2, ("10.0.0.1", 8080))
    places = [place_of(rule, rule.options.check, address) for rule in (one, two, other)]
    assert places[0] == places[1] != places[2]
    assert places[2].sockaddr == ("10.0.0.1", 9)
    scoped = place_of(one, one.options.check, (10, ("fe80::1", 80, 0, 3)))
    assert scoped.sockaddr == ("fe80::1", 80, 0, 3)
