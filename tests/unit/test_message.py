"""Messages and lines byte by byte; then the two programs with real sockets and pipes."""

import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import tty

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mproxy.ground.errors import MproxyError
from mproxy.programs import message as message_module
from mproxy.programs.message import (
    LIMIT_BYTES,
    LineSplitter,
    MessageClient,
    MessageError,
    MessageReader,
    MessageServer,
    client_main,
    pack_message,
    server_main,
)


def messages_of(reader):
    return list(iter(reader.poll_message, None))


# --- messages ---

def test_the_layout_is_length_and_payload():
    assert pack_message(b"hello") == b"\x00\x00\x00\x05hello"
    assert pack_message(b"") == b"\x00\x00\x00\x00"


@settings(deadline=None)
@given(st.lists(st.binary(max_size=LIMIT_BYTES), max_size=5), st.integers(1, 50))
def test_messages_arrive_whole_whatever_the_pieces(payloads, piece):
    stream = b"".join(map(pack_message, payloads))
    reader, arrived = MessageReader(), []
    for start in range(0, len(stream), piece):
        reader.feed(stream[start:start + piece])
        arrived += messages_of(reader)
    reader.finish()
    assert arrived == payloads


def test_byte_by_byte_each_message_comes_with_its_last_byte():
    stream = pack_message(b"ab") + pack_message(b"") + pack_message(b"c")
    reader, arrivals = MessageReader(), {}
    for position, byte in enumerate(stream):
        reader.feed(bytes([byte]))
        for payload in messages_of(reader):
            arrivals[position] = payload
    assert arrivals == {5: b"ab", 9: b"", 14: b"c"}


@pytest.mark.parametrize("length", [LIMIT_BYTES + 1, 65536, 0xFFFFFFFF])
def test_a_length_above_the_limit_is_an_error_as_soon_as_it_is_known(length):
    reader = MessageReader()
    reader.feed(pack_message(b"before") + struct.pack(">I", length)[:3])
    assert messages_of(reader) == [b"before"]
    reader.feed(struct.pack(">I", length)[3:])
    with pytest.raises(MessageError, match=f"^message of {length} bytes is above the limit of 1024 bytes$"):
        reader.poll_message()


def test_a_message_of_exactly_the_limit_is_fine():
    reader = MessageReader()
    reader.feed(pack_message(b"x" * LIMIT_BYTES))
    assert messages_of(reader) == [b"x" * LIMIT_BYTES]


@pytest.mark.parametrize("length", range(1, 9))
def test_an_end_in_the_middle_is_an_error(length):
    reader = MessageReader()
    reader.feed(pack_message(b"whole") + pack_message(b"hello")[:length])
    assert messages_of(reader) == [b"whole"]
    with pytest.raises(MessageError, match=f"cut off after {length} bytes?, including its"):
        reader.finish()


# --- lines ---

def split(data, piece, limit=LIMIT_BYTES):
    splitter, lines = LineSplitter(limit), []
    for start in range(0, len(data), piece):
        lines += splitter.feed(data[start:start + piece])
    return lines + splitter.finish()


@settings(deadline=None)
@given(st.lists(st.sampled_from([b"a", b"\n", b"\r", b"\0", b"\xff", b"bcd"])), st.integers(1, 7))
def test_lines_are_those_of_split_whatever_the_pieces(parts, piece):
    data = b"".join(parts)
    expected = data.split(b"\n")
    if not expected[-1]:
        expected.pop()
    limit = 4
    assert split(data, piece, limit) == [
        (line if len(line) <= limit else None, len(line)) for line in expected]


def test_a_long_line_is_counted_but_not_kept():
    splitter = LineSplitter()
    for _ in range(1000):
        assert splitter.feed(b"x" * 1000) == []
        assert len(splitter._line) <= LIMIT_BYTES + 1
    assert splitter.feed(b"\nnext\n") == [(None, 1_000_000), (b"next", 4)]


def test_the_newline_does_not_count():
    assert split(b"x" * LIMIT_BYTES + b"\n", 100) == [(b"x" * LIMIT_BYTES, LIMIT_BYTES)]
    assert split(b"x" * (LIMIT_BYTES + 1) + b"\n", 100) == [(None, LIMIT_BYTES + 1)]


def test_the_last_line_needs_no_newline():
    assert split(b"one\n\ntwo", 3) == [(b"one", 3), (b"", 0), (b"two", 3)]
    assert split(b"one\n", 3) == [(b"one", 3)]
    assert split(b"", 1) == []


# --- the server ---

class Bench:
    """A server on a loopback port, run step by step, with everything it printed and reported."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.printed = b""
        self.reports = []
        self.server = MessageServer([self.listener], self._write, self.reports.append)

    def _write(self, data):
        self.printed += data

    def connect(self):
        client = socket.create_connection(self.listener.getsockname())
        self.server.run_once()
        return client

    def send(self, client, data):
        client.sendall(data)
        self.server.run_once()

    def end(self, client):
        client.shutdown(socket.SHUT_WR)
        self.server.run_once()
        assert closed(client)


def closed(client):
    """Whether the server has closed its side."""
    client.settimeout(10)
    with client:
        return client.recv(1) == b""


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.listener.close()
    bench.server._selector.close()


def test_the_server_prints_length_and_text(bench):
    client = bench.connect()
    bench.send(client, pack_message(b"hello") + pack_message(b"") + pack_message(b"\xff\0"))
    assert bench.printed == b"5\nhello\n0\n\n2\n\xff\0\n"
    bench.end(client)
    assert bench.reports == []


def test_clients_do_not_mix(bench):
    one, other = bench.connect(), bench.connect()
    for position in range(9):
        bench.send(one, pack_message(b"first")[position:position + 1])
        bench.send(other, pack_message(b"other")[position:position + 1])
    assert bench.printed == b"5\nfirst\n5\nother\n"
    one.close()
    other.close()


def test_a_bad_client_is_named_and_closed_and_the_others_go_on(bench):
    good, long, cut = bench.connect(), bench.connect(), bench.connect()
    names = ["{}:{}".format(*client.getsockname()) for client in (long, cut)]
    bench.send(long, pack_message(b"last words") + struct.pack(">I", 2000))
    assert closed(long)
    bench.send(cut, pack_message(b"hello")[:6])
    bench.end(cut)
    bench.send(good, pack_message(b"still here"))
    assert bench.reports == [
        f"{names[0]}: message of 2000 bytes is above the limit of 1024 bytes; connection closed",
        f"{names[1]}: message cut off after 6 bytes, including its length field; connection closed"]
    assert bench.printed == b"10\nlast words\n10\nstill here\n"
    good.close()


def test_a_client_that_resets_is_reported_and_forgotten(bench):
    client = bench.connect()
    name = "{}:{}".format(*client.getsockname())
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    bench.server.run_once()
    assert bench.reports == [f"{name}: Connection reset by peer"]


def test_out_of_descriptors_accepting_pauses_until_a_client_leaves(bench, monkeypatch):
    client = bench.connect()

    class Full:
        def accept(self):
            raise OSError(24, "Too many open files")

    bench.server._accept(Full())
    assert bench.reports == ["cannot accept: Too many open files; trying again later"]
    waiting = socket.create_connection(bench.listener.getsockname())
    bench.send(client, pack_message(b"a"))
    assert bench.printed == b"1\na\n" and bench.server._accepting is False
    bench.end(client)
    bench.server.run_once()
    bench.send(waiting, pack_message(b"b"))
    assert bench.printed == b"1\na\n1\nb\n"
    waiting.close()


def test_out_of_descriptors_without_any_client_it_looks_again_in_time(bench, monkeypatch):
    monkeypatch.setattr(message_module, "_ACCEPT_AGAIN_S", 0)
    bench.server._pause_accepting()
    bench.server.run_once()
    client = bench.connect()
    bench.send(client, pack_message(b"b"))
    assert bench.printed == b"1\nb\n"
    client.close()


# --- the client ---

@pytest.fixture
def line():
    """(the client's socket, the server's socket, a pipe's writing end, the client, its reports)"""
    ours, theirs = socket.socketpair()
    read_fd, write_fd = os.pipe()
    reports = []
    with ours, theirs, os.fdopen(write_fd, "wb", buffering=0) as keyboard:
        yield ours, theirs, keyboard, MessageClient(ours, read_fd, reports.append), reports
    os.close(read_fd)


def drain(theirs):
    theirs.settimeout(10)
    reader = MessageReader()
    while data := theirs.recv(4096):
        reader.feed(data)
    theirs.shutdown(socket.SHUT_WR)
    messages = messages_of(reader)
    reader.finish()
    return messages


def test_the_client_sends_each_line_and_ends_orderly(line):
    _, theirs, keyboard, client, reports = line
    keyboard.write(b"one\n\n\xff\0\r\nno newline")
    keyboard.close()
    server = threading.Thread(target=lambda: arrived.extend(drain(theirs)))
    arrived = []
    server.start()
    client.run()
    server.join(10)
    assert arrived == [b"one", b"", b"\xff\0\r", b"no newline"]
    assert reports == []


def test_a_line_above_the_limit_is_refused_and_the_session_goes_on(line, monkeypatch):
    _, theirs, keyboard, client, reports = line
    monkeypatch.setattr(message_module, "_FAREWELL_S", 0.01)
    keyboard.write(b"x" * 1025 + b"\n" + b"y" * 1024 + b"\n")
    keyboard.close()
    client.run()
    assert drain(theirs) == [b"y" * 1024]
    assert reports == ["line of 1025 bytes not sent: the limit is 1024 bytes"]


def test_a_server_that_goes_is_noticed_while_nobody_types(line):
    _, theirs, _, client, _ = line
    theirs.close()
    with pytest.raises(MproxyError, match=r"^the server closed the connection$"):
        client.run()


def test_what_the_server_says_is_not_its_end(line, monkeypatch):
    _, theirs, keyboard, client, _ = line
    monkeypatch.setattr(message_module, "_FAREWELL_S", 0.01)
    theirs.sendall(b"chatter")
    keyboard.write(b"hello\n")
    keyboard.close()
    client.run()
    assert drain(theirs) == [b"hello"]


def test_a_closed_input_is_an_error_of_its_own():
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(MproxyError, match=r"^cannot read standard input: Bad file descriptor$"):
        MessageClient(ours, 999, print).run()


# --- the programs ---

@pytest.mark.parametrize("main, argv, text", [
    (client_main, ["127.0.0.1"], "message-client: the following arguments are required: PORT"),
    (client_main, ["host", "0"], "message-client: PORT 0: not a valid port (1 to 65535)"),
    (client_main, ["a b", "5"], "message-client: HOST 'a b': not a valid host"),
    (server_main, [], "message-server: the following arguments are required: PORT"),
    (server_main, ["--bind", "localhost", "5"], "message-server: --bind localhost: not a numeric address"),
])
def test_a_wrong_command_line_is_one_line_and_status_2(main, argv, text, capfd):
    assert main(argv) == 2
    error = capfd.readouterr().err
    assert error.startswith(text) and error.count("\n") == 1


def test_a_port_in_use_and_a_refused_connection(capfd):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        assert server_main(["--bind", "127.0.0.1", port]) == 1
    assert capfd.readouterr().err == (
        f"message-server: cannot listen on 127.0.0.1:{port}: the port is in use;"
        " stop the other program or choose another port\n")
    assert server_main(["--bind", "203.0.113.1", "5"]) == 1
    assert capfd.readouterr().err == (
        "message-server: cannot listen on 203.0.113.1:5: this host has no such address; see 'ip address'\n")
    assert client_main(["127.0.0.1", port]) == 1
    error = capfd.readouterr().err
    assert error == f"message-client: cannot connect to 127.0.0.1:{port}: Connection refused\n"


def start(*argv, **keywords):
    command = [sys.executable, "-m", "mproxy.programs.main", *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **keywords)


@pytest.fixture
def running_server():
    server = start("message-server", "--bind", "127.0.0.1", "0", stdin=subprocess.DEVNULL)
    port = re.fullmatch(rb"message-server: listening on 127\.0\.0\.1:([0-9]+)\n", server.stderr.readline())[1]
    yield server, port.decode()
    server.kill()
    server.communicate()


def test_server_and_client_together(running_server):
    server, port = running_server
    client = start("message-client", "127.0.0.1", port, stdin=subprocess.PIPE)
    output, error = client.communicate("grüße\n\nend".encode(), timeout=30)
    assert (client.returncode, output, error) == (0, b"", b"")
    shown = [server.stdout.readline() for _ in range(6)]
    assert shown == [b"7\n", "grüße\n".encode(), b"0\n", b"\n", b"3\n", b"end\n"]


def test_server_listens_on_this_host_alone_unless_told():
    server = start("message-server", "0", stdin=subprocess.DEVNULL)
    lines = [server.stderr.readline() for _ in range(2 if has_ipv6() else 1)]
    server.kill()
    server.communicate()
    assert [re.match(rb"message-server: listening on (127\.0\.0\.1|\[::1\]):[0-9]+$", line)[1] for line in lines] == [
        b"127.0.0.1", b"[::1]"][:len(lines)]


def has_ipv6():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def test_server_shows_a_terminal_nothing_that_it_obeys():
    """Goal: what a client sends can neither move the cursor nor change the title; a pipe gets it unchanged."""
    screen, terminal = pty.openpty()
    tty.setraw(screen)
    command = [sys.executable, "-m", "mproxy.programs.main", "message-server", "--bind", "127.0.0.1", "0"]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=terminal, stderr=subprocess.PIPE)
    os.close(terminal)
    port = int(re.search(rb":([0-9]+)\n", server.stderr.readline())[1])
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(pack_message("\x1b]0;title\x07\x1b[2Jgrüße\r\x9b\u202e\xff".encode() + b"\xff"))
        shown = b""
        while shown.count(b"\n") < 2:
            shown += os.read(screen, 4096)
    server.kill()
    server.communicate()
    os.close(screen)
    assert shown.split(b"\n")[1].decode() == "\\x1b]0;title\\x07\\x1b[2Jgrüße\\r\\x9b\\u202eÿ\\xff"


def test_server_needs_a_place_for_what_comes():
    command = 'exec "$0" -m mproxy.programs.main message-server 0 >&-'
    done = subprocess.run(["sh", "-c", command, sys.executable], stderr=subprocess.PIPE, text=True, timeout=30,
                          check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "standard output is closed" in done.stderr


@pytest.mark.parametrize("program", ["server", "client"])
def test_an_interrupt_is_a_quiet_end(running_server, program):
    server, port = running_server
    interrupted = server
    if program == "client":
        interrupted = start("message-client", "127.0.0.1", port, stdin=subprocess.PIPE)
        interrupted.stdin.write(b"x\n")
        interrupted.stdin.flush()
        assert server.stdout.readline() == b"1\n"  # so the client is past its start
    interrupted.send_signal(signal.SIGINT)
    output, error = interrupted.communicate(timeout=30)
    assert (interrupted.returncode, output, error) == (0, b"", b"")


def test_a_server_that_dies_ends_the_client_with_status_1(running_server):
    server, port = running_server
    client = start("message-client", "127.0.0.1", port, stdin=subprocess.PIPE)
    client.stdin.write(b"x\n")
    client.stdin.flush()
    assert server.stdout.readline() == b"1\n"
    server.kill()
    assert client.wait(30) == 1
    assert client.stderr.read() == b"message-client: the server closed the connection\n"
    client.communicate()


def test_a_reader_that_has_seen_enough_ends_the_server_quietly(running_server):
    server, port = running_server
    server.stdout.close()
    client = start("message-client", "127.0.0.1", port, stdin=subprocess.PIPE)
    client.communicate(b"hello\n", timeout=30)
    assert server.wait(30) == 0
    assert server.stderr.read() == b""
    server.stdout = None
