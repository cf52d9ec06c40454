"""How connections through the relay's TCP engine end: last bytes are delivered, and only an end looks like an end."""

import contextlib
import errno
import fcntl
import os
import re
import select
import signal
import socket
import struct
import subprocess
import termios
import threading
import time

import pytest
from lab import until
from relay_engine import address_of
from test_relay_tcp import is_reset

ROUNDS = 40
UPLOAD = 10 << 20
ANSWER = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def read_some(sock, count):
    """At least so many bytes, but not much more."""
    got = 0
    while got < count:
        got += len(sock.recv(count - got))
    return got


def upload(sock, size=UPLOAD, within=20):
    """Send while reading: (what came, whether the connection ended with an error)."""
    sock.setblocking(False)
    piece, sent, got, failed = bytes(1 << 18), 0, [], False
    until_at = time.monotonic() + within
    while time.monotonic() < until_at:
        may_send = not failed and sent < size
        readable, writable, _ = select.select([sock], [sock] if may_send else [], [], 1)
        if writable:
            try:
                sent += sock.send(piece)
            except BlockingIOError:
                pass
            except OSError:
                failed = True  # what was said before is still there to be read
        if readable:
            try:
                part = sock.recv(1 << 18)
            except BlockingIOError:
                continue
            except OSError:
                return b"".join(got), True
            if not part:
                return b"".join(got), failed
            got.append(part)
    raise AssertionError(f"no end within {within} s")


def unsent(sock):
    """Bytes that the peer's system has not acknowledged."""
    return struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0]


@pytest.mark.parametrize("pipes", [64, 0])
@pytest.mark.parametrize("client_uploads", [True, False])
def test_an_early_answer_arrives_before_the_reset(stage, client_uploads, pipes):
    """Goal: an answer from a peer that closes while the other still sends arrives every time, then the reset."""
    engine, server = stage.engine(), stage.server()
    port = engine.listen(0, [address_of(server)], {})
    engine.allow_pipes(pipes)
    for _ in range(ROUNDS):
        sender, answerer = stage.through(engine, port, server)
        if not client_uploads:
            sender, answerer = answerer, sender

        def answer(sock=answerer):
            read_some(sock, 1 << 16)
            sock.sendall(ANSWER)
            select.select([sock], [], [], 20)
            sock.close()  # with bytes unread: a reset

        thread = threading.Thread(target=answer)
        thread.start()
        assert upload(sender) == (ANSWER, True)
        thread.join()
        sender.close()
    engine.wait_for_stat(0, "connections", 0)
    assert engine.stats(0)["failed"] == ROUNDS


@pytest.mark.parametrize("pipes", [64, 0])
def test_a_long_answer_arrives_whole_before_the_reset(stage, pipes):
    """Goal: an answer that does not fit into the buffers is delivered as the client reads it."""
    engine, server = stage.engine(), stage.server()
    port = engine.listen(0, [address_of(server)], {})
    engine.allow_pipes(pipes)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)  # much of the answer waits in the relay
    stage._stack.enter_context(client)
    client.settimeout(20)
    client.connect(("127.0.0.1", port))
    daemon = stage.accept(server)
    client.sendall(b"x")
    assert daemon.recv(1) == b"x"
    daemon.setblocking(False)
    said = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            said += daemon.send(bytes(1 << 16))
    client.sendall(b"y")
    until(lambda: select.select([daemon], [], [], 0)[0], 10, "a byte that nobody reads")
    lost = unsent(daemon)  # with the reset
    daemon.close()
    engine.wait_for_stat(0, "failed", 1)  # the client reads only when the relay knows that the daemon has gone
    heard, error = 0, None
    try:
        while part := client.recv(1 << 16):
            heard += len(part)
    except OSError as problem:
        error = problem.errno
    assert error == errno.ECONNRESET
    assert heard >= said - lost > 0


def test_an_answer_that_ended_in_order_is_not_cut_by_the_reset_of_an_upload(stage):
    """Goal: if a reset for later bytes follows an answer and its end, the answer and its end still arrive."""
    engine, server = stage.engine(), stage.server()
    port = engine.listen(0, [address_of(server)], {})
    for _ in range(ROUNDS):
        client, daemon = stage.through(engine, port, server)
        client.sendall(b"question")
        assert daemon.recv(8) == b"question"
        daemon.sendall(ANSWER)
        daemon.close()
        got, _ = upload(client, 1 << 22)
        assert got == ANSWER
        client.close()
    engine.wait_for_stat(0, "connections", 0)


def test_a_client_that_says_something_and_resets_is_heard(stage):
    """Goal: bytes sent before a reset reach the server, even if they came before the server was connected."""
    engine, server = stage.engine(), stage.server()
    port = engine.listen(0, [address_of(server)], {})
    for _ in range(ROUNDS):
        client = socket.create_connection(("127.0.0.1", port), 20)
        client.sendall(b"last words")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        daemon = stage.accept(server)
        assert daemon.recv(100) == b"last words"
        with pytest.raises(ConnectionResetError):
            daemon.recv(100)
        daemon.close()
    engine.wait_for_stat(0, "connections", 0)


def test_a_server_that_says_something_and_resets_at_once_is_heard(stage):
    """Goal: what a server says before it refuses a client arrives, whichever of the two is faster."""
    engine, server = stage.engine(), stage.server()
    port = engine.listen(0, [address_of(server)], {})
    for turn in range(ROUNDS):
        client = stage.client(port)
        if turn % 2:
            client.sendall(b"hello")
        daemon = stage.accept(server)
        daemon.sendall(ANSWER)
        daemon.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        daemon.close()
        heard = b""
        with contextlib.suppress(ConnectionResetError):
            while part := client.recv(4096):
                heard += part
        assert heard == ANSWER
        client.close()


def test_who_never_reads_does_not_keep_a_broken_connection_for_ever(stage):
    """Goal: last bytes that nobody reads are dropped after a while without progress."""
    engine, server = stage.engine(), stage.server()
    port = engine.listen(0, [address_of(server)], {})
    engine.give_up_last_words_after(1_000_000)
    client, daemon = stage.through(engine, port, server)
    daemon.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            daemon.send(bytes(1 << 16))
    daemon.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    daemon.close()
    engine.wait_for_stat(0, "connections", 0)
    assert is_reset(client)


@pytest.mark.parametrize("pipes", [64, 0])
def test_a_killed_relay_is_no_end(stage, pipes):
    """Goal: kill -9 in the middle of a transfer gives both ends a reset, never something that looks like an end; a
    direction that has already ended in order is not affected."""
    engine, server = stage.engine(), stage.server()
    port = engine.listen(0, [address_of(server)], {})
    engine.allow_pipes(pipes)
    pairs = [stage.through(engine, port, server) for _ in range(3)]
    pairs[0][0].sendall(b"half")
    pairs[1][1].sendall(b"half")
    pairs[2][0].shutdown(socket.SHUT_WR)
    assert pairs[0][1].recv(4) == pairs[1][0].recv(4) == b"half"
    assert pairs[2][1].recv(1) == b""
    os.kill(engine.pid(), signal.SIGKILL)
    stage.engines.remove(engine)
    for client, daemon in pairs[:2]:
        assert is_reset(client) and is_reset(daemon)
    assert is_reset(pairs[2][0])


def test_an_orderly_end_is_no_reset_even_when_the_last_bytes_take_long(stage):
    """Goal: bytes that wait in the relay's own socket at an orderly end are sent, not dropped."""
    engine, server = stage.engine(), stage.server()
    port = engine.listen(0, [address_of(server)], {})
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stage._stack.enter_context(client)
    client.settimeout(20)
    client.connect(("127.0.0.1", port))
    daemon = stage.accept(server)
    client.shutdown(socket.SHUT_WR)
    assert daemon.recv(1) == b""
    daemon.sendall(bytes(60_000))
    daemon.close()
    engine.wait_for_stat(0, "connections", 0)
    heard = 0
    while part := client.recv(1000):
        heard += len(part)
    assert heard == 60_000
    assert engine.stats(0)["failed"] == 0


def test_vanished_peers_are_looked_for(stage):
    """Goal: the system probes both connections of a long-lived pair after a minute, every 20 s, three times."""
    engine, server = stage.engine(), stage.server()
    port = engine.listen(0, [address_of(server)], {})
    engine.look_after_peers_every(300_000)
    client, daemon = stage.through(engine, port, server)
    ends = {f"sport = :{port} and dport = :{client.getsockname()[1]}", f"sport = :{daemon.getpeername()[1]}"}

    def seconds(end):
        """Seconds until the system probes that end; None if that is more than a minute away, or never."""
        shown = subprocess.run(["ss", "-Htno", end], capture_output=True, text=True, check=True).stdout
        found = re.search(r"timer:\(keepalive,(\d+)sec,0\)", shown)
        return found and int(found[1])

    until(lambda: all((found := seconds(end)) is not None and found <= 60 for end in ends), 10, "keepalive of a minute")
    client.sendall(b"x")
    assert daemon.recv(1) == b"x"


def test_a_broken_connection_is_counted(stage):
    """Goal: `failed` counts each broken connection once, whoever broke it, and no orderly ends."""
    engine, server = stage.engine(), stage.server()
    port = engine.listen(0, [address_of(server)], {})
    for place in (0, 1):
        pair = stage.through(engine, port, server)
        pair[0].sendall(b"x")
        assert pair[1].recv(1) == b"x"
        pair[place].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        pair[place].close()
        assert is_reset(pair[1 - place])
    for pair in [stage.through(engine, port, server) for _ in range(3)]:
        for sock in pair:
            sock.close()
    engine.wait_for_stat(0, "connections", 0)
    assert engine.stats(0)["failed"] == 2
