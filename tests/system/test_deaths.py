"""What ends with a proxy, what ends later and what goes on, when proxies are killed, restarted, idle or replaced."""

import errno
import os
import shutil
import signal
import socket
import subprocess
import time

import pytest
from lab import SLOWNESS_S, outage, until
from proxies import CPROXY_PORT, DAEMON_PORT, OVER_TCP, SPROXY_PORT, cut_power, state_dir
from traffic import Traffic, ends_by_reset, read_exactly, read_to_end

# What a socket takes although nobody reads, in however many pieces it comes.
ANSWER_BYTES = 40_000
TCP_CLOSE_WAIT = 8  # linux/tcp_states.h: the other side has ended its direction


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
    """Goal: a session is not given up because nobody listens for a while, as behind a firewall that rejects."""
    pair.start()
    app, connection = pair.joined(daemon)
    reject = ("table inet t { chain c { type filter hook input priority 0; tcp dport 6200 reject with tcp reset;"
              " udp dport 6200 reject; }; }")
    lab.server.run("nft", "-f", "-", input=reject)
    pair.cproxy.event("dial-failed")
    outage(2)
    lab.server.run("nft", "delete", "table", "inet", "t")
    pair.cproxy.event("resumed")
    app.sendall(b"patience")
    assert read_exactly(connection, 8) == b"patience"


def test_cproxy_killed_for_good(pair, daemon):
    """Goal: if cproxy never comes back, sproxy's daemon connections last --session-ttl, then end, with a log line."""
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
    """Goal: when the same instance comes back, its former connections end at once, though the TTL is a week."""
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


def test_a_killed_proxy_is_no_orderly_end(pair, daemon):
    """Goal: a reader must not mistake a part for the whole: at both ends, whichever proxy is killed."""
    pair.start()
    app, connection = pair.joined(daemon)
    connection.sendall(b"a part")
    assert read_exactly(app, 6) == b"a part"
    pair.cproxy.stop(signal.SIGKILL)
    assert ends_by_reset(app)
    pair.start_cproxy()
    app, connection = pair.joined(daemon)
    pair.sproxy.stop(signal.SIGKILL)
    assert ends_by_reset(connection)


def test_what_has_ended_in_order_before_a_proxy_is_killed(pair, daemon):
    """Goal: data that was delivered whole, with its end, is not followed by a reset."""
    pair.start()
    app, connection = pair.joined(daemon)
    connection.sendall(bytes(ANSWER_BYTES))
    connection.shutdown(socket.SHUT_WR)
    app.sendall(b"x")
    assert read_exactly(connection, 1) == b"x"
    until(lambda: len(app.recv(ANSWER_BYTES, socket.MSG_PEEK)) == ANSWER_BYTES, 10, "the answer")
    until(lambda: app.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_CLOSE_WAIT, 10, "the answer's end")
    pair.cproxy.stop(signal.SIGKILL)
    assert read_to_end(app) == bytes(ANSWER_BYTES)


def stdio_stream(pair, daemon, *options):
    """A `cproxy --stdio`, our end of what it relays, and the daemon's connection."""
    ours, theirs = socket.socketpair()
    ours.settimeout(15)
    with theirs:
        program = pair.start_stdio(*options, stdin=theirs, stdout=theirs)
    connection, _ = daemon.accept()
    connection.settimeout(15)
    ours.sendall(b"?")  # with the answer the WELCOME has come, too
    assert read_exactly(connection, 1) == b"?"
    connection.sendall(b"!")
    assert read_exactly(ours, 1) == b"!"
    return program, ours, connection


def nothing_says_goodbye(host):
    until(lambda: not any("goodbye" in line for line in host.command_lines()), 10, "the end of whoever says goodbye")


def test_killed_stdio_client_says_goodbye(pair, daemon, lab):
    """Goal: of many that are killed at once no daemon connection is left, though nobody comes back; one that lives
    keeps its own."""
    pair.start_sproxy()
    clients = [stdio_stream(pair, daemon) for _ in range(4)]
    program, ours, connection = clients.pop()
    for killed, _, _ in clients:
        killed.stop(signal.SIGKILL)
    assert all(ended(lost) for _, _, lost in clients)
    connection.sendall(b"alive")
    assert read_exactly(ours, 5) == b"alive"
    ours.close()
    assert ended(connection)
    connection.close()
    assert program.wait(10) == 0
    nothing_says_goodbye(lab.client)


def test_stdio_client_killed_while_away_says_goodbye_when_the_path_is_back(pair, daemon, lab):
    """Goal: the same though sproxy cannot be reached at the time; a path that breaks is not the end of a client."""
    pair.start_sproxy()
    killed, _kept, lost = stdio_stream(pair, daemon)
    _, ours, connection = stdio_stream(pair, daemon)
    lab.wifi.pull()
    killed.event("lost", within=10)
    killed.stop(signal.SIGKILL)
    assert still_open(lost)
    lab.wifi.give(5)
    assert ended(lost)
    connection.sendall(b"alive")
    assert read_exactly(ours, 5) == b"alive"


def test_stdio_client_cut_from_power_makes_room_for_the_next(pair, daemon):
    """Goal: when ssh and its ProxyCommand died with the laptop, the next one ends what they left behind."""
    pair.start_sproxy()
    first, _kept, orphan = stdio_stream(pair, daemon)
    cut_power(first)
    outage(0.5)
    assert still_open(orphan)
    pair.start_stdio(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert ended(orphan)


def test_the_next_stdio_client_says_goodbye_for_all_that_were_cut_from_power(pair, daemon):
    """Goal: if all ssh connections of a host died, the next one ends all their daemon connections, but not those of one
    that still runs."""
    pair.start_sproxy()
    clients = [stdio_stream(pair, daemon) for _ in range(4)]
    living = [clients.pop(1)]
    for program, _, _ in clients:
        cut_power(program)
    outage(0.5)
    assert all(still_open(connection) for _, _, connection in clients)
    living.append(stdio_stream(pair, daemon))
    assert all(ended(connection) for _, _, connection in clients)
    for _, app, connection in living:
        connection.sendall(b"alive")
        assert read_exactly(app, 5) == b"alive"


def test_killed_while_away_says_goodbye_at_the_next_start(pair, daemon, lab):
    """Goal: a restarted cproxy ends what the former one left behind, without waiting for an application."""
    pair.start()
    _, connection = pair.joined(daemon)
    lab.wifi.pull()
    pair.cproxy.event("lost", within=10)
    pair.cproxy.stop(signal.SIGKILL)
    lab.wifi.give(5)
    outage(0.5)
    assert still_open(connection)
    pair.start_cproxy()
    pair.cproxy.event("goodbye-owed")
    assert ended(connection)


@pytest.mark.parametrize("kind", ["listening", "stdio"])
def test_stopped_while_away_says_goodbye_when_the_path_is_back(pair, daemon, lab, kind):
    """Goal: even if cproxy is never started again, the daemon's connection ends, and no process is left."""
    if kind == "stdio":
        pair.start_sproxy()
        cproxy = pair.start_stdio("--drain", "1s", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        connection, _ = daemon.accept()
    else:
        pair.start(cproxy=["--drain", "1s"])
        _, connection = pair.joined(daemon)
        cproxy = pair.cproxy
    lab.wifi.pull()
    cproxy.event("lost", within=10)
    cproxy.stop(signal.SIGHUP if kind == "stdio" else signal.SIGTERM)
    assert still_open(connection)
    lab.wifi.give(5)
    connection.settimeout(15)
    assert ended(connection)
    nothing_says_goodbye(lab.client)
    assert "cproxy has ended" in pair.sproxy.event("ended", count=2)["why"]


def test_a_copied_state_directory_takes_nothing_away(pair, daemon, lab):
    """Goal: the twin of a running cproxy takes its own identity and says so; the streams of both work."""
    pair.start()
    app, connection = pair.joined(daemon)
    copy = lab.client.home / "copy"
    shutil.copytree(state_dir(lab.client), copy)
    pair.start_cproxy("--eager", "--bind", "127.0.0.2", "--state-dir", copy)
    pair.cproxy.event("twin")
    pair.cproxy.event("connected")
    connection.sendall(b"still here")
    assert read_exactly(app, 10) == b"still here"
    assert not pair.sproxy.events("ended")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_eager_begins_a_new_session_when_sproxy_is_back(pair, how):
    """Goal: this needs no application, so that the first one finds a session ready."""
    pair.start(cproxy=["--eager"])
    pair.cproxy.event("connected")
    pair.sproxy.stop(how)
    pair.start_sproxy()
    pair.cproxy.event("connected", count=2)


def test_another_sproxy_with_the_same_key_does_not_end_a_session(pair, daemon, lab):
    """Goal: if the name leads elsewhere for a while, "no such session" from there does not end the session."""
    pair.start(cproxy=OVER_TCP)
    app, connection = pair.joined(daemon)
    copy = lab.server.home / "copy"
    shutil.copytree(state_dir(lab.server), copy)
    pair.start_sproxy("--state-dir", copy, port=SPROXY_PORT + 1)
    elsewhere = ("table ip t { chain c { type nat hook prerouting priority -100; tcp dport 6200 redirect to :6201; };"
                 "chain d { type filter hook input priority 0; tcp dport 6200 reject with tcp reset; }; }")
    lab.server.run("nft", "-f", "-", input=elsewhere)
    connection.sendall(b"kept")
    until(lambda: any("another sproxy" in event["why"] for event in pair.cproxy.events("dial-failed")), 15, "the other")
    outage(1)
    lab.server.run("nft", "delete", "table", "ip", "t")
    assert read_exactly(app, 4) == b"kept"
    assert not pair.cproxy.events("ended")


def test_idle_session_ends_and_the_next_application_gets_another(pair, daemon):
    """Goal: --idle after the last application the carrier is closed in order on both sides; the next one is served."""
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
    """Goal: with --stdio a dead session gives a non-zero exit status, so that ssh notices."""
    pair.start_sproxy()
    cproxy = pair.start_stdio(stdin=subprocess.PIPE)
    connection, _ = daemon.accept()
    pair.sproxy.stop(signal.SIGKILL)
    connection.close()
    pair.start_sproxy()
    assert cproxy.wait() != 0


def test_stdio_whose_reader_is_gone(pair, daemon):
    """Goal: if nobody reads cproxy's stdout any more (SIGPIPE), it ends with a non-zero status, and the daemon's
    connection ends, too."""
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


def test_stdio_whose_output_takes_no_more(pair):
    """Goal: what could not be written is an error, in one line that says why."""
    pair.echo()
    pair.start_sproxy()
    with open("/dev/full", "wb") as full:
        cproxy = pair.start_stdio(stdin=subprocess.PIPE, stdout=full)
        cproxy.process.stdin.write(b"hello")
        cproxy.process.stdin.close()
        assert cproxy.wait() == 1
    assert cproxy.event("output-failed")["why"] == "standard output takes no more: No space left on device"


def test_traffic_of_one_session_survives_the_death_of_another(pair, lab):
    """Goal: when sproxy serves two hosts, the death of one session does not affect the other."""
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
