"""mproxy relay status: every promised number, and which addresses are down."""

import pytest
from asking import SCHEMA
from lab import until
from relays import ECHO_PORT, RELAY, SERVER, echoes, is_served, start_echo

RULE = f"7005 -> {SERVER}:{ECHO_PORT}"


@pytest.fixture
def echo(lab):
    return start_echo(lab.server)


def test_status_as_json(lab, relay, echo):
    """Goal: every promised number is there and right."""
    relay.start(RULE, f"udp 53 -> {SERVER}:53", f"7010-7012 -> {SERVER}:8010-8012", options=["--workers", "2"])
    with lab.client.connect(7005, RELAY) as connection:
        assert echoes(connection, b"x" * 1000)
        facts = relay.status()
    assert {"version", "pid", "mode", "state", "uptime_s", "reloads", "rules_from", "last_reload_errors", "workers",
            "rules", "totals", "unresolved"} <= facts.keys()
    SCHEMA.validate(facts | {"socket": "where mproxy status found it"})
    assert facts["mode"] == "user"
    assert [worker["state"] for worker in facts["workers"]] == ["running"] * 2
    assert len(facts["rules"]) == 5
    tcp, udp = facts["rules"][:2]
    assert (tcp["line"], tcp["protocol"], tcp["port"], tcp["targets"]) == (1, "tcp", 7005, [f"{SERVER}:{ECHO_PORT}"])
    assert tcp["counters"] | {"connections": 1, "total": 1, "refused": 0, "failed": 0, "timed_out": 0,
                              "bytes_in": 1000, "bytes_out": 1000} == tcp["counters"]
    assert {"sessions", "total", "refused", "evicted", "errors", "packets_in", "packets_out", "bytes_in",
            "bytes_out"} <= udp["counters"].keys()
    assert facts["totals"]["tcp"]["bytes_out"] == 1000
    assert sum(worker["connections"] for worker in facts["workers"]) == 1


def test_status_for_people(lab, relay, echo):
    """Goal: the text names process, rules and workers; if only one relay runs, it needs no pidfile."""
    relay.start(RULE)
    assert is_served(lab.client, 7005)
    status, text = relay.command("status")
    assert status == 0
    assert "user mode, 1 rule from" in text
    assert f"tcp 7005 -> {SERVER}:{ECHO_PORT}" in text
    assert "worker 0: running" in text


def test_status_shows_which_addresses_are_down(lab, relay, echo):
    """Goal: both forms show the dead one of a name's two addresses, with the reason, until it answers."""
    lab.router.knows(**{"two.example": f"10.3.0.99 {SERVER}"})
    lab.server.ip("addr add 10.3.0.99/32 dev lo")
    lab.server.run("nft", "add", "table", "ip", "dead")
    lab.server.run("nft", "add", "chain", "ip", "dead", "in", "{ type filter hook input priority 0; }")
    lab.server.run("nft", f"add rule ip dead in ip daddr 10.3.0.99 tcp dport {ECHO_PORT} reject with tcp reset")
    relay.start(f"7005 -> two.example:{ECHO_PORT}", options=["--workers", "2"])
    expected = {f"two.example:{ECHO_PORT} at 10.3.0.99": "Connection refused"}

    def down():
        assert is_served(lab.client, 7005)
        return relay.status()["rules"][0]["down"]
    until(lambda: down() == expected, 10, "the dead address is shown")
    SCHEMA.validate(relay.status() | {"socket": "where mproxy status found it"})
    assert f"     down: two.example:{ECHO_PORT} at 10.3.0.99: Connection refused\n" in relay.command("status")[1]
    lab.server.run("nft", "delete", "table", "ip", "dead")
    until(lambda: down() == {}, 20, "it is no more")
