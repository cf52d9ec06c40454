"""Conversations of every kind between an application and its daemon, through whatever is between them."""

import contextlib
import random
import socket
import struct
import threading

import pytest
from traffic import Flow, pattern, read_exactly, read_pattern, read_to_end, send_pattern

PATIENCE_S = 60
RESET_ON_CLOSE = struct.pack("ii", 1, 0)

# How a conversation may end.
ENDINGS = ("application first", "daemon first", "as it comes", "application resets", "daemon resets")


class Meeting:
    """Where applications meet their daemons: `connect()` makes an application, and `daemon` listens."""

    def __init__(self, connect, daemon):
        self.connect, self.daemon = connect, daemon
        self.daemon.settimeout(PATIENCE_S)
        self.opening = threading.Semaphore(1)  # one at a time, so that it is known which connection is whose

    def converse(self, seed, ending=None):
        """Begin a conversation; without an `ending` of its own that is one of them."""
        assert self.opening.acquire(timeout=PATIENCE_S)
        return Conversation(self, seed, ending)

    def accept(self, greeting):
        """The daemon's end of a connection that brings `greeting`; one that nobody had noted yet brings nothing."""
        while True:
            daemon, _ = self.daemon.accept()
            daemon.settimeout(PATIENCE_S)
            with contextlib.suppress(ConnectionResetError):
                if daemon.recv(len(greeting)) == greeting:
                    return daemon
            daemon.close()

    def joined(self, connect=None):
        """An application and its daemon's connection; `connect`: where it goes in instead."""
        with self.opening:
            app = (connect or self.connect)()
            app.sendall(b"?")
            return app, self.accept(b"?")


class Conversation(threading.Thread):
    """An application and its daemon: each sends bytes and its end, in some order, or one resets; what goes wrong is
    raised by `join`. The two are met on a Meeting."""

    def __init__(self, meeting, seed, ending=None):
        super().__init__(daemon=True)
        self.meeting, self.error = meeting, None
        chance = random.Random(seed)
        self.up, self.down = (chance.choice([0, 1, 5000, 300_000]) for _ in range(2))
        self.ending = ending or chance.choice(ENDINGS)
        self.app = meeting.connect()
        self.start()

    def run(self):
        try:
            with self.app:
                try:
                    self.app.sendall(b"?")
                    daemon = self.meeting.accept(b"?")
                finally:
                    self.meeting.opening.release()
                with daemon:
                    self.converse(daemon)
        except BaseException as error:
            self.error = error

    def converse(self, daemon):
        if self.ending.endswith("resets"):
            one, other = (self.app, daemon) if self.ending.startswith("application") else (daemon, self.app)
            one.sendall(pattern(0, 5000))  # as much as is certainly on its way when the reset follows
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            one.close()
            read_pattern(other, 5000)
            with pytest.raises(ConnectionResetError):
                other.recv(1)
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
        super().__init__(daemon=True)
        self.sock, self.count, self.expected, self.error = sock, count, expected, None
        self.may_end = threading.Event()
        if not waits:
            self.may_end.set()
        self.start()

    def run(self):
        sender = threading.Thread(target=self.send, daemon=True)
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


class PingPong(threading.Thread):
    """Two ends that answer each other by turns, until `stop`."""

    def __init__(self, one, other):
        super().__init__(daemon=True)
        self.one, self.other = one, other
        self.turns, self.error, self.stopping = 0, None, False
        self.start()

    def run(self):
        try:
            while not self.stopping:
                for here, there in ((self.one, self.other), (self.other, self.one)):
                    here.sendall(b"%12d" % self.turns)
                    assert read_exactly(there, 12) == b"%12d" % self.turns
                    self.turns += 1
        except BaseException as error:
            self.error = error

    def stop(self):
        self.stopping = True
        self.join(PATIENCE_S)
        if self.error is not None:
            raise self.error
        assert not self.is_alive(), f"stuck after {self.turns} turns"


def still_joined(app, daemon):
    """Whether bytes pass, both ways."""
    app.sendall(b"up")
    daemon.sendall(b"down")
    return read_exactly(daemon, 2) == b"up" and read_exactly(app, 4) == b"down"


def half_ended(app, daemon, last_words):
    """Whether the application has everything of a daemon that has ended its direction, and bytes still pass back."""
    app_has = read_to_end(app)
    app.sendall(b"its own")
    return app_has == last_words and read_exactly(daemon, 7) == b"its own"


class MixedLoad(threading.Thread):
    """Bulk both ways, ping-pong, and conversations, a few at a time, until `stop`, which says what went wrong."""

    AT_ONCE = 3

    def __init__(self, meeting, seed):
        super().__init__(daemon=True)
        self.meeting, self.seed = meeting, seed
        (bulk, bulk_daemon), chat = meeting.joined(), meeting.joined()
        self.flows = [Flow(bulk, bulk_daemon), Flow(bulk_daemon, bulk)]
        self.chat = PingPong(*chat)
        self.conversations, self.error, self.stopping = 0, None, False
        self.start()

    @property
    def turns(self):
        return self.chat.turns

    def run(self):
        under_way = []
        try:
            while not self.stopping or under_way:
                while not self.stopping and len(under_way) < self.AT_ONCE:
                    self.conversations += 1
                    under_way.append(self.meeting.converse(f"{self.seed} {self.conversations}"))
                under_way.pop(0).join()
        except BaseException as error:
            self.error = error

    def stop(self):
        self.stopping = True
        self.join(2 * PATIENCE_S)
        if self.error is not None:
            raise self.error
        assert not self.is_alive(), f"stuck in conversation {self.conversations}"
        self.chat.stop()
        for flow in self.flows:
            flow.stop(PATIENCE_S)
            assert flow.received > 1 << 20
