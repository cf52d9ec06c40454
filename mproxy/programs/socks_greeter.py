"""cproxy -D: an application says over SOCKS where its stream is to lead, before the first byte of it.

It is answered at once that it is connected, as every application of cproxy is before the daemon: one that cannot be
reached shows as a reset. The bytes of the greeting are taken out of the kernel one by one, so that what is behind them
is still there for whoever relays the connection, in this worker or the next (docs/decisions/the-kernel-counts.md).
"""

from __future__ import annotations

import socket

from mproxy.ground.forwarding import say_target
from mproxy.io.socket_close import give_up, keep_last_words
from mproxy.policy.socks import MOST_BYTES, SocksError, SocksReader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.endpoint._endpoint import Endpoint
    from mproxy.io._loop import Loop
    from mproxy.service.log import Log

# Applications on this host need no time for it; when there are more than these, the oldest gives way.
GREETING_US = 30_000_000
MOST_GREETINGS = 512


class SocksGreeter:
    """Greets applications, and hands each over to the endpoint."""

    def __init__(self, loop: Loop, log: Log, endpoint: Endpoint) -> None:
        self.loop = loop
        self._log = log
        self._endpoint = endpoint
        self._greetings: dict[SocksGreeting, None] = {}  # the oldest first

    def greet(self, fd: int) -> None:
        """The connection is new, and ours from now on."""
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        greeting = SocksGreeting(self, sock)
        self._greetings[greeting] = None
        if len(self._greetings) > MOST_GREETINGS:
            next(iter(self._greetings)).fail("too many unfinished SOCKS requests")
        greeting.go_on()  # it may have spoken already

    def close(self) -> None:
        """End those whose greeting is not complete."""
        for greeting in list(self._greetings):
            greeting.close()

    def left(self, greeting: SocksGreeting) -> None:
        """It was handed over, or closed."""
        self._greetings.pop(greeting, None)

    def greeted(self, sock: socket.socket, target: tuple[str, int], read: int, written: int) -> None:
        """Its greeting is complete, and answered."""
        self._endpoint.add_greeted(sock.detach(), say_target(*target).encode(), read, written)

    def refused(self, why: str) -> None:
        """Its connection is closed."""
        self._log.warning("socks-refused", why=why)


class SocksGreeting:
    """One application, until it has said where to."""

    def __init__(self, greeter: SocksGreeter, sock: socket.socket) -> None:
        self._greeter = greeter
        self._sock = sock
        self._reader = SocksReader()
        self._written = 0
        self._watch = greeter.loop.watch(sock.fileno(), lambda _events: self.go_on())
        self._timer = greeter.loop.call_later(GREETING_US, lambda: self.fail("no SOCKS request within 30s"))

    def go_on(self) -> None:
        """Read what is there of the greeting, and nothing behind it."""
        try:
            data = self._sock.recv(MOST_BYTES, socket.MSG_PEEK)
            if not data:
                self.close()
                return
            self._sock.recv(self._reader.feed(data))
            self._answer(self._reader.answers)
            self._reader.answers = b""
        except BlockingIOError:
            return
        except SocksError as error:
            self.fail(str(error), error.answer)
            return
        except OSError:
            self.close()
            return
        if self._reader.target is not None:
            self._leave()
            self._greeter.greeted(self._sock, self._reader.target, self._reader.taken, self._written)

    def _answer(self, data: bytes) -> None:
        """A few bytes, which an empty buffer takes."""
        if data:
            sent = self._sock.send(data)
            self._written += sent
            if sent < len(data):
                raise SocksError("it does not read its answer")

    def fail(self, why: str, answer: bytes = b"") -> None:
        """Refuse it."""
        self._greeter.refused(why)
        self._leave()
        try:
            self._answer(answer)
            keep_last_words(self._sock)
        except (OSError, SocksError):
            pass  # it will see the end
        self._sock.close()

    def close(self) -> None:
        """End its connection."""
        self._leave()
        give_up(self._sock)

    def _leave(self) -> None:
        self._watch.close()
        self._timer.cancel()
        self._greeter.left(self)
