"""What dies with a proxy, what ends at its time, and what goes on: killed, restarted, idle, replaced."""

import errno
import os
import signal
import subprocess
import time

import pytest
from lab import SLOWNESS_S, outage, until
from proxies import CPROXY_PORT, DAEMON_PORT
from traffic import Traffic, ends_by_reset, read_exactly, read_to_end


@pytest.fixture
def daemon(lab):
    with lab.server.listen(DAEMON_PORT) as listener:
        yield listener


def still_open(connection):
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False
    finally:
        connection.settimeout(15)


def ended(connection):
    """Waits for the end of a connection to the daemon, in either way."""
    try:
        return read_to_end(connection) == b""
    except OSError as error:
        assert error.errno == errno.ECONNRESET
        return True


def test_sproxy_killed_and_restarted(pair, daemon):
    """Goal: the session is unknown to the new sproxy: its applications are reset, one log line says so, and the next
    connection is served in a new session without a restart of cproxy."""
    pair.start()
    streams = [pair.joined(daemon) for _ in range(3)]
    pair.sproxy.stop(signal.SIGKILL)
    pair.start_sproxy()
    assert all(ends_by_reset(app) for app, _ in streams)
    assert pair.cproxy.event("ended")["why"]
    assert len(pair.cproxy.events("ended")) == 1
    app, connection = pair.joined(daemon)
    connection.sendall(b"new session")
    assert read_exactly(app, 11) == b"new session"
    sessions = [event["session"] for event in pair.cproxy.events("connected")]
    assert len(set(sessions)) == 2


def test_session_waits_for_an_sproxy_that_refuses(pair, daemon, lab):
    """Goal: a session that exists is not given up because nobody listens for a while (a firewall that rejects)."""
    pair.start()
    app, connection = pair.joined(daemon)
    reject = "table inet t { chain c { type filter hook input priority 0; tcp dport 6200 reject with tcp reset; }; }"
    lab.server.run("nft", "-f", "-", input=reject)
    pair.cproxy.event("dial-failed")
    outage(2)
    lab.server.run("nft", "delete", "table", "inet", "t")
    pair.cproxy.event("resumed")
    app.sendall(b"patience")
    assert read_exactly(connection, 8) == b"patience"


def test_cproxy_killed_for_good(pair, daemon):
    """Goal: nobody comes back: sproxy's daemon connections stay for --session-ttl, then end, with a log line."""
    pair.start(sproxy=["--session-ttl", "3s"])
    streams = [pair.joined(daemon) for _ in range(3)]
    pair.cproxy.stop(signal.SIGKILL)
    killed_at = time.monotonic()
    pair.sproxy.event("lost")
    outage(1.5)
    assert all(still_open(connection) for _, connection in streams)
    assert all(ended(connection) for _, connection in streams)
    assert 2.5 < time.monotonic() - killed_at < 7 + SLOWNESS_S
    assert pair.sproxy.event("ended")["why"]


def test_cproxy_killed_and_started_again(pair, daemon):
    """Goal: the same instance comes back: the connections of its former life end at once, though the TTL is a week."""
    pair.start()
    streams = [pair.joined(daemon) for _ in range(3)]
    pair.cproxy.stop(signal.SIGKILL)
    outage(1)
    assert all(still_open(connection) for _, connection in streams)
    pair.start_cproxy("--eager")
    started_at = time.monotonic()
    assert all(ended(connection) for _, connection in streams)
    assert time.monotonic() - started_at < 2 + SLOWNESS_S
    app, connection = pair.joined(daemon)
    connection.sendall(b"x")
    assert read_exactly(app, 1) == b"x"


def test_two_cproxies_do_not_disturb_each_other(pair, daemon):
    """Goal: two cproxies on one host, of one user; one is killed and comes back; the other's traffic never stops."""
    pair.start()
    first = pair.cproxy
    second = pair.start_cproxy(port=CPROXY_PORT + 1)
    _, orphan = pair.joined(daemon)
    with pair.lab.client.connect(CPROXY_PORT + 1) as app:
        app.sendall(b"?")
        connection, _ = daemon.accept()
        connection.settimeout(15)
        assert read_exactly(connection, 1) == b"?"
        first.stop(signal.SIGKILL)
        pair.start_cproxy("--eager")
        assert ended(orphan)
        connection.sendall(b"alive")
        assert read_exactly(app, 5) == b"alive"
        assert not second.events("lost")


def test_second_cproxy_with_the_same_port_and_another_state_directory(pair, daemon, lab):
    """Goal: instances are told apart by their state, not by their port: two hosts (here: two state directories and
    loopback addresses) with the same port."""
    pair.start()
    _, connection = pair.joined(daemon)
    pair.start_cproxy("--eager", "--bind", "127.0.0.2", "--state-dir", lab.client.home / "elsewhere")
    pair.cproxy.event("connected")
    outage(0.3)
    assert still_open(connection)


def test_idle_session_ends_and_the_next_application_gets_another(pair, daemon):
    """Goal: --idle after the last application the carrier goes, orderly on both sides; the next one is served."""
    pair.start(cproxy=["--idle", "500ms"])
    app, connection = pair.joined(daemon)
    app.close()
    assert ended(connection)
    connection.close()
    until(lambda: pair.sproxy.events("ended"), 5, "end of the idle session")
    assert not pair.sproxy.events("lost")
    pair.joined(daemon)
    pair.sproxy.event("connected", count=2)


def test_cproxy_dials_at_the_first_application_only(pair, daemon):
    """Goal: without --eager no carrier before the first application; with it one at once, and again after a loss."""
    pair.start()
    outage(0.5)
    assert not pair.sproxy.events("connected")
    pair.joined(daemon)
    assert pair.sproxy.event("connected")
    pair.start_cproxy("--eager", port=CPROXY_PORT + 1)
    pair.sproxy.event("connected", count=2)


def test_stdio_ends_with_its_stream(pair, daemon):
    """Goal: `cproxy --stdio`: EOF passes in both directions, then the exit status is 0 and the session is gone."""
    pair.start_sproxy()
    cproxy = pair.start_stdio(stdin=subprocess.PIPE)
    cproxy.process.stdin.write(b"request")
    cproxy.process.stdin.close()
    connection, _ = daemon.accept()
    connection.settimeout(15)
    assert read_to_end(connection) == b"request"
    connection.sendall(b"answer\n")
    connection.close()
    assert cproxy.wait() == 0
    assert cproxy.out.text == "answer\n"
    pair.sproxy.event("ended")
    assert not pair.sproxy.events("lost")


def test_stdio_gives_up_when_the_session_is_gone(pair, daemon):
    """Goal: with --stdio a dead session is an exit status that is not 0, so that ssh notices."""
    pair.start_sproxy()
    cproxy = pair.start_stdio(stdin=subprocess.PIPE)
    connection, _ = daemon.accept()
    pair.sproxy.stop(signal.SIGKILL)
    connection.close()
    pair.start_sproxy()
    assert cproxy.wait() != 0


def test_stdio_whose_reader_is_gone(pair, daemon):
    """Goal: nobody reads cproxy's stdout any more (SIGPIPE): it ends with a status that is not 0, and so does the
    daemon's connection."""
    pair.start_sproxy()
    read_end, write_end = os.pipe()
    cproxy = pair.start_stdio(stdin=subprocess.PIPE, stdout=write_end)
    os.close(write_end)
    connection, _ = daemon.accept()
    connection.settimeout(15)
    os.close(read_end)
    connection.sendall(b"nobody reads this")
    assert cproxy.wait() != 0
    assert ended(connection)


def test_traffic_of_one_session_survives_the_death_of_another(pair, lab):
    """Goal: sproxy serves two hosts; the death of one session is no event for the other."""
    pair.echo()
    pair.start(sproxy=["--session-ttl", "1s"])
    doomed = pair.cproxy
    traffic = Traffic([pair.app()])
    pair.start_cproxy(port=CPROXY_PORT + 1)
    other = Traffic([lab.client.connect(CPROXY_PORT + 1)])
    traffic.goes_on()
    doomed.stop(signal.SIGKILL)
    pair.sproxy.event("ended")
    other.goes_on(more=100_000)
    other.finish()
