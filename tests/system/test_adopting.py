"""Applications go on when the process between them is killed: their connections, in another process.

A real kill behind system calls, in both sessions at once (dying_worker.py); every byte is checked, both ways.
"""

import contextlib
import os
import random
import select
import socket
import struct
import subprocess
import sys
import threading

import pytest
from lab import HERE
from traffic import pattern, read_pattern, send_pattern

DEATHS = 100
AT_ONCE = 3
PATIENCE_S = 60
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Conversation(threading.Thread):
    """An application and its daemon: each sends bytes and its end, in some order, or the application resets; what goes
    wrong is raised by `join`."""

    def __init__(self, worker, seed):
        super().__init__()
        self.worker, self.error = worker, None
        chance = random.Random(seed)
        self.up, self.down = (chance.choice([0, 1, 5000, 300_000]) for _ in range(2))
        self.ending = chance.choice(["application first", "daemon first", "as it comes", "reset"])
        self.app = socket.create_connection(worker.address, timeout=PATIENCE_S)
        self.start()

    def run(self):
        try:
            with self.app:
                self.app.sendall(b"?")
                try:
                    daemon = self.worker.accept(b"?")
                finally:
                    self.worker.opening.release()
                with daemon:
                    self.converse(daemon)
        except BaseException as error:
            self.error = error

    def converse(self, daemon):
        if self.ending == "reset":
            self.app.sendall(pattern(0, 5000))  # as much as is certainly on its way when the reset follows
            self.app.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            self.app.close()
            read_pattern(daemon, 5000)
            with pytest.raises(ConnectionResetError):
                daemon.recv(1)
            return
        sides = [Side(self.app, self.up, self.down, self.ending == "daemon first"),
                 Side(daemon, self.down, self.up, self.ending == "application first")]
        for side in sides:
            side.join()

    def join(self):
        super().join()
        if self.error is not None:
            raise AssertionError(f"{self.ending}, {self.up} up, {self.down} down") from self.error


class Side(threading.Thread):
    """Sends `count` bytes and the end, if it `waits` behind the other's end; reads `expected` bytes and that end."""

    def __init__(self, sock, count, expected, waits):
        super().__init__()
        self.sock, self.count, self.expected, self.error = sock, count, expected, None
        self.may_end = threading.Event()
        if not waits:
            self.may_end.set()
        self.start()

    def run(self):
        sender = threading.Thread(target=self.send)
        sender.start()
        try:
            read_pattern(self.sock, self.expected)
            assert self.sock.recv(1) == b"", "more than was sent"
        except BaseException as error:
            self.error = error
        self.may_end.set()
        sender.join()

    def send(self):
        with contextlib.suppress(OSError):  # who reads says so
            send_pattern(self.sock, self.count)
            self.may_end.wait(PATIENCE_S)
            self.sock.shutdown(socket.SHUT_WR)

    def join(self):
        super().join()
        if self.error is not None:
            raise self.error


class Worker:
    """The program that dies, and what is at its two sides."""

    def __init__(self, directory, seed):
        library = directory / "dying.so"
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "dying.c", "-ldl"], check=True)
        self.daemon = socket.create_server(("127.0.0.1", 0))
        self.daemon.settimeout(PATIENCE_S)
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        self.address = listener.getsockname()
        self.opening = threading.Semaphore(1)  # one at a time, so that it is known which connection is whose
        self.lives = b""
        os.set_inheritable(listener.fileno(), True)
        self.process = subprocess.Popen(
            [sys.executable, HERE / "dying_worker.py", str(listener.fileno()), str(self.daemon.getsockname()[1]),
             str(seed)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"LD_PRELOAD": str(library)},
            pass_fds=[listener.fileno()])
        listener.close()

    def count_lives(self):
        while select.select([self.process.stdout], [], [], 0)[0]:
            more = os.read(self.process.stdout.fileno(), 1 << 16)
            assert more, "the worker has ended"
            self.lives += more
        return len(self.lives)

    def converse(self, seed):
        """Begin a conversation."""
        assert self.opening.acquire(timeout=PATIENCE_S)
        return Conversation(self, seed)

    def accept(self, greeting):
        """The daemon's end of a connection that brings `greeting`; one that nobody had noted yet brings nothing."""
        while True:
            daemon, _ = self.daemon.accept()
            daemon.settimeout(PATIENCE_S)
            with contextlib.suppress(ConnectionResetError):
                if daemon.recv(len(greeting)) == greeting:
                    return daemon
            daemon.close()

    def close(self):
        self.process.stdin.close()
        try:
            assert self.process.wait(PATIENCE_S) == 0
        finally:
            self.process.kill()
            self.daemon.close()


@pytest.fixture
def worker(tmp_path, seed):
    one = Worker(tmp_path, seed)
    yield one
    one.close()


def test_no_byte_is_lost_or_repeated(worker, seed):
    """Goal: killed behind any system call, again and again, both ends of the session at once: all that the applications
    and the daemons wrote arrives, each end and each reset behind it."""
    number, under_way = 0, []
    while worker.count_lives() < DEATHS or under_way:
        while worker.lives.count(b".") < DEATHS and len(under_way) < AT_ONCE:
            number += 1
            under_way.append(worker.converse(f"{seed} {number}"))
        under_way.pop(0).join()
    assert b"!" not in worker.lives
