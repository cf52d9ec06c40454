"""Conversations of every kind between an application and its daemon, through whatever is between them."""

import contextlib
import random
import socket
import struct
import threading

import pytest
from traffic import pattern, read_pattern, send_pattern

PATIENCE_S = 60
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Meeting:
    """Where applications meet their daemons: `connect()` makes an application, and `daemon` listens."""

    def __init__(self, connect, daemon):
        self.connect, self.daemon = connect, daemon
        self.daemon.settimeout(PATIENCE_S)
        self.opening = threading.Semaphore(1)  # one at a time, so that it is known which connection is whose

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


class Conversation(threading.Thread):
    """An application and its daemon: each sends bytes and its end, in some order, or the application resets; what goes
    wrong is raised by `join`. The two are met on a Meeting."""

    def __init__(self, meeting, seed):
        super().__init__()
        self.meeting, self.error = meeting, None
        chance = random.Random(seed)
        self.up, self.down = (chance.choice([0, 1, 5000, 300_000]) for _ in range(2))
        self.ending = chance.choice(["application first", "daemon first", "as it comes", "reset"])
        self.app = meeting.connect()
        self.start()

    def run(self):
        try:
            with self.app:
                self.app.sendall(b"?")
                try:
                    daemon = self.meeting.accept(b"?")
                finally:
                    self.meeting.opening.release()
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
