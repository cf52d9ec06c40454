"""What the dialer needs, in virtual time: a loop, sockets that follow a plan, a name service, an observer."""

import errno
import heapq
import socket
import struct
from types import SimpleNamespace

from mproxy._wire import CloseCode
from mproxy.ground.errors import PeerError

SECOND_US = 1_000_000
FIRST_FD = 1000
V4 = int(socket.AF_INET)
RESET = struct.pack("ii", 1, 0)  # struct linger


class FakeLoop:
    """Virtual time, and what is due when."""

    def __init__(self):
        self.time = 1_000_000
        self._events = []
        self._count = 0
        self._open = []  # what has a descriptor here

    def descriptor(self, owner):
        """A number that nobody else has here, for something that is watched: its `watch` is set then."""
        self._open.append(owner)
        return FIRST_FD + len(self._open) - 1

    def now(self):
        return self.time

    def call_later(self, delay_us, call):
        self._count += 1
        event = SimpleNamespace(call=call)
        event.cancel = lambda: setattr(event, "call", None)
        heapq.heappush(self._events, (self.time + delay_us, self._count, event))
        return event

    def watch(self, fd, call, *, read=True, write=False):
        watch = SimpleNamespace(call=call, close=lambda: None, set=lambda **_: None)
        self._open[fd - FIRST_FD].watch = watch
        return watch

    def run(self, seconds):
        """Let so much time pass."""
        end = self.time + int(seconds * SECOND_US)
        while self._events and self._events[0][0] <= end:
            self.time, _count, event = heapq.heappop(self._events)
            call, event.call = event.call, None
            if call is not None:
                call()
        self.time = end


class FakeSocket:
    """A connection along one way; `plan` says what the network does with it."""

    def __init__(self, loop, way, plan):
        self.loop, self.way, self.plan = loop, way, plan
        self.began_at = loop.now()
        self.fd = loop.descriptor(self)
        self.watch = None
        self.closed = self.is_reset = False
        self.inbox = []
        self.error = 0
        if plan.connects_s is not None:
            loop.call_later(int(plan.connects_s * SECOND_US), self._answered)

    def _answered(self):
        if not self.closed:
            self.error = self.plan.error
            self.watch.call(0)
            if not self.closed and not self.error:
                for after_s, data in self.plan.says:
                    self.loop.call_later(int(after_s * SECOND_US), lambda data=data: self._arrive(data))

    def _arrive(self, data):
        if not self.closed:
            self.inbox.append(data)
            self.watch.call(0)

    def fileno(self):
        return -1 if self.closed else self.fd

    def getsockopt(self, *_):
        return self.error

    def setsockopt(self, _level, name, value):
        if name == socket.SO_LINGER:
            self.is_reset = value == RESET

    def getsockname(self):
        return ("10.1.0.2", 40000)

    def send(self, data):
        return len(data)

    def recv(self, _size):
        if not self.inbox:
            raise BlockingIOError
        return self.inbox.pop(0)

    def close(self):
        self.closed = True


class Plan:
    """`connects_s`: after so long, None: never; with `error` (an errno). `says`: [(seconds after, bytes)]: b"welcome"
    welcomes, b"" closes, b"strange" is no sproxy's, b"elsewhere" that of an sproxy without our session, all else is
    progress. `refuses`: errno of connect itself."""

    def __init__(self, connects_s=None, error=0, says=(), refuses=0):
        self.connects_s, self.error, self.says, self.refuses = connects_s, error, says, refuses


class FakeCaller:
    """A handshake of one word."""

    refused = False
    finished = True
    met = True
    outgoing = b""
    leftover = b""
    tls = None
    list_bytes = 0

    def feed(self, data):
        if data == b"strange":
            raise PeerError(CloseCode.VERSION_ERROR, "not an mproxy peer")
        if data == b"elsewhere":
            self.refused = True
            raise PeerError(CloseCode.UNKNOWN_SESSION, "no such session")
        return "welcome" if data == b"welcome" else None


class FakeResolver:
    """`answer`: [address], an error's text, or None: silence."""

    def __init__(self, loop, answer):
        self.loop, self.answer, self.asked_at = loop, answer, []

    def resolve(self, _host, port, callback):
        self.asked_at.append(self.loop.now())
        answer = self.answer
        request = SimpleNamespace(cancelled=False)
        request.cancel = lambda: setattr(request, "cancelled", True)

        def give():
            if not request.cancelled:
                found = [] if isinstance(answer, str) else [(V4, (address, port)) for address in answer]
                callback(found, answer if isinstance(answer, str) else None)
        if answer is not None:
            self.loop.call_later(1000, give)
        return request

    def network_changed(self):
        pass


class Observer:
    """Notes what the dialer reports."""

    def __init__(self, loop):
        self.loop = loop
        self.wanted = True
        self.welcomed, self.failed, self.turned_away, self.cut_off = [], [], [], []

    def still_wanted(self):
        return self.wanted

    def make_caller(self):
        return FakeCaller()

    def on_welcome(self, sock, _caller, _welcome):
        self.welcomed.append((self.loop.now(), sock.way))

    def on_dial_failed(self, why):
        self.failed.append((self.loop.now(), why))

    def on_cut_off(self, why):
        self.cut_off.append((self.loop.now(), why))

    def on_turned_away(self, error, _caller):
        self.turned_away.append((self.loop.now(), str(error)))


def refuse(way, plan):
    """Raise what connect(2) would raise."""
    if plan.refuses:
        raise OSError(plan.refuses, errno.errorcode[plan.refuses])
