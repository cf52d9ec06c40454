"""Many connections in one session, and how each of them may end."""

import contextlib
import fcntl
import socket
import struct
import termios

import pytest
from lab import KEPT_BYTES, outage, until
from proxies import DAEMON_PORT
from traffic import (
    Flow,
    Traffic,
    ends_by_reset,
    fill,
    pattern,
    read_exactly,
    read_pattern,
    read_to_end,
    reset,
    send_pattern,
)

MIB = 1 << 20


@pytest.fixture
def daemon(lab):
    """The listening socket of a daemon, which is the test itself."""
    with lab.server.listen(DAEMON_PORT) as listener:
        yield listener


def test_200_streams_across_a_change_of_address(pair):
    """Goal: with 200 applications in full traffic, the address goes away for 2 s and changes; each still gets its bytes
    once and in order, and its end."""
    pair.echo()
    pair.start()
    traffic = Traffic(pair.app() for _ in range(200))
    traffic.goes_on(more=20_000)
    pair.lab.wifi.pull()
    outage(2)
    pair.lab.wifi.give(9)
    traffic.goes_on(more=50_000)
    traffic.finish()
    assert len(pair.cproxy.events("connected")) == 1
    if "carrier" in pair.cproxy.event("connected").fields:  # a slow host may dial anew instead
        until(lambda: pair.sproxy.events("moved") or pair.sproxy.events("resumed"), 30, "the other address")
    else:
        pair.cproxy.event("resumed")
        assert len(pair.cproxy.events("resumed")) == 1


@pytest.mark.long
def test_stopped_readers_disturb_nobody(pair, daemon):
    """Goal: while one application and one daemon read nothing for 10 s (Ctrl-S) and their peers send all they can,
    another stream goes on at full speed, the carrier is not declared dead, and nothing is lost."""
    pair.start()
    app, sending_daemon = pair.joined(daemon)
    sending_app, connection = pair.joined(daemon)
    other = Flow(*reversed(pair.joined(daemon)))
    alone = other.rate(2)
    sent = fill(sending_daemon), fill(sending_app)
    assert max(sent) < 64 * MIB, "the sender is read although nobody takes its bytes"
    beside = other.rate(10)
    assert beside > alone / 3, f"{beside / 1e6:.0f} MB/s beside stopped readers, {alone / 1e6:.0f} MB/s before"
    assert not pair.cproxy.events("lost")
    assert not pair.sproxy.events("lost")
    other.stop()
    for sender, reader, count in ((sending_daemon, app, sent[0]), (sending_app, connection, sent[1])):
        sender.shutdown(socket.SHUT_WR)
        read_pattern(reader, count)
        assert reader.recv(1) == b""


def test_stopped_streams_leave_room_for_others(pair, daemon):
    """Goal: with more stopped readers than the session budget allows for, another stream still goes through, not fast
    (its share is small) but steadily, without waiting for heartbeats."""
    options = ["--window", "256KiB", "--session-budget", "1MiB"]
    pair.start(sproxy=options, cproxy=options)
    stopped = [pair.joined(daemon) for _ in range(12)]
    sent = [fill(connection, quiet=0.1) for _, connection in stopped]
    app, connection = pair.joined(daemon)
    flow = Flow(connection, app)
    rate = flow.rate(2)
    assert rate > 1e6, f"{rate / 1e6:.2f} MB/s"  # with a window a heartbeat it would be a quarter of that
    flow.stop()
    for (application, connection), count in zip(stopped, sent, strict=True):
        connection.shutdown(socket.SHUT_WR)
        read_pattern(application, count)
        assert application.recv(1) == b""


@pytest.mark.parametrize("answer_bytes", [0, 1, 20 * MIB])
def test_end_of_the_request_lets_the_whole_answer_through(pair, daemon, answer_bytes):
    """Goal: an application that sends its request and EOF still gets everything that the daemon sends afterwards."""
    pair.start()
    app = pair.app()
    app.sendall(b"request")
    app.shutdown(socket.SHUT_WR)
    connection, _ = daemon.accept()
    connection.settimeout(15)
    assert read_to_end(connection) == b"request"
    answer = Flow(connection, app) if answer_bytes > MIB else None
    if answer:
        until(lambda: answer.received >= answer_bytes, 15, "the answer")
        answer.stop()
    else:
        connection.sendall(pattern(0, answer_bytes))
        connection.close()
        assert read_to_end(app) == pattern(0, answer_bytes)


def test_end_of_the_answer_lets_the_request_go_on(pair, daemon):
    """Goal: the same the other way round: the daemon sends EOF first and goes on reading."""
    pair.start()
    app, connection = pair.joined(daemon)
    connection.sendall(b"enough")
    connection.shutdown(socket.SHUT_WR)
    assert read_to_end(app) == b"enough"
    send_pattern(app, 3 * MIB)
    app.shutdown(socket.SHUT_WR)
    read_pattern(connection, 3 * MIB)
    assert connection.recv(1) == b""


def test_half_close_passes_a_change_of_address(pair, daemon):
    """Goal: EOF during an outage is passed on afterwards, behind all bytes."""
    pair.start()
    app, connection = pair.joined(daemon)
    pair.lab.wifi.pull()
    send_pattern(app, 100_000)
    app.shutdown(socket.SHUT_WR)
    send_pattern(connection, 200_000)
    connection.shutdown(socket.SHUT_WR)
    outage(0.5)
    pair.lab.wifi.give(5)
    assert read_to_end(connection) == pattern(0, 100_000)
    assert read_to_end(app) == pattern(0, 200_000)


@pytest.mark.parametrize("who", ["application", "daemon"])
def test_close_passes_and_both_proxies_listen_on(pair, daemon, who):
    """Goal: when one side closes, the other sees the end; nothing stays open, and the next connection is served."""
    pair.start()
    app, connection = pair.joined(daemon)
    idle_fds = pair.cproxy.open_fds() - 1, pair.sproxy.open_fds() - 1
    closing, other = (app, connection) if who == "application" else (connection, app)
    closing.sendall(b"last words")
    closing.close()
    assert read_to_end(other) == b"last words"
    other.close()
    until(lambda: (pair.cproxy.open_fds(), pair.sproxy.open_fds()) == idle_fds, 5, "closed descriptors")
    app, connection = pair.joined(daemon)
    connection.sendall(b"again")
    assert read_exactly(app, 5) == b"again"


@pytest.mark.parametrize("who", ["application", "daemon"])
def test_reset_passes_as_a_reset(pair, daemon, who):
    """Goal: RST on one side becomes RST on the other, not an orderly end that would look like success."""
    pair.start()
    app, connection = pair.joined(daemon)
    resetting, other = (app, connection) if who == "application" else (connection, app)
    reset(resetting)
    assert ends_by_reset(other)
    pair.joined(daemon)


@pytest.mark.parametrize("who", ["application", "daemon"])
def test_reset_during_an_outage_passes_after_it(pair, daemon, who):
    """Goal: a stream that is reset while there is no carrier is reset at the other end when there is one."""
    pair.start()
    app, connection = pair.joined(daemon)
    pair.lab.wifi.pull()
    resetting, other = (app, connection) if who == "application" else (connection, app)
    reset(resetting)
    outage(0.5)
    pair.lab.wifi.give(5)
    assert ends_by_reset(other)
    pair.joined(daemon)


def test_refused_daemon_is_a_reset(pair):
    """Goal: if no daemon listens, the application is reset, and the log says why."""
    pair.start()
    assert pair.app_is_reset()
    assert "refused" in pair.sproxy.event("daemon-unreachable")["why"]
    with pair.lab.server.listen(DAEMON_PORT) as listener:
        pair.joined(listener)


def test_the_first_words_do_not_hide_why_a_daemon_refuses(pair):
    """Goal: bytes that come with the stream are sent to the daemon at once, and find its refusal before anybody looks
    for it: both ends say it all the same."""
    pair.start()
    app = pair.app()
    app.sendall(b"words")
    assert ends_by_reset(app)
    assert pair.sproxy.event("daemon-unreachable")["why"] == "Connection refused"
    assert "refused" in pair.cproxy.event("stream-reset")["why"]


def test_unread_bytes_of_a_closed_application_reset_the_daemon(pair, daemon):
    """Goal: if an application goes away while its daemon still sends, the daemon is reset and does not hang."""
    pair.start()
    app, connection = pair.joined(daemon)
    fill(connection)
    app.close()
    with pytest.raises(OSError):
        until(lambda: connection.send(pattern(0, MIB)) == 0, 10, "an error at the daemon")


ANSWER = b"HTTP/1.1 413 Too Large\r\nConnection: close\r\n\r\n".ljust(200, b"x")


def answer_early(app, connection, before_answer=lambda: None):
    """The daemon answers an upload without reading it, and closes, which its kernel turns into a reset."""
    app.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            app.send(bytes(65536))
    app.settimeout(15)
    until(lambda: len(connection.recv(65536, socket.MSG_PEEK)) == 65536, 10, "an upload")
    before_answer()
    connection.sendall(ANSWER)
    connection.close()


def unsent(connection):
    """Bytes that the other end's kernel does not have yet (tcp(7), SIOCOUTQ)."""
    return struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))[0]


def read_what_comes(app):
    """Everything that an application gets, however its connection ends."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := app.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def test_an_early_answer_arrives_before_the_reset(pair, daemon):
    """Goal: if a daemon answers and closes while the application still uploads, the answer arrives every time."""
    pair.start()
    for _ in range(25):
        app, connection = pair.joined(daemon)
        answer_early(app, connection)
        assert read_what_comes(app) == ANSWER


def test_an_early_answer_in_an_outage_arrives_after_it(pair, daemon):
    """Goal: the same without a carrier; sproxy's log says that it was the daemon, and when."""
    pair.start()
    app, connection = pair.joined(daemon)
    answer_early(app, connection, lambda: (pair.lab.wifi.pull(), pair.sproxy.event("lost", within=10)))
    assert "daemon reset" in pair.sproxy.event("left-away")["why"]
    pair.lab.wifi.give(5)
    assert read_what_comes(app) == ANSWER
    assert "while there was no carrier" in pair.cproxy.event("stream-reset")["why"]


def test_what_a_slow_reader_has_not_taken_survives_the_reset(pair, daemon):
    """Goal: the reset waits until the bytes have reached the application's kernel."""
    pair.start()
    app, connection = pair.joined(daemon)
    app.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    send_pattern(connection, MIB)
    until(lambda: unsent(connection) == 0, 10, "sproxy to take all")
    reset(connection)
    outage(1)
    read_pattern(app, MIB)
    assert ends_by_reset(app)


def test_connections_come_and_go(pair):
    """Goal: 2,000 short connections, one after the other and some at once, leave nothing behind."""
    pair.echo()
    pair.start()
    pair.app().close()
    pair.sproxy.event("connected")
    fds = None
    for round_number in range(40):
        apps = [pair.app() for _ in range(50)]
        for index, app in enumerate(apps):
            app.sendall(b"%d" % index)
            app.shutdown(socket.SHUT_WR)
        assert [read_to_end(app) for app in apps] == [b"%d" % index for index in range(50)]
        for app in apps:
            app.close()
        if round_number == 5:
            until(lambda: pair.sproxy.open_fds() < 30 and pair.cproxy.open_fds() < 30, 5, "closed descriptors")
            fds = pair.cproxy.open_fds(), pair.sproxy.open_fds()
            memory = pair.cproxy.anonymous_bytes(), pair.sproxy.anonymous_bytes()
    until(lambda: (pair.cproxy.open_fds(), pair.sproxy.open_fds()) == fds, 5, "closed descriptors")
    assert pair.cproxy.anonymous_bytes() - memory[0] < MIB + KEPT_BYTES
    assert pair.sproxy.anonymous_bytes() - memory[1] < MIB + KEPT_BYTES
