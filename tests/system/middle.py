"""A man in the middle: passes carriers on, listens, and changes what is said.

`Middle` is where cproxy is told that sproxy is. `tls_client` plays cproxy with any key, session and secret.
"""

import contextlib
import os
import select
import socket
import threading
import time

from mproxy.handshake import Caller, Hello
from tests import keys


class Middle:
    """Relays every connection to `Middle.target`, a function that connects; `tamper(data, upward)` may change bytes."""

    def __init__(self, host, address, port):
        self.host = host
        self.target = None
        self.tamper = lambda data, upward: data
        self.upward = []  # for each connection, what the client sent
        self.pairs = []
        self.listener = host.listen(port, address)
        self.closing = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        self.listener.settimeout(0.1)
        while not self.closing:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                continue
            try:
                onward = self.target()
            except OSError:
                connection.close()
                continue
            record = bytearray()
            self.upward.append(record)
            self.pairs.append((connection, onward))
            threading.Thread(target=self._relay, args=(connection, onward, record), daemon=True).start()

    def _relay(self, connection, onward, record):
        with contextlib.suppress(OSError, ValueError):
            while True:
                ready, _, _ = select.select([connection, onward], [], [])
                for source in ready:
                    data = source.recv(1 << 16)
                    if not data:
                        raise OSError
                    if source is connection:
                        record += data
                    (onward if source is connection else connection).sendall(
                        self.tamper(data, source is connection))
        connection.close()
        onward.close()

    def cut(self):
        """Ends every connection that is passed on now."""
        pairs, self.pairs = self.pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self):
        """Ends for good."""
        self.closing = True
        self.cut()
        self.listener.close()


class Member:
    """A cproxy of a few lines: says HELLO through TLS with key `number`, then sends and receives bytes."""

    def __init__(self, connection, number, session_id=b"", secret=b"", epoch=None, instance=b"i" * 16,
                 tag=0):
        self.connection = connection
        hello = Hello(session_id, instance, os.urandom(16), epoch or time.time_ns() // 1000, 64 << 20, 4 << 20)
        self.tls = keys.client(number)
        self.caller = Caller(lambda: (hello, end_of_list(), secret), self.tls, tag=tag)
        self.hello = hello
        self.read = b""

    def join(self):
        """The Welcome; PeerError if refused."""
        while True:
            self.connection.sendall(self.caller.outgoing)
            self.caller.outgoing = b""
            data = self.connection.recv(1 << 16)
            if not data:
                raise EOFError
            welcome = self.caller.feed(data)
            if welcome is not None:
                self.read = self.caller.leftover
                return welcome

    def send(self, data):
        self.connection.sendall(self.tls.seal(data))

    def wait_for(self, words):
        """Reads until `words` came."""
        while words not in self.read:
            data = self.connection.recv(1 << 16)
            assert data, f"ended, without {words!r}"
            self.read += self.tls.receive(data)


def end_of_list():
    """A RESUME list without streams."""
    from wire_peer import end_mark
    return end_mark()
