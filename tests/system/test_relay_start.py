"""What mproxy relay checks before it serves: rights, addresses, and that no rule leads back to it."""

import os
import re
import signal
from pathlib import Path

import pytest
from lab import until
from relays import ECHO_PORT, RELAY, RELAY6, SERVER, echoes, is_served, start_echo, udp_socket

from tests.root import real_root

RULE = f"7005 -> {SERVER}:{ECHO_PORT}"


@pytest.fixture
def echo(lab):
    return start_echo(lab.server)


# ---- rights and addresses

def ids_of(pid):
    """{field: values} of the process: its users, groups and capabilities."""
    fields = (line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: value.split() for name, value in fields if name in ("Uid", "Gid", "Groups", "CapEff", "CapPrm")}


@pytest.mark.skipif(not real_root(), reason="only the real root can become another user")
def test_workers_have_the_rights_of_a_user(lab, relay, echo):
    """Goal: ports below 1024 work, even new ones after a reload, though the workers have become another user for
    good."""
    relay.host.run("sysctl", "-q", "net.ipv4.ip_unprivileged_port_start=1024")
    program = relay.start(f"705 -> {SERVER}:{ECHO_PORT}", options=["--user", "nobody", "--workers", "2"])
    assert is_served(lab.client, 705)
    relay.reload(f"705 -> {SERVER}:{ECHO_PORT}", f"706 -> {SERVER}:{ECHO_PORT}")
    assert is_served(lab.client, 706)
    os.kill(relay.workers()[0], signal.SIGKILL)
    program.event("worker-died")
    until(lambda: all(relay.workers()), 20, "a successor")
    for pid in relay.workers():
        ids = ids_of(pid)
        assert set(ids["Uid"]) == {"65534"} and set(ids["Gid"]) == {"65534"}, ids
        assert set(ids["CapEff"] + ids["CapPrm"]) == {"0" * 16} and "0" not in ids["Groups"], ids
    assert set(ids_of(program.pid)["Uid"]) == {"0"}
    assert is_served(lab.client, 705)


@pytest.mark.parametrize("options, says", [
    (["--user", "no-such-user"], "--user no-such-user: there is no such user"),
    (["--user", "nobody", "--kernel"], "--user and --kernel cannot be used together"),
])
def test_wrong_users(relay, options, says):
    """Goal: a user that does not exist is an error, and nothing is started."""
    program = relay.start(RULE, options=options, ready=False)
    assert program.wait() == 2
    assert says in program.log.text and "Traceback" not in program.log.text


def test_an_address_that_comes_later(lab, relay, echo):
    """Goal: with --wait-addresses a missing address does not stop other rules, and is served as soon as it exists."""
    late = "10.1.0.77"
    program = relay.start(f"{late}:{RULE}", f"udp {late}:{RULE}", f"7006 -> {SERVER}:{ECHO_PORT}", ready=False)
    assert program.wait() == 1
    assert f"cannot listen on tcp {late}:7005: this host has no such address" in program.log.text
    assert "--wait-addresses" in program.log.text
    program = relay.start(f"{late}:{RULE}", f"7006 -> {SERVER}:{ECHO_PORT}", options=["--wait-addresses"])
    assert program.event("address-missing")["address"] == late
    assert is_served(lab.client, 7006)
    lab.router.ip(f"addr add {late}/32 dev lo")
    until(lambda: is_served(lab.client, 7005, late), 20, "the address is served")


# ---- circles

@pytest.mark.parametrize("rules", [
    [f"7000 -> {RELAY}:7000"], [f"udp 7000 -> {RELAY}:7000"], [f"7000 -> [{RELAY6}]:7000"],
    ["7000 -> 127.0.0.1:7001", "7001 -> 127.0.0.1:7000"], ["udp 7000 -> 127.0.0.1:7001", f"udp 7001 -> {RELAY}:7000"],
])
def test_rules_that_lead_round_are_refused(relay, rules):
    """Goal: rules that lead back to the relay, directly or through each other, are named, and nothing is started."""
    program = relay.start(*rules, ready=False)
    assert program.wait() == 2
    for number in range(1, len(rules) + 1):
        assert re.search(rf"{relay.file}:{number}: (tcp|udp) 700\d -> \S+ leads back to itself", program.log.text)


def test_a_name_that_leads_round_is_left_out(lab, relay, echo):
    """Goal: of a name's addresses the relay's own is not used, but the others are; other rules work."""
    lab.router.knows(**{"me.example": RELAY})
    program = relay.start("7000 -> me.example:7000", "udp 7000 -> me.example:7000", RULE)
    seen = program.event("circle")
    assert (seen["name"], seen["address"]) == ("me.example", RELAY)
    assert not is_served(lab.client, 7000)
    assert is_served(lab.client, 7005)
    assert relay.status()["circles"] == {
        "tcp 7000 -> me.example:7000": [RELAY], "udp 7000 -> me.example:7000": [RELAY]}
    with pytest.raises(AssertionError):
        relay.reload(f"7000 -> {RELAY}:7000", RULE)
    assert is_served(lab.client, 7005)


def test_a_datagram_that_comes_back_is_dropped(lab, relay):
    """Goal: a datagram that NAT leads back to the relay goes round once, not for ever."""
    lab.router.run("nft", "add", "table", "ip", "back")
    lab.router.run("nft", "add", "chain", "ip", "back", "out", "{ type nat hook output priority -100; }")
    lab.router.run("nft", f"add rule ip back out ip daddr 192.0.2.7 udp dport 7777 dnat to {RELAY}:7000")
    lab.router.ip("route add 192.0.2.7/32 via 10.3.0.2")
    program = relay.start("udp 7000 -> 192.0.2.7:7777")
    with udp_socket(lab.client, RELAY) as client:
        client.sendto(b"round", (RELAY, 7000))
        assert program.event("circle")["rule"] == "udp 7000 -> 192.0.2.7:7777"
        counters = relay.status()["rules"][0]["counters"]
        assert (counters["total"], counters["packets_in"], counters["refused"]) == (1, 1, 1)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_two_relays_that_lead_to_each_other(lab, relay, echo, protocol):
    """Goal: a connection or datagram does not go round for ever, though neither relay sees a socket of its own."""
    first = relay.start(f"{protocol} 7000 -> {RELAY}:7001", RULE)
    other = relay.host.home / "other.conf"
    other.write_text(f"{protocol} 7001 -> {RELAY}:7000\n")
    second = relay.start_with("--config", other, "--pidfile", relay.host.home / "other.pid")
    connection = lab.client.connect(7005, RELAY)
    if protocol == "tcp":
        assert not is_served(lab.client, 7000)
    else:
        with udp_socket(lab.client, RELAY) as client:
            client.sendto(b"round", (RELAY, 7000))
            until(lambda: "circle" in first.log.text + second.log.text, 20, "one of them has seen it")
    until(lambda: "circle" in first.log.text + second.log.text, 20, "one of them has seen it")
    counters = relay.status()["rules"][0]["counters"]
    assert counters["total"] < 400
    if protocol == "udp":
        packets = counters["packets_in"]
        assert packets < 400 and relay.status()["rules"][0]["counters"]["packets_in"] == packets
    assert echoes(connection) and is_served(lab.client, 7005)


def test_a_datagram_that_comes_back_to_another_worker_is_dropped(lab, relay):
    """Goal: as above, whichever worker gets it."""
    lab.router.run("nft", "add", "table", "ip", "back")
    lab.router.run("nft", "add", "chain", "ip", "back", "out", "{ type nat hook output priority -100; }")
    lab.router.run("nft", f"add rule ip back out ip daddr 192.0.2.7 udp dport 7777 dnat to {RELAY}:7000")
    lab.router.ip("route add 192.0.2.7/32 via 10.3.0.2")
    program = relay.start("udp 7000 -> 192.0.2.7:7777", options=["--workers", 4])
    for _ in range(8):
        with udp_socket(lab.client, RELAY) as client:
            client.sendto(b"round", (RELAY, 7000))
    program.event("circle")
    until(lambda: relay.status()["rules"][0]["counters"]["refused"] == 8, 10, "each was dropped when it came back")
    assert relay.status()["rules"][0]["counters"]["total"] == 8


def test_a_circle_that_no_rule_tells_is_ended(lab, relay, echo):
    """Goal: connections that come back through NAT end before they use up all descriptors; other rules are not
    affected."""
    lab.router.run("nft", "add", "table", "ip", "back")
    lab.router.run("nft", "add", "chain", "ip", "back", "out", "{ type nat hook output priority -100; }")
    lab.router.run("nft", f"add rule ip back out ip daddr 192.0.2.7 tcp dport 7777 dnat to {RELAY}:7000")
    lab.router.ip("route add 192.0.2.7/32 via 10.3.0.2")
    program = relay.start("7000 -> 192.0.2.7:7777", RULE)
    connection = lab.client.connect(7005, RELAY)
    assert echoes(connection)
    assert not is_served(lab.client, 7000)
    assert program.event("circle")["rule"] == "tcp 7000 -> 192.0.2.7:7777"
    assert relay.status()["rules"][0]["counters"]["total"] < 200
    assert echoes(connection) and is_served(lab.client, 7005)
