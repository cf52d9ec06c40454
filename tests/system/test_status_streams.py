"""mproxy status of streams, and mproxy kill of one: each field in a known scenario."""

import os
import socket
import time
from pathlib import Path

import pytest
from asking import ask, facts, session_of, streams_of, until_stream
from lab import until
from proxies import CPROXY_PORT, DAEMON_PORT
from traffic import Traffic, ends_by_reset, fill, read_exactly

from mproxy.service import control

MANY = 10_000


def test_fields_of_a_stream_that_flows(pair, served):
    (here,), (there,) = streams_of(pair.lab.client, "cproxy"), streams_of(pair.lab.server, "sproxy")
    for stream in (here, there):
        assert (stream["stream"], stream["state"], stream["slow"]) == (1, "open", None)
        assert (stream["sent_bytes"], stream["received_bytes"]) == (5, 5)
        assert stream["undelivered_bytes"] == 0 and stream["unacknowledged_bytes"] in (0, 5)  # acks may wait
        assert 0 <= stream["age_s"] < 60
    assert here["target"] is None
    assert here["application"]["local"] == ["127.0.0.1", CPROXY_PORT]
    assert here["application"]["peer"] == list(served.getsockname())
    assert here["application"]["pid"] == os.getpid()
    assert here["application"]["process"] == Path("/proc/self/comm").read_text().strip()
    assert there["target"] == f"127.0.0.1:{DAEMON_PORT}"
    assert there["application"]["peer"] == ["127.0.0.1", DAEMON_PORT]
    assert there["application"]["pid"] in [program.pid for program in pair.lab.server.programs]


def test_a_stream_to_a_target_of_its_own(pair):
    pair.echo()
    pair.start(sproxy=["--allow", f"localhost:{DAEMON_PORT}"], cproxy=["--target", f"localhost:{DAEMON_PORT}"],
               daemon="127.0.0.1:1")
    app = pair.app()
    app.sendall(b"hello")
    assert read_exactly(app, 5) == b"hello"
    assert streams_of(pair.lab.client, "cproxy")[0]["target"] == f"localhost:{DAEMON_PORT}"
    assert streams_of(pair.lab.server, "sproxy")[0]["target"] == f"127.0.0.1:{DAEMON_PORT}"


def test_text_shows_ten_streams_and_more_on_request(pair, served):
    apps = [pair.app() for _ in range(11)]
    until(lambda: session_of(pair.lab.client, "cproxy")["streams"] == 12, 30, "12 streams")
    text = ask(pair.lab.client, "status")
    assert text.count("  stream ") == 10 and "and 2 more streams: --streams shows all" in text, text
    assert f"process {os.getpid()})" in text, text
    assert ask(pair.lab.client, "status", "--streams").count("/") >= 12
    assert "stream_list" not in session_of(pair.lab.client, "cproxy")
    del apps


def test_who_is_slow(pair):
    """Goal: if a daemon does not read, `waits_for` is the application at its end and the peer at the other; if the path
    is narrow, it is the path, at the end that sends."""
    with pair.lab.server.listen(DAEMON_PORT) as listener:
        pair.start(cproxy=["--window", "256KiB"])
        app, daemon = pair.joined(listener)
        fill(app)
        there = until_stream(pair.lab.server, "sproxy", lambda stream: stream["slow"] == "application", "a slow daemon")
        assert there["undelivered_bytes"] > 0
        here = until_stream(pair.lab.client, "cproxy", lambda stream: stream["slow"] == "peer", "a slow peer")
        assert here["unacknowledged_bytes"] > 0
        assert here["sent_bytes"] > here["received_bytes"] == 0
        pair.lab.wifi.cut()
        pair.cproxy.event("lost")
        assert streams_of(pair.lab.client, "cproxy")[0]["slow"] == "path"
        daemon.close()


def test_a_narrow_path_is_slow(pair):
    with pair.lab.server.listen(DAEMON_PORT) as listener:
        pair.start()
        app, daemon = pair.joined(listener)
        pair.lab.wifi.shape("2mbit")
        fill(app, most=3_000_000)
        until_stream(pair.lab.client, "cproxy", lambda stream: stream["slow"] == "path", "a slow path")
        daemon.close()


def test_states_of_a_stream(pair):
    with pair.lab.server.listen(DAEMON_PORT) as listener:
        pair.start()
        app, daemon = pair.joined(listener)
        app.shutdown(socket.SHUT_WR)
        for host, which in ((pair.lab.client, "cproxy"), (pair.lab.server, "sproxy")):
            until_stream(host, which, lambda stream: stream["state"] == "half-closed", "a half-closed stream")
        pair.lab.wifi.cut()
        pair.cproxy.event("lost")
        app, _ = pair.app(), app.close()
        app.sendall(b"bytes that wait")
        until_stream(pair.lab.client, "cproxy", lambda stream: stream["unacknowledged_bytes"] == 15, "a second one")
        app.close()
        left = until_stream(pair.lab.client, "cproxy", lambda stream: stream["stream"] == 2, "a second one")
        assert left["state"] in ("left", "half-closed")
        daemon.close()


@pytest.mark.parametrize("side", ["client", "server"])
def test_kill_ends_one_stream_at_both_ends(pair, side):
    """Goal: its application and its daemon are reset, both logs say why, and other streams are not affected."""
    with pair.lab.server.listen(DAEMON_PORT) as listener:
        pair.start()
        killed, killed_daemon = pair.joined(listener)
        other, other_daemon = pair.joined(listener)
        name = f"{pair.cproxy.event('connected')['session']}/1"
        assert name in ask(getattr(pair.lab, side), "kill", "--reason", "a \"stray\" one", name)
        assert ends_by_reset(killed) and ends_by_reset(killed_daemon)
        for program in (pair.cproxy, pair.sproxy):
            event = program.event("stream-killed")
            assert event["stream"] == "1" and "mproxy kill: a" in event["why"] and "stray" in event["why"]
        other.sendall(b"still there")
        assert read_exactly(other_daemon, 11) == b"still there"
        assert [stream["stream"] for stream in streams_of(pair.lab.client, "cproxy")] == [2]
        ask(getattr(pair.lab, side), "kill", name, status=1)
        assert not pair.cproxy.events("ended") and not pair.cproxy.events("stream-reset")


def test_kill_of_a_stream_while_the_path_is_gone(pair):
    """Goal: the application is reset at once, the daemon as soon as there is a path."""
    with pair.lab.server.listen(DAEMON_PORT) as listener:
        pair.start()
        app, daemon = pair.joined(listener)
        pair.lab.wifi.cut()
        pair.cproxy.event("lost")
        ask(pair.lab.client, "kill", f"{pair.cproxy.event('connected')['session']}/1")
        assert ends_by_reset(app)
        pair.lab.wifi.mend()
        assert ends_by_reset(daemon)
        assert "other end" in pair.sproxy.event("stream-killed")["why"]


def test_kill_of_the_stream_of_stdio(pair):
    pair.echo()
    pair.start_sproxy()
    program = pair.start_stdio(stdin=-1)
    program.process.stdin.write(b"hello")
    program.process.stdin.flush()
    program.expect("hello")
    assert streams_of(pair.lab.client, "cproxy")[0]["application"] is None
    ask(pair.lab.client, "kill", f"{session_of(pair.lab.client, 'cproxy')['session']}/1")
    assert program.wait() == 1


def test_ten_thousand_streams(pair, served):
    """Goal: one answer has all of them, and does not hold up the streams that are busy."""
    traffic = Traffic([pair.app() for _ in range(3)])
    traffic.goes_on()
    apps = [pair.app() for _ in range(MANY)]
    until(lambda: session_of(pair.lab.server, "sproxy")["streams"] == MANY + 4, 60, f"{MANY} streams")
    for host, program in ((pair.lab.client, pair.cproxy), (pair.lab.server, pair.sproxy)):
        name = "cproxy" if program is pair.cproxy else "sproxy"
        path = str(host.home / "runtime" / "mproxy" / f"{name}-{program.pid}.sock")
        began, before = time.monotonic(), program.cpu_seconds()
        answer = control.ask(path, "status", streams=True)
        took, used = time.monotonic() - began, program.cpu_seconds() - before
        (session,) = answer["sessions"]
        assert len({stream["stream"] for stream in session["stream_list"]}) == MANY + 4
        assert all(stream["application"]["peer"] for stream in session["stream_list"])
        print(f"{name}: {MANY} streams in {took * 1000:.0f} ms, of which {used * 1000:.0f} ms of its processor")
        traffic.goes_on(more=1000)
    assert len(facts(pair.lab.client, "cproxy")["sessions"]) == 1
    traffic.finish()
    for app in apps:
        app.close()
