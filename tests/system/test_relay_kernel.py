"""mproxy relay --kernel: what it installs, refuses, changes, and undoes at its end."""

import signal
import socket
from pathlib import Path

import pytest
from asking import SCHEMA
from lab import as_nobody, outage, until
from relays import ECHO_PORT, RELAY, SERVER, echoes, is_served, start_echo

from tests.root import real_root

RULE = f"7005 -> {SERVER}:{ECHO_PORT}"
SETTINGS = ("ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv4/conf/all/route_localnet")


@pytest.fixture
def echo(lab):
    return start_echo(lab.server)


def settings(host, value=None):
    """The kernel settings that kernel mode needs; sets them first if told."""
    with host.inside():
        for name in SETTINGS if value is not None else ():
            Path("/proc/sys/net", name).write_text(value)
        return [Path("/proc/sys/net", name).read_text().strip() for name in SETTINGS]


def start(relay, *rules, **more):
    return relay.start(*rules, options=["--kernel"], **more)


def table(host):
    return host.run("nft", "list", "ruleset")


def test_everything_is_taken_back(lab, relay, echo):
    """Goal: table and settings exist while it runs and are restored afterwards; nothing else is forwarded."""
    settings(lab.router, "0")
    program = start(relay, RULE)
    assert is_served(lab.client, 7005)
    assert settings(lab.router) == ["1", "0", "1"]
    with pytest.raises(OSError):
        lab.client.connect(ECHO_PORT, SERVER, timeout=1)
    assert "mproxy_relay" in table(lab.router)
    assert program.stop(within=30) == 0
    assert settings(lab.router) == ["0", "0", "0"]
    assert table(lab.router) == ""
    assert not is_served(lab.client, 7005)


def test_loopback_stays_private(lab, relay):
    """Goal: route_localnet does not let neighbours reach 127.0.0.1, except through a rule."""
    start_echo(lab.router, 8007)
    start(relay, "7007 -> 127.0.0.1:8007")
    assert is_served(lab.client, 7007)
    assert is_served(lab.router, 7007, "127.0.0.1")
    lab.client.ip(f"route add 127.9.9.9/32 via {RELAY} dev wifi", "rule add pref 0 to 127.9.9.9 lookup main")
    settings(lab.client, "1")
    with pytest.raises(OSError):
        lab.client.connect(8007, "127.9.9.9", timeout=1)


def test_killed_run_is_replaced(lab, relay, echo):
    """Goal: traffic works on after a kill; the next start takes over the table and the former settings."""
    settings(lab.router, "0")
    program = start(relay, RULE)
    program.signal(signal.SIGKILL)
    program.wait()
    assert is_served(lab.client, 7005)
    program = start(relay, f"7006 -> {SERVER}:{ECHO_PORT}")
    assert is_served(lab.client, 7006)
    assert not is_served(lab.client, 7005)
    assert program.stop(within=30) == 0
    assert settings(lab.router) == ["0", "0", "0"]
    assert table(lab.router) == ""


def test_a_killed_run_does_not_lead_past_the_rules_of_user_mode(lab, relay, echo):
    """Goal: without --kernel the next start takes table and settings back, or its port would never see a caller."""
    settings(lab.router, "0")
    program = start(relay, "7005 -> 127.0.0.1:1")
    program.signal(signal.SIGKILL)
    program.wait()
    assert not is_served(lab.client, 7005)
    program = relay.start(RULE)
    assert is_served(lab.client, 7005)
    assert "killed" in program.event("table-removed")["why"]
    assert settings(lab.router) == ["0", "0", "0"]
    assert table(lab.router) == ""
    assert program.stop(within=30) == 0


def test_user_mode_leaves_a_living_run_alone(lab, relay, echo):
    start(relay, RULE)
    other = relay.start_with("7009", SERVER, str(ECHO_PORT))
    assert is_served(lab.client, 7005)
    assert not other.events("table-removed")


def test_other_tables_are_left_alone(lab, relay, echo):
    """Goal: other tables in nftables never change."""
    lab.router.run("nft", "add", "table", "inet", "mine")
    program = start(relay, RULE)
    program.stop(within=30)
    assert table(lab.router).split() == ["table", "inet", "mine", "{", "}"]


def test_one_at_a_time(lab, relay, echo):
    """Goal: a second one in the same network is refused and changes nothing."""
    start(relay, RULE)
    second = relay.start_with("--kernel", "7009", SERVER, ECHO_PORT, ready=False)
    assert second.wait() == 1
    assert "another mproxy relay --kernel is running on this host" in second.log.text
    assert is_served(lab.client, 7005)


@pytest.mark.parametrize("words", ["flush ruleset", "flush table inet mproxy_relay", "delete table inet mproxy_relay",
                                   "flush chain inet mproxy_relay loopback"])
def test_what_somebody_takes_away_comes_back(lab, relay, echo, words):
    """Goal: after a firewall restart the relay puts its rules and guards back by itself, and says so."""
    settings(lab.router, "0")
    program = start(relay, RULE)
    assert is_served(lab.client, 7005)
    total = relay.status()["rules"][0]["counters"]["total"]
    before = lab.router.run("nft", "-s", "list", "ruleset")
    lab.router.run("nft", *words.split())
    program.event("table-restored")
    assert sorted(lab.router.run("nft", "-s", "list", "ruleset").split()) == sorted(before.split())
    assert is_served(lab.client, 7005)
    facts = relay.status()
    assert facts["state"] == "running" and facts["rules"][0]["counters"]["total"] > total
    relay.reload(RULE, f"7006 -> {SERVER}:{ECHO_PORT}")
    outage(1)  # longer than it takes to notice: what we change ourselves is no news
    assert len(program.events("table-restored")) == 1
    assert program.stop(within=30) == 0
    assert settings(lab.router) == ["0", "0", "0"]
    assert table(lab.router) == ""


def test_a_setting_that_is_switched_off_comes_back(lab, relay, echo):
    """Goal: forwarding that was on before, and is switched off meanwhile, is switched on again, now with the guard."""
    settings(lab.router, "1")
    program = start(relay, RULE)
    settings(lab.router, "0")
    lost = {"ipv4.conf.all.route_localnet", "ipv4.ip_forward"}
    until(lambda: lost == {name for event in program.events("setting-restored") for name in event["name"].split(", ")},
          20, "both are restored: at once, or one after the other if it looked while they were switched off")
    assert is_served(lab.client, 7005)
    with pytest.raises(OSError):
        lab.client.connect(ECHO_PORT, SERVER, timeout=1)
    assert program.stop(within=30) == 0
    assert settings(lab.router) == ["0", "0", "0"]


def test_forwarding_of_an_interface_comes_back(lab, relay, echo):
    """Goal: forwarding that is switched off for a single interface is noticed, too."""
    settings(lab.router, "0")
    program = start(relay, RULE)
    with lab.router.inside():
        closed = [place for place in Path("/proc/sys/net/ipv4/conf").glob("*/forwarding")
                  if place.parent.name not in ("all", "default", "lo")]
        for place in closed:
            place.write_text("0")
    names = {f"ipv4.conf.{place.parent.name}.forwarding" for place in closed}
    until(lambda: names == {name for event in program.events("setting-restored") for name in event["name"].split(", ")},
          20, "every interface forwards again")
    assert is_served(lab.client, 7005)
    assert program.stop(within=30) == 0
    with lab.router.inside():
        assert {place.read_text().strip() for place in closed} == {"0"}


def test_what_cannot_be_put_back_is_switched_off(lab, relay, echo):
    """Goal: if the table cannot be installed, forwarding is not left on without it, and `status` says broken; it is
    repaired later."""
    settings(lab.router, "0")
    program = start(relay, RULE)
    nft = lab.router.run("sh", "-c", "PATH=$PATH:/usr/sbin:/sbin command -v nft").strip()
    lab.router.run("sh", "-c", f"{nft} flush ruleset; mount --bind /dev/null {nft}")
    program.event("broken")
    assert settings(lab.router) == ["0", "0", "0"]
    facts = relay.status()
    assert facts["state"] == "broken"
    SCHEMA.validate(facts | {"socket": "where mproxy status found it"})
    assert not is_served(lab.client, 7005)
    lab.router.run("umount", nft)
    program.event("repaired")
    assert is_served(lab.client, 7005)
    assert relay.status()["state"] == "running"


@pytest.mark.parametrize("chain, rule", [
    ("{ type filter hook forward priority 0; policy drop; }", None),
    ("{ type filter hook forward priority 0; policy accept; }", "counter reject"),
])
def test_a_firewall_that_drops_is_told_of(lab, relay, echo, chain, rule):
    """Goal: another chain that would drop what we forward is named at the start."""
    lab.router.run("nft", "add", "table", "ip", "filter")
    lab.router.run("nft", "add", "chain", "ip", "filter", "FORWARD", chain)
    if rule:
        lab.router.run("nft", "add", "rule", "ip", "filter", "FORWARD", rule)
    program = start(relay, RULE)
    assert program.event("forward-drops")["chain"] == "ip filter FORWARD"


@pytest.mark.parametrize("rule, says", [
    ("80 -> a:1 proxy=v2 max=3", "--kernel does not support proxy, max; change the rule, or leave out --kernel"),
    ("80 -> a:1 accept-proxy", "--kernel does not support accept-proxy"),
    ("80 -> a:1 timeout=5s", "--kernel does not support timeout"),
    ("80 -> a:1, b:1 balance=leastconn", "--kernel does not support balance"),
    ("80 -> 10.0.0.1:1, 10.0.0.2:1", "--kernel does not support several targets (2)"),
    ("80 -> [::1]:1", "--kernel does not support ::1"),
    ("0.0.0.0:80 -> [fd00::1]:1", "--kernel cannot translate between IPv4 and IPv6"),
])
def test_impossible_rules(relay, rule, says):
    """Goal: rules that the kernel cannot implement are refused with their lines, before anything is installed."""
    program = start(relay, RULE, rule, ready=False)
    assert program.wait() == 2
    assert f"{relay.file}:2: {says}" in program.log.text
    assert table(relay.host) == ""
    status, text = relay.command("check", "--kernel", relay.file)
    assert status == 2
    assert says in text


def test_name_with_several_addresses(lab, relay):
    """Goal: a name with several addresses is refused, since the kernel does not choose between them."""
    lab.router.hosts_file.write_text("10.3.0.2 twins.example\n10.3.0.3 twins.example\n")
    program = start(relay, "7005 -> twins.example:1", ready=False)
    assert program.wait() == 2
    assert "--kernel cannot choose between the addresses of twins.example: 10.3.0.2, 10.3.0.3" in program.log.text
    assert table(lab.router) == ""


def test_name_that_comes_later(lab, relay, echo):
    """Goal: a name without an address does not stop other rules, and is used as soon as it has one."""
    program = start(relay, RULE, f"7006 -> later.example:{ECHO_PORT}")
    assert is_served(lab.client, 7005)
    assert "later.example" in relay.status()["unresolved"]
    lab.router.knows(**{"later.example": SERVER})
    program.event("resolved", within=60)
    until(lambda: is_served(lab.client, 7006), 20, "the rule of the name works")


@pytest.mark.skipif(not real_root(), reason="only the real root can become another user")
def test_without_root(relay):
    """Goal: it says that it needs root."""
    program = relay.start_with("--kernel", "7005", SERVER, ECHO_PORT, ready=False,
                               prefix=as_nobody())
    assert program.wait() == 2
    assert "--kernel needs root" in program.log.text


def test_without_nft(relay):
    """Goal: it names the missing package."""
    relay.host.run("sh", "-c", "mount --bind /dev/null $(PATH=$PATH:/usr/sbin:/sbin command -v nft)")
    program = start(relay, RULE, ready=False)
    assert program.wait() == 1
    assert "--kernel needs the program nft: install the package nftables" in program.log.text


def test_port_of_another_program(lab, relay):
    """Goal: a port that a program listens on is not taken away from it."""
    with lab.router.listen(7005, "0.0.0.0"):
        program = start(relay, RULE, ready=False)
        assert program.wait() == 1
    assert f"{relay.file}:1: cannot listen on tcp 7005: the port is in use" in program.log.text


def test_reload(lab, relay, echo):
    """Goal: rules come and go, a connection goes on, counters are kept, a wrong file changes nothing."""
    start(relay, RULE)
    connection = lab.client.connect(7005, RELAY)
    assert echoes(connection)
    relay.reload(RULE, f"7006 -> {SERVER}:{ECHO_PORT}")
    assert echoes(connection)
    assert is_served(lab.client, 7006)
    facts = relay.status()["rules"][0]["counters"]
    assert (facts["total"], facts["connections"]) == (1, 1)
    relay.write("7006 -> a:1 proxy=v1")
    status, text = relay.command("reload", "--pidfile", relay.pidfile)
    assert status == 1
    assert "--kernel does not support proxy" in text
    assert is_served(lab.client, 7005)
    relay.reload(f"7006 -> {SERVER}:{ECHO_PORT}")
    assert not is_served(lab.client, 7005)
    assert echoes(connection)
    assert relay.status()["totals"]["tcp"]["total"] >= 3


def test_allow_and_deny(lab, relay, echo):
    """Goal: lists of networks work in the kernel as well."""
    start(relay, f"{RULE} allow=10.1.0.0/24", f"7006 -> {SERVER}:{ECHO_PORT} allow=10.0.0.0/8 deny=10.1.0.0/24",
          f"{RELAY}:7007 -> {SERVER}:{ECHO_PORT} deny=10.1.0.2")
    assert is_served(lab.client, 7005)
    for port in (7006, 7007):
        with pytest.raises(OSError):
            lab.client.connect(port, RELAY, timeout=1)


def test_udp_flows_follow_the_rule(lab, relay):
    """Goal: after a reload the datagrams of a client that never stopped go to the new target: its flow is forgotten."""
    def server(port):
        with lab.server.inside():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((SERVER, port))
        sock.settimeout(15)
        return sock
    first, second = server(8101), server(8102)
    start(relay, f"udp 7005 -> {SERVER}:8101")
    with lab.client.inside():
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(15)
    client.connect((RELAY, 7005))
    for server_socket, rule in ((first, None), (second, f"udp 7005 -> {SERVER}:8102")):
        if rule:
            relay.reload(rule)
        client.send(b"question")
        data, address = server_socket.recvfrom(100)
        assert data == b"question"
        server_socket.sendto(b"answer", address)
        assert client.recv(100) == b"answer"


def test_drain(lab, relay, echo):
    """Goal: after SIGTERM no new connection is forwarded, and an existing one is finished first."""
    program = start(relay, RULE)
    connection = lab.client.connect(7005, RELAY)
    assert echoes(connection)
    program.signal(signal.SIGTERM)
    program.event("stopping")
    until(lambda: not is_served(lab.client, 7005), 20, "nobody new is led")
    assert echoes(connection)
    connection.close()
    assert program.wait(within=30) == 0
    assert table(lab.router) == ""


@pytest.mark.skipif(not real_root(), reason="only the real root may have a socket buffer for so large a transaction")
def test_ten_thousand_rules(lab, relay, echo):
    """Goal: ten thousand rules are installed in one transaction of about a second."""
    start(relay, *(f"{port} -> {SERVER}:{ECHO_PORT}" for port in range(10_001, 20_001)))
    assert is_served(lab.client, 10_001)
    assert is_served(lab.client, 20_000)
