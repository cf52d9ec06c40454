"""mproxy relay rule: rules added to a running relay and removed from it."""

import json
import os
import signal

import pytest
from lab import until
from relays import ECHO_PORT, SERVER, Callers, echoes, is_served, start_echo

ECHO = f"{SERVER}:{ECHO_PORT}"
RULE = f"7005 -> {ECHO}"


@pytest.fixture(autouse=True)
def echo(lab):
    return start_echo(lab.server)


def rule(relay, *words):
    return relay.command("rule", *words, "--pidfile", relay.pidfile)


def test_a_rule_comes_and_goes(lab, relay):
    """Goal: served when the command returns, connections of others and its own go on; a new worker has it, too."""
    program = relay.start(RULE, options=["--workers", "2"])
    callers = Callers(lab.client, 7005)
    assert rule(relay, "add", f"7006 -> {ECHO} max=50") == (0, f"added: 7006 -> {ECHO} max=50\n")
    assert is_served(lab.client, 7006)
    connection = lab.client.connect(7006, "10.1.0.1")
    assert echoes(connection)
    callers.serve_more(10)
    callers.finish()
    for pid in relay.workers()[1:]:
        os.kill(pid, signal.SIGKILL)
    until(lambda: [worker["state"] for worker in relay.status()["workers"]] == ["running"] * 2, 20, "replaced")
    for _ in range(10):
        assert is_served(lab.client, 7006)
    assert "added: 7006" in program.event("rules-changed")["what"]
    assert relay.reload(RULE, f"7007 -> {ECHO}").startswith("3 rules: 1 added")
    assert is_served(lab.client, 7006)
    assert rule(relay, "remove", "7006")[0] == 0
    assert not is_served(lab.client, 7006)


def test_list_is_a_rule_file(lab, relay):
    """Goal: all rules with their options, and where they come from."""
    relay.start(f"{RULE} name=web max=7", f"udp 53 -> {SERVER}:53")
    rule(relay, "add", f"[::1]:7100-7101 -> {SERVER}:1-2 allow=::1")
    status, text = rule(relay, "list")
    assert status == 0
    assert text.splitlines()[0].endswith("# line 1")
    (relay.host.home / "listed.conf").write_text(text)
    assert relay.command("check", relay.host.home / "listed.conf") == (0, f"{relay.host.home}/listed.conf: 4 rules\n")
    assert json.loads(rule(relay, "list", "--json")[1])[1:] == [
        {"rule": f"udp 53 -> {SERVER}:53", "line": 2},
        {"rule": f"[::1]:7100 -> {SERVER}:1 allow=::1", "line": 0},
        {"rule": f"[::1]:7101 -> {SERVER}:2 allow=::1", "line": 0}]


def test_a_rule_of_the_file_is_back_after_a_reload(lab, relay):
    """Goal: it can be removed by its name; the answer says that the file still has it."""
    relay.start(f"{RULE} name=web", f"7006 -> {ECHO}")
    status, text = rule(relay, "remove", "web")
    assert status == 0 and text.endswith("; the next reload brings back what is still on line 1 of the file\n")
    assert not is_served(lab.client, 7005) and is_served(lab.client, 7006)
    assert relay.command("reload", "--pidfile", relay.pidfile)[0] == 0
    assert is_served(lab.client, 7005)


@pytest.mark.parametrize("words, status, says", [
    (["add", "7006 -> nowhere"], 2, "mproxy relay: not a valid target: nowhere; expected HOST:PORT or [IPV6]:PORT\n"),
    (["add", f"7005 -> {ECHO} max=3"], 2, "added rule: tcp 7005 is already used on line 1 (tcp 7005)"),
    (["add", "7009 -> 127.0.0.1:7009"], 2, "would relay to itself"),
    (["add", f"127.0.0.1:8999 -> {ECHO}"], 1, "added rule: cannot listen on tcp 127.0.0.1:8999"),
    (["remove", "7010"], 2, "no such rule: 7010; 'mproxy relay rule list' shows all"),
    (["add"], 2, "missing argument: RULE; expected mproxy relay rule add 'RULE'"),
    (["list", "7005"], 2, "unexpected argument: 7005"),
    ([], 2, "expected add, remove or list after 'mproxy relay rule'"),
    (["drop", "7005"], 2, "unknown action: drop; expected add, remove or list"),
    (["add", "7006 -> " + "a" * 5000 + ":1"], 2, "is too long; put it into the file and reload"),
])
def test_mistakes_change_nothing(lab, relay, words, status, says):
    relay.start(RULE)
    with lab.router.listen(8999):
        done, text = rule(relay, *words)
    assert done == status and says in text, text
    assert len(text.splitlines()) == 1
    assert len(relay.status()["rules"]) == 1 and is_served(lab.client, 7005)


def test_without_a_file(lab, relay):
    """Goal: the rule of a command line can be joined by others, and removed; with none left there is nothing to do."""
    relay.start_with("7005", SERVER, ECHO_PORT, "--pidfile", relay.pidfile)
    assert rule(relay, "add", f"7006 -> {ECHO}")[0] == 0
    assert is_served(lab.client, 7006)
    assert rule(relay, "remove", "7005")[0] == rule(relay, "remove", "7006")[0] == 0
    assert rule(relay, "list") == (0, "\n")
    assert relay.status()["rules"] == []
    assert rule(relay, "add", RULE)[0] == 0
    assert is_served(lab.client, 7005)
