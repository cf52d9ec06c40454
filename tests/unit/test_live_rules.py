"""Rules that are added to a running relay and removed from it."""

import pytest

from mproxy.ground.errors import UsageError
from mproxy.relay.live_rules import LiveRules
from mproxy.relay.rule_file import RulesError, parse_line


def written(*lines):
    return [rule for number, line in enumerate(lines, 1) for rule in parse_line(line, number)]


def live(*lines):
    return LiveRules(written(*lines), "relay.conf")


def shown(rules):
    return [rule.line for rule in rules]


def add(rules, line):
    proposed, new = rules.propose_adding(line)
    rules.settle(proposed)
    return shown(new)


def remove(rules, what):
    proposed, gone = rules.propose_removing(what)
    rules.settle(proposed)
    return shown(gone)


def test_added_rules_come_on_top_of_the_file_and_stay_over_a_reload():
    rules = live("80 -> a:1")
    assert add(rules, "udp 53 -> b:2  max=3") == ["udp 53 -> b:2 max=3"]
    assert shown(rules.rules) == ["80 -> a:1", "udp 53 -> b:2 max=3"]
    rules.settle(rules.propose_file(written("81 -> a:1")))
    assert shown(rules.rules) == ["81 -> a:1", "udp 53 -> b:2 max=3"]
    assert [rule.number for rule in rules.written] == [1, 0]


def test_nothing_has_changed_before_it_is_in_force():
    rules = live("80 -> a:1")
    rules.propose_adding("81 -> a:1")
    rules.propose_removing("80")
    assert shown(rules.rules) == ["80 -> a:1"]


def test_an_added_rule_that_the_file_has_too_is_the_files():
    rules = live("80 -> a:1")
    add(rules, "81 -> b:1")
    rules.settle(rules.propose_file(written("80 -> a:1", "81 -> b:1")))
    assert [rule.number for rule in rules.written] == [1, 2]
    rules.settle(rules.propose_file(written("80 -> a:1")))
    assert shown(rules.rules) == ["80 -> a:1"]


def test_a_file_that_contradicts_an_added_rule_is_refused():
    rules = live("80 -> a:1")
    add(rules, "81 -> b:1")
    with pytest.raises(RulesError) as caught:
        rules.propose_file(written("80 -> a:1", "81 -> c:1"))
    assert caught.value.lines() == [
        "added rule: tcp 81 is already used on line 2 (tcp 81); only one rule may listen on an address and port"]


@pytest.mark.parametrize("what, left", [
    ("web", ["udp 53 -> b:53", "7100 -> c:1", "7101 -> c:2"]),
    ("tcp 127.0.0.1:80", ["[::1]:80 -> a:1 name=web", "udp 53 -> b:53", "7100 -> c:1", "7101 -> c:2"]),
    ("udp 53", ["127.0.0.1:80 -> a:1 name=web", "[::1]:80 -> a:1 name=web", "7100 -> c:1", "7101 -> c:2"]),
    ("7100-7101", ["127.0.0.1:80 -> a:1 name=web", "[::1]:80 -> a:1 name=web", "udp 53 -> b:53"]),
    ("7101", ["127.0.0.1:80 -> a:1 name=web", "[::1]:80 -> a:1 name=web", "udp 53 -> b:53", "7100 -> c:1"]),
    ("udp  53 ->b:53", ["127.0.0.1:80 -> a:1 name=web", "[::1]:80 -> a:1 name=web", "7100 -> c:1", "7101 -> c:2"]),
])
def test_removing_by_name_by_place_and_by_rule(what, left):
    rules = live("127.0.0.1:80 -> a:1 name=web", "[::1]:80 -> a:1 name=web", "udp 53 -> b:53", "7100-7101 -> c:1-2")
    remove(rules, what)
    assert shown(rules.rules) == left


@pytest.mark.parametrize("what, says", [
    ("8080", "no such rule: 8080; 'mproxy relay rule list' shows all"),
    ("80 -> other:1", "no such rule: '80 -> other:1'"),
    ("wob", "no rule has the name wob; expected a name, a whole rule, or where it listens, such as 7005 or"),
    ("", "no rule has the name ''"),
    ("80 -> a", "not a valid target: a; expected HOST:PORT"),
])
def test_what_cannot_be_removed(what, says):
    with pytest.raises(UsageError) as caught:
        live("80 -> a:1").propose_removing(what)
    assert says in str(caught.value)


@pytest.mark.parametrize("line, says", [
    ("80 -> b:1", "added rule: tcp 80 is already used on line 1 (tcp 80); only one rule may listen"),
    ("81 -> b:1 mx=3", "unknown option: mx=3; expected one of"),
    ("81", "missing '->'; expected"),
    ("81 -> b:1 name=8080", "name=8080: not a name of letters, digits, -, _ and ., a letter first; for example"),
])
def test_what_cannot_be_added(line, says):
    with pytest.raises(UsageError) as caught:
        live("80 -> a:1").propose_adding(line)
    assert says in caught.value.lines()[0]


def test_rules_beside_each_other_mean_what_they_would_in_one_file():
    rules = live("[::]:80 -> a:1")
    assert [rule.listen_host for rule in rules.rules] == [""]
    add(rules, "0.0.0.0:80 -> b:1")
    assert [rule.listen_host for rule in rules.rules] == ["::", "0.0.0.0"]
    remove(rules, "0.0.0.0:80")
    assert [rule.listen_host for rule in rules.rules] == [""]
