"""The rule file: what each line means, which mistakes are reported and how, and lines that affect each other."""

import os
import time
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mproxy.ground.config import HOUR_US, MINUTE_US, SECOND_US
from mproxy.ground.errors import UsageError
from mproxy.relay.rule_file import RulesError, parse_rules, read_rules
from mproxy.relay.rules import UDP_FLOWS, HealthCheck, Rule, RuleOptions

EXAMPLE = """\
# the example of the documentation
7005 -> 192.168.0.1:8005
7006 -> 192.168.0.2:8006
udp 53 -> 10.0.0.2:53            timeout=30s max=10000
tcp+udp [::]:5060 -> sip.example:5060

7100-7110 -> 10.0.0.3:8100-8110  allow=10.0.0.0/8 proxy=v2 max=500   # eleven rules
8443 -> a.example:443, b.example:443   balance=leastconn
"""


def only(text):
    [rule] = parse_rules(text)
    return rule


def wrong(text):
    with pytest.raises(RulesError) as caught:
        parse_rules(text, "relay.conf")
    return caught.value


def test_the_example():
    rules = parse_rules(EXAMPLE)
    assert [str(rule) for rule in rules[:5]] == [
        "tcp 7005 -> 192.168.0.1:8005", "tcp 7006 -> 192.168.0.2:8006", "udp 53 -> 10.0.0.2:53",
        "tcp 5060 -> sip.example:5060", "udp 5060 -> sip.example:5060"]
    assert [rule.number for rule in rules] == [2, 3, 4, 5, 5, *[7] * 11, 8]
    assert rules[2].options.idle_timeout_us == 30 * SECOND_US
    assert rules[2].options.max_connections == 10000
    ranged = rules[5:16]
    assert [rule.listen_port for rule in ranged] == list(range(7100, 7111))
    assert [rule.targets for rule in ranged] == [(("10.0.0.3", port),) for port in range(8100, 8111)]
    assert ranged[0].options is ranged[-1].options
    assert ranged[0].options == RuleOptions(
        allow=(ip_network("10.0.0.0/8"),), proxy=2, max_connections=500,
        given=("allow=10.0.0.0/8", "proxy=v2", "max=500"))
    assert rules[16].targets == (("a.example", 443), ("b.example", 443))
    assert rules[16].options.balance == "leastconn"


@pytest.mark.parametrize("listen, host, port", [
    ("80", "", 80), ("0.0.0.0:80", "0.0.0.0", 80), ("127.0.0.1:80", "127.0.0.1", 80), ("[::1]:80", "::1", 80),
    ("[0:0::1]:80", "::1", 80), ("[::]:80", "", 80), ("[fe80::1%eth0]:80", "fe80::1%eth0", 80),
])
def test_listening_addresses(listen, host, port):
    rule = only(f"{listen} -> host:1")
    assert (rule.listen_host, rule.listen_port) == (host, port)


def test_ipv6_wildcard_leaves_ipv4_to_a_rule_of_its_own():
    v4, v6 = parse_rules("0.0.0.0:53 -> 10.0.0.1:53\n[::]:53 -> [fd00::1]:53")
    assert (v4.listen_host, v6.listen_host) == ("0.0.0.0", "::")
    _, udp = parse_rules("127.0.0.1:53 -> 10.0.0.1:53\nudp [::]:53 -> [fd00::1]:53")
    assert udp.listen_host == ""


@pytest.mark.parametrize("words, field, value", [
    ("max=1", "max_connections", 1), ("timeout=1h", "idle_timeout_us", HOUR_US), ("timeout=0", "idle_timeout_us", 0),
    ("connect-timeout=500ms", "connect_timeout_us", 500_000), ("proxy=v1", "proxy", 1),
    ("keepalive=30s", "keepalive", (30, 10, 3)), ("keepalive=0", "keepalive", (0, 1, 3)),
    ("keepalive=2m,5s,7", "keepalive", (120, 5, 7)),
    ("accept-proxy", "accept_proxy", True), ("balance=roundrobin", "balance", "roundrobin"),
    ("source=10.0.0.7,[fd00::7]", "source", ("10.0.0.7", "fd00::7")),
    ("deny=10.1.2.3,fd00::/8", "deny", (ip_network("10.1.2.3/32"), ip_network("fd00::/8"))),
    ("allow=10.0.0.0/8 , 192.168.0.0/16", "allow", (ip_network("10.0.0.0/8"), ip_network("192.168.0.0/16"))),
])
def test_options(words, field, value):
    assert getattr(only(f"80 -> host:1 {words}").options, field) == value


def test_weights_and_checks():
    options = only("80 -> a:1, b:1 weights=3,1 check=2s check-send=GET\\s/\\r\\n\\x23\\\\ check-expect=é check-port=81"
                   " check-rise=1 check-fall=5").options
    assert options.weights == (3, 1)
    assert options.check == HealthCheck(2 * SECOND_US, b"GET /\r\n#\\", "é".encode(), 81, 1, 5)
    assert only("80 -> a:1 check=2s").options.check == HealthCheck(2 * SECOND_US)


def test_defaults():
    tcp, udp = parse_rules("tcp+udp 80 -> host:1")
    assert tcp.options == RuleOptions()
    assert (udp.options.idle_timeout_us, udp.options.max_connections) == (MINUTE_US, UDP_FLOWS)
    assert udp.options.per_source == UDP_FLOWS // 2
    assert only("udp 80 -> host:1 max=1").options.per_source == 1


@pytest.mark.parametrize("line, says", [
    ("7005 192.168.0.1:8005", "missing '->'; expected [tcp|udp|tcp+udp] [ADDRESS:]PORT -> HOST:PORT [OPTION ...]"),
    ("7005 ->", "nothing follows '->'; expected"),
    ("-> host:1", "not a listening address: ''; expected"),
    ("7005 -> host", "not a valid target: host; expected HOST:PORT or [IPV6]:PORT"),
    ("7005 -> ::1:80", "not a valid target: ::1:80; expected HOST:PORT or [IPV6]:PORT"),
    ("7005 -> ho/st:80", "not a valid host: ho/st; use a name"),
    ("7005 -> host:0", "not a valid target port: 0; expected a number from 1 to 65535"),
    ("7005 -> host:99999", "not a valid target port: 99999; expected a number from 1 to 65535"),
    ("70005 -> host:1", "not a valid listening port: 70005; expected a number from 1 to 65535"),
    ("0 -> host:1", "not a valid listening port: 0; expected"),
    ("host:80 -> host:1", "not an address to listen on: host; expected a numeric one"),
    ("::1:80 -> host:1", "not a listening address: ::1:80; expected PORT, ADDRESS:PORT or [IPV6]:PORT"),
    ("sctp 80 -> host:1", "not a valid protocol: sctp; expected tcp, udp or tcp+udp"),
    ("80-70 -> host:1-11", "range runs backwards: 80-70; use 70-80"),
    ("70-80 -> host:1-10", "1-10 has 10 ports but the rule listens on 11; expected 1-11"),
    ("70 -> host:1-10", "has 10 ports but the rule listens on one; expected one target port"),
    ("70-80 -> host:1", "has 1 port but the rule listens on 11; expected 1-11"),
    ("80 -> host:1 max=0", "max=0: not a number from 1 to 1000000; for example max=500"),
    ("80 -> host:1 max=many", "max=many: not a number"),
    ("80 -> host:1 max", "max needs a value: max=..."),
    ("80 -> host:1 accept-proxy=1", "accept-proxy takes no value"),
    ("80 -> host:1 mx=3", "unknown option: mx=3; expected one of allow=, deny=, max="),
    ("80 -> host:1 max=3 max=4", "option given twice: max=4; give max once"),
    ("80 -> host:1 timeout=5x", "timeout=5x: not a time from 1ms to 30d or 0; for example timeout=30s"),
    ("80 -> host:1 proxy=v3", "proxy=v3: not a version of the PROXY protocol; use proxy=v1 or proxy=v2"),
    ("80 -> host:1 allow=10.0.0.1/8", "allow=10.0.0.1/8: not a list of networks; for example allow=10.0.0.0/8"),
    ("80 -> host:1 source=10.0.0.1,10.0.0.2", ": not an address of this host (or one IPv4 and one IPv6)"),
    ("80 -> host:1 allow=", ": not a list of networks"),
    ("80 -> host:1 balance=random", "balance=random: not a balancing method; use balance=roundrobin or"),
    ("80 -> a:1, b:1 weights=3", "1 weight for 2 targets; expected one for each target, in their order"),
    ("80 -> a:1, b:1 weights=0,0", "weights=0,0: not a list of numbers from 0 to 1000, not all 0; for example"),
    ("80 -> a:1 weights=1001", "weights=1001: not a list of numbers"),
    ("80 -> a:1 check=50ms", "check=50ms: not a time from 100ms to 1h; for example check=5s"),
    ("80 -> a:1 check-rise=2", "check-rise needs check=TIME, for example check=5s"),
    ("80 -> a:1 check=5s check-fall=0", "check-fall=0: not a number from 1 to 1000; for example check-fall=3"),
    ("80 -> a:1 check=5s check-port=0", "check-port=0: not a port; for example check-port=8080"),
    ("80 -> a:1 check=5s check-send=a\\q", "check-send=a\\q: not a text of 1 to 1024 bytes; for example"),
    ("80 -> a:1 check=5s check-expect=", "check-expect=: not a text"),
    ("udp 53 -> a:53 check=5s", "check of a udp rule needs check-send=TEXT and check-expect=TEXT"),
    ("80 -> a:1 new-per-source=10", "new-per-source=10: not a rate; for example new-per-source=10/s,"),
    ("80 -> a:1 new-per-source=0/s", "new-per-source=0/s: not a rate"),
    ("80 -> a:1 keepalive=30s,0", "keepalive=30s,0: not a time from 1s to 9h, or 0, perhaps with another one"),
    ("80 -> a:1 keepalive=30s,5s,200", "keepalive=30s,5s,200: not a time from 1s to 9h"),
    ("udp 80 -> a:1 keepalive=30s", "keepalive applies to tcp rules only"),
    ("80 -> a:1 new-burst=5", "new-burst needs new-per-source=RATE, for example new-per-source=10/s"),
    ("80 -> host:1 per-source=3", "per-source applies to udp rules only"),
    ("udp 80 -> host:1 proxy=v1", "proxy=v1 is for tcp rules only; use proxy=v2"),
    ("tcp+udp 80 -> host:1 source=10.0.0.1", "source applies to tcp rules only"),
    ("udp 80 -> host:1 connect-timeout=1s", "connect-timeout applies to tcp rules only"),
    ("80 -> 127.0.0.1:80", "would relay to itself; use another host or port"),
    ("10.0.0.1:80 -> 10.0.0.1:80", "would relay to itself"),
    ("80 -> host:1, LOCALHOST:80", "would relay to itself"),
    ("127.0.0.1:80 -> localhost:80", "would relay to itself"),
    ("80 -> 127.9.9.9:80", "would relay to itself"),
    ("0.0.0.0:80 -> 0.0.0.0:80", "would relay to itself"),
    ("127.0.0.1:80 -> 0.0.0.0:80", "would relay to itself"),
    ("[::1]:80 -> [::]:80", "would relay to itself"),
    ("80 -> " + "a" * 5000, "longer than 4096 characters"),
    ("80 -> " + ",".join(["a:1"] * 65), "too many targets: 65; expected at most 64"),
    ("80 -> host:1\x1b[2J", "not a valid target port: '1\\x1b[2J'"),
])
def test_what_is_wrong_with_a_line(line, says):
    error = wrong(f"81 -> host:1\n{line}\n")
    [(number, text)] = error.wrong
    assert number == 2
    assert says in text
    assert error.lines() == [f"relay.conf:2: {text}"]


def test_every_wrong_line_is_named():
    error = wrong("80 -> host\n81 -> host:1\nsctp 1 -> a:1\n81 -> b:1\n")
    assert [number for number, _ in error.wrong] == [1, 3, 4]


def test_at_most_twenty_lines_are_told():
    lines = wrong("80\n" * 50).lines()
    assert len(lines) == 21
    assert lines[-1] == "relay.conf: and 30 more wrong lines"


@pytest.mark.parametrize("first, second, other", [
    ("80", "80", True), ("80", "127.0.0.1:80", True), ("127.0.0.1:80", "80", True), ("0.0.0.0:80", "10.0.0.1:80", True),
    ("80", "0.0.0.0:80", True), ("80", "[::]:80", True), ("[::]:80", "[::1]:80", True), ("70-80", "80-90", True),
    ("0.0.0.0:80", "[::]:80", False), ("0.0.0.0:80", "[::1]:80", False), ("10.0.0.1:80", "10.0.0.2:80", False),
    ("udp 80", "tcp 80", False), ("udp 80", "tcp+udp 80", True),
])
def test_overlaps(first, second, other):
    def line(listen):
        ports = listen.split(" ")[-1].rpartition(":")[2]
        return f"{listen} -> host:{'1-11' if '-' in ports else 1}"
    text = f"{line(first)}\n\n{line(second)}"
    if not other:
        assert len(parse_rules(text)) == 2
        return
    [(number, says)] = wrong(text).wrong
    assert number == 3
    assert "is already used on line 1 (" in says


def test_nothing_to_do_is_a_mistake():
    assert "no rules in this file" in wrong("# nothing\n").wrong[0][1]


def test_too_many_rules():
    text = "".join(f"10.0.0.{i}:1-65535 -> host:1-65535\n" for i in range(1, 5))
    assert "more than 100000 rules" in str(wrong(text))


@pytest.mark.parametrize("content, says", [(b"80 -> a:1\n\xff -> b:2\n", "relay.conf:2: not UTF-8 text"),
                                           (None, "cannot read")])
def test_files_that_are_none(tmp_path, monkeypatch, content, says):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "relay.conf").write_bytes(content)
    with pytest.raises(UsageError, match=says):
        read_rules("relay.conf")


@pytest.mark.parametrize("line", [
    "127.0.0.1:80 -> 127.0.0.2:80", "10.0.0.1:80 -> localhost:80", "0.0.0.0:80 -> [::1]:80", "80 -> 10.0.0.1:80",
    "80 -> host:80", "[::1]:80 -> 127.0.0.1:80"])
def test_the_same_port_elsewhere_is_no_circle(line):
    assert only(line).listen_port == 80


def test_a_byte_order_mark_is_no_part_of_a_rule(tmp_path):
    path = tmp_path / "relay.conf"
    path.write_bytes(b"\xef\xbb\xbf80 -> host:1\n")
    assert [rule.listen_port for rule in read_rules(path)] == [80]


def test_a_file(tmp_path):
    path = tmp_path / "relay.conf"
    path.write_text(EXAMPLE.replace("\n", "\r\n"))
    assert read_rules(path) == parse_rules(EXAMPLE)


def test_same_rule_on_another_line():
    first, second = only("80 -> host:1 max=3"), only("\n80 -> host:1 max=3")
    assert first.same(second) and first != second
    assert not first.same(only("80 -> host:1 max=4"))
    assert not first.same(only("80 -> host:2 max=3"))


@pytest.mark.parametrize("limit, workers, shares", [
    (0, 3, [0, 0, 0]), (10, 1, [10]), (10, 3, [4, 3, 3]), (1, 2, [1, 1])])
def test_shares_of_the_limits(limit, workers, shares):
    options = RuleOptions(per_source=limit)
    assert [options.share(i, workers).per_source for i in range(workers)] == shares


def test_ten_thousand_rules_load_within_a_second():
    text = "".join(f"{10000 + i} -> host{i}.example:{1 + i} allow=10.0.0.0/8 max={1 + i}\n" for i in range(10_000))
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        assert len(parse_rules(text)) == 10_000
        best = min(best, time.process_time() - start)
    assert best < (5 if "ASAN_OPTIONS" in os.environ else 1)  # which makes every allocation slow


hosts = st.sampled_from(["10.0.0.1", "a.example", "[fd00::1]", "localhost"])
ports = st.integers(1, 65535)
options = st.lists(st.sampled_from(["max=5", "timeout=3s", "allow=10.0.0.0/8", "deny=fd00::/8"]), unique=True)


@given(st.sampled_from(["", "tcp ", "udp ", "tcp+udp "]), st.sampled_from(["", "0.0.0.0:", "[::1]:", "10.1.1.1:"]),
       ports, st.integers(0, 20), st.lists(st.tuples(hosts, ports), min_size=1, max_size=3), options)
def test_a_line_is_taken_apart_port_by_port(protocol, address, port, more, targets, words):
    more = min([more, 65535 - port, *(65535 - first for _, first in targets)])

    def span(first):
        return f"{first}-{first + more}" if more else f"{first}"
    line = f"{protocol}{address}{span(port)} -> {', '.join(f'{h}:{span(p)}' for h, p in targets)} {' '.join(words)}"
    try:
        rules = parse_rules(line)
    except RulesError as error:
        assert "would relay to itself" in str(error)
        return
    protocols = (protocol.strip() or "tcp").split("+")
    assert [(rule.protocol, rule.listen_port) for rule in rules] == [
        (name, port + i) for name in protocols for i in range(more + 1)]
    for rule in rules:
        offset = rule.listen_port - port
        assert rule.targets == tuple((h.strip("[]"), p + offset) for h, p in targets)


@given(st.text(alphabet=st.sampled_from("tcpud+ 0123456789.:[]->,=#/\n\tamxv\x00é"), max_size=60))
def test_no_text_does_worse_than_a_rules_error(text):
    try:
        rules = parse_rules(text)
    except RulesError as error:
        assert all(1 <= number <= text.count("\n") + 1 and "expected" in says for number, says in error.wrong)
        assert all("\n" not in line for line in error.lines())
    else:
        assert all(isinstance(rule, Rule) for rule in rules)
