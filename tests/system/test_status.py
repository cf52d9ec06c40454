"""mproxy status, kill and wait: what they say in a known scenario, who may ask, and that asking does no harm."""

import contextlib
import json
import signal
import socket
import time

import pytest
from asking import ask, facts, session_of
from lab import as_nobody, outage, until
from proxies import CPROXY_PORT, DAEMON_PORT, OVER_TCP, SPROXY_PORT
from relays import MPROXY
from traffic import Traffic, ends_by_reset, read_exactly

from mproxy.service.control import short_path
from tests.root import real_root


def control_socket(pair, side):
    """A connection to the control socket of cproxy or sproxy."""
    host = pair.lab.client if side == "cproxy" else pair.lab.server
    (path,) = (host.home / "runtime" / "mproxy").glob(f"{side}-*.sock")
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(15)
    with short_path(str(path)) as short:
        connection.connect(short)
    return connection


@pytest.mark.parametrize("carrier_options", [OVER_TCP, []], ids=["tls", "udp"])
def test_fields_of_a_session_that_flows(pair, served):
    def same_carrier():
        """Both ends' words, unless the session is just moving from TCP to UDP."""
        both = session_of(pair.lab.client, "cproxy"), session_of(pair.lab.server, "sproxy")
        ours, theirs = (each["carrier"] or {} for each in both)
        return both if ours.get("local", "ours") == theirs.get("peer") else None
    client, server = until(same_carrier, 30, "one carrier")
    assert client["session"] == server["session"] == pair.cproxy.event("connected")["session"]
    for session in (client, server):
        assert (session["state"], session["why"], session["next_try_s"]) == ("connected", "", None)
        assert (session["streams"], session["streams_ever"]) == (1, 1)
        assert (session["sent_bytes"], session["received_bytes"], session["resent_bytes"]) == (5, 5, 0)
        assert session["outages"] == {"count": 0, "longest_s": 0, "total_s": 0, "recent": []}
        assert session["heartbeat_s"] == 1 and 0 < session["memory_bytes"] < 1 << 20
        assert 0 <= session["since_s"] <= session["age_s"] + 0.1 and session["last_heard_s"] < 5
    assert client["peer"] == f"{pair.lab.server_address}:{SPROXY_PORT}"
    assert server["key"] == pair.sproxy.event("connected")["key"]
    assert client["key"] == pair.cproxy.event("host-remembered")["fingerprint"]
    program = facts(pair.lab.client, "laptop")
    assert (program["program"], program["name"], program["pid"]) == ("cproxy", "laptop", pair.cproxy.process.pid)
    assert f"127.0.0.1:{CPROXY_PORT}" in program["listening"]
    program = facts(pair.lab.server, str(pair.sproxy.process.pid))
    assert program["name"] == f"sproxy:{SPROXY_PORT}->127.0.0.1:{DAEMON_PORT}"


@pytest.mark.parametrize("carrier_options", [OVER_TCP], ids=["tls"])
def test_outages_are_counted_and_measured(pair, served):
    """Goal: three cuts are three outages, on both sides; the longest is as long as the test measured."""
    longest = 0
    for cut, length in enumerate((1, 4, 1), 1):
        began = time.monotonic()
        pair.lab.wifi.cut()
        outage(length)
        pair.cproxy.event("lost", count=cut)
        pair.sproxy.event("lost", count=cut)
        away = session_of(pair.lab.client, "cproxy")
        assert away["state"] == "away" and away["why"] and away["outages"]["count"] == cut
        assert away["next_try_s"] is not None
        pair.lab.wifi.mend()
        pair.cproxy.event("resumed", count=cut)
        pair.sproxy.event("resumed", count=cut)
        longest = max(longest, time.monotonic() - began)
    for host, which in ((pair.lab.client, "cproxy"), (pair.lab.server, "sproxy")):
        session = session_of(host, which)
        assert session["state"] == "connected" and session["outages"]["count"] == 3
        # From the last byte on: a heartbeat earlier than the cut at most.
        assert 4 <= session["outages"]["longest_s"] <= longest + 1.5
        assert session["outages"]["longest_s"] < session["outages"]["total_s"]
        recent = session["outages"]["recent"]
        assert max(each["lasted_s"] for each in recent) == session["outages"]["longest_s"]
        assert abs(sum(each["lasted_s"] for each in recent) - session["outages"]["total_s"]) < 0.01
        assert all(each["why"] for each in recent) and recent[0]["began_s"] < recent[1]["began_s"]


@pytest.mark.parametrize("carrier_options", [OVER_TCP, []], ids=["tls", "udp"])
def test_an_early_change_of_network_is_no_outage(pair, served):
    traffic = Traffic([pair.app()])
    pair.lab.wifi.pull()
    pair.lab.wifi.give(20)
    pair.comes_from(pair.lab.wifi.address(20))
    traffic.goes_on(more=1000)
    assert session_of(pair.lab.client, "cproxy")["outages"]["total_s"] < 1


def test_a_cproxy_without_a_server_says_why(pair):
    pair.start_cproxy("--eager")
    pair.cproxy.event("dial-failed")
    session = session_of(pair.lab.client, "cproxy")
    assert (session["state"], session["session"], session["carrier"]) == ("connecting", "", None)
    assert "refused" in session["why"] and session["next_try_s"] is not None
    assert "connecting" in ask(pair.lab.client, "status")


@pytest.mark.parametrize("carrier_options", [OVER_TCP, []], ids=["tls", "udp"])
def test_text_names_everything(pair, served):
    kind = "datagram" if pair.uses_udp else "tcp+tls"
    text = until(lambda: (said if kind in (said := ask(pair.lab.client, "status")) else None), 30, kind)
    for word in ("laptop", "connected for", "1 stream", "5 B sent", "round trip", "heartbeat 1 s",
                 "key SHA256:", "/1  open for"):
        assert word in text, text
    assert "nothing is running" in ask(pair.lab.router, "status", status=1)


def test_an_open_door_is_shown(pair, lab):
    """Goal: status says who needs no key, and the command that it names ends that."""
    pair.start_sproxy()
    assert "  open to anyone whose packets arrive here: no key is asked for" in ask(lab.server, "status")
    door = facts(lab.server, "sproxy")["open"]
    lab.server.run("sh", "-c", door["close"])
    until(lambda: facts(lab.server, "sproxy")["open"] is None, 30, "a closed door")
    assert "  open to " not in ask(lab.server, "status")


def test_a_transfer_is_shown_at_both_ends(lab, tmp_path):
    """Goal: it shows how much of the total is done, on a path that takes 20 s for it."""
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 40_000)
    receiver = lab.server.start(MPROXY, "recv", "--open", "--name", "inbox", "7000", "-o", f"{tmp_path}/target/")
    receiver.event("listening")
    lab.wifi.shape("4mbit")
    lab.client.start(MPROXY, "send", source, lab.server_address, "7000")

    def halfway(host, which):
        return until(lambda: [each for each in facts(host, which)["transfers"] if each["moved_bytes"] > 1_000_000], 30,
                     "a megabyte")[0]
    there, here = halfway(lab.server, "inbox"), halfway(lab.client, "send")
    assert here["total_bytes"] == 256 * 40_000 and here["left_s"] > 0
    assert 0 < there["bytes_per_second"] < 1_000_000
    assert "left" in ask(lab.client, "status", "send")


@pytest.mark.parametrize("side", ["client", "server"])
def test_kill_ends_a_session_at_both_ends(pair, served, side):
    """Goal: the application is reset, both logs say who and why, and the next application has a new session."""
    session = pair.cproxy.event("connected")["session"]
    said = ask(getattr(pair.lab, side), "kill", "--reason", "moving house", session)
    assert session in said
    assert ends_by_reset(served)
    for program in (pair.cproxy, pair.sproxy):
        assert program.event("ended")["why"].endswith("ended by mproxy kill: moving house"), "the same words"
    for host, which in ((pair.lab.client, "cproxy"), (pair.lab.server, "sproxy")):
        (ended,) = facts(host, which)["endings"]
        assert ended["session"] == session and "moving house" in ended["why"] and ended["ended_s"] < 30
    app = pair.app()
    app.sendall(b"again")
    assert read_exactly(app, 5) == b"again"
    assert ask(pair.lab.client, "kill", session, status=1) == ""


@pytest.mark.parametrize("carrier_options", [OVER_TCP, []], ids=["tls", "udp"])
def test_kill_works_while_the_path_is_gone(pair, served):
    session = pair.cproxy.event("connected")["session"]
    pair.lab.wifi.cut()
    pair.cproxy.event("lost")
    ask(pair.lab.client, "kill", session)
    assert ends_by_reset(served)


def test_wait(pair, served):
    client = pair.lab.client
    ask(client, "wait", "--timeout", "20s", "laptop")
    ask(client, "wait", "--for", "away", "--timeout", "300ms", "laptop", status=1)
    waiting = client.start(MPROXY, "wait", "--for", "away", "--timeout", "30s")
    pair.lab.wifi.cut()
    assert waiting.wait(within=40) == 0
    pair.lab.wifi.mend()
    ask(client, "wait", "--for", "connected", "--timeout", "30s")
    served.close()
    pair.cproxy.stop(within=30)
    ask(client, "wait", "--for", "ended", "--timeout", "5s")
    assert not list((client.home / "runtime" / "mproxy").iterdir())


def test_what_a_crash_left_is_replaced_or_passed_over(pair, served):
    pair.cproxy.signal(signal.SIGKILL)
    pair.cproxy.wait()
    assert "nothing is running" in ask(pair.lab.client, "status", status=1)
    pair.start_cproxy("--eager")
    assert session_of(pair.lab.client, "cproxy")["state"] in ("connecting", "connected")


def test_usage(pair):
    for words in (["status", "--what"], ["kill"], ["kill", "4f2a91c0/x"], ["wait", "--for", "ever"],
                  ["wait", "--timeout", "soon"]):
        program = pair.lab.client.start(MPROXY, *words)
        assert program.wait() == 2
        assert len(program.log.text.strip().splitlines()) == 1, str(program)


@pytest.mark.skipif(not real_root(), reason="becomes another user: needs the real root")
def test_another_user_is_not_shown_and_not_served(pair, served):
    """Goal: the system keeps other users away, and so does the program if its directory was made accessible."""
    client = pair.lab.client
    (path,) = (client.home / "runtime" / "mproxy").iterdir()
    nobody = {"XDG_RUNTIME_DIR": str(client.home / "runtime")}
    program = client.start(*as_nobody(), MPROXY, "status", env=nobody)
    assert program.wait() == 1 and "laptop" not in program.out.text
    path.parent.chmod(0o777)
    path.chmod(0o777)
    program = client.start(*as_nobody(), MPROXY, "status", env=nobody)
    assert program.wait() == 1 and "laptop" not in program.out.text
    assert "cannot ask" in program.log.text


GARBAGE = {
    "no JSON": b"status\n", "no object": b"[1]\n", "no command": b"{}\n", "strange command": b'{"command": ["a"]}\n',
    "unknown command": b'{"command": "dance"}\n', "odd kill": b'{"command": "kill", "session": [1], "stream": {}}\n',
    "no such session": b'{"command": "kill", "session": "", "reason": [1]}\n', "deep": b"[" * 4000 + b"\n",
    "bytes": bytes(range(256)) + b"\n"}


@pytest.mark.parametrize("side", ["cproxy", "sproxy"])
def test_bad_requests_get_one_line_and_the_next_one_an_answer(pair, served, side):
    for text in GARBAGE.values():
        with control_socket(pair, side) as connection, connection.makefile("rb") as answers:
            connection.sendall(text)
            if text.count(b"\n") == 1:
                assert json.loads(answers.readline())["ok"] is False
            connection.sendall(b'{"command": "status"}\n')
            assert any(json.loads(line).get("program") == side for line in answers)


def test_hostile_clients_do_not_stop_the_traffic(pair, served):
    """Goal: an endless line, requests whose answers are not read, and dozens of connections do not stop the bytes."""
    traffic = Traffic([pair.app() for _ in range(3)])
    with contextlib.ExitStack() as stack:
        for number in range(40):
            connection = stack.enter_context(control_socket(pair, "sproxy"))
            connection.settimeout(0.2)
            with contextlib.suppress(OSError):
                connection.sendall(
                    b"x" * 1_000_000 if number % 2 else b'{"command": "status", "streams": true}\n' * 10_000)
            traffic.goes_on(more=1000)
        assert session_of(pair.lab.server, "sproxy")["streams"] == 4
    traffic.goes_on(more=10_000)
    traffic.finish()
    until(lambda: len(list((pair.lab.server.home / "runtime" / "mproxy").iterdir())) == 1, 5, "its socket")
