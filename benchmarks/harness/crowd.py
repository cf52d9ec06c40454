"""Load generators for very many connections that are mostly idle: a client crowd and its server.

Both are forked workers that take commands (see `Worker.ask`); between commands they cost nothing. Each stays
below the descriptor limit of one process, which is why client and server are two.
"""

from __future__ import annotations

import select
import socket
import time

from harness.load import Address, Worker, connect, listen

READ_BYTES = 64 * 1024
IDLE_TIMEOUT_SECONDS = 20.0
GREETING = b"k"


class ShortfallError(RuntimeError):
    """Not everything that was sent came back in time."""


def crowd_client(_worker: Worker, control, address: Address) -> None:
    """Commands: ("open", n) ("exchange", bytes) ("collect", bytes, timeout_s); failures come back as their
    text."""
    crowd = Crowd(address)
    control.send("ready")
    while True:
        verb, *arguments = control.recv()
        try:
            control.send(("done", getattr(crowd, verb)(*arguments)))
        except (OSError, ShortfallError) as error:
            control.send(("failed", f"{verb}: {error}"))


class Crowd:
    """Many client connections through the proxies, driven one command at a time."""

    def __init__(self, address: Address):
        self._address = address
        self._streams: dict[int, socket.socket] = {}
        self._poller = select.epoll()
        self._buffer = bytearray(READ_BYTES)

    def open(self, count: int) -> None:
        """Open so many more and see a byte echoed on each, so that every one exists from end to end."""
        for _ in range(count):
            sock = connect(self._address)
            sock.setblocking(False)
            self._streams[sock.fileno()] = sock
            self._poller.register(sock.fileno(), select.EPOLLIN)
            sock.send(GREETING)
        self.collect(len(GREETING), IDLE_TIMEOUT_SECONDS)

    def exchange(self, size: int) -> None:
        """Send `size` bytes on every stream at once and read them all back."""
        payload = memoryview(bytes(size))
        unsent = dict.fromkeys(self._streams, 0)
        missing = dict.fromkeys(self._streams, size)
        for fd in self._streams:
            self._poller.modify(fd, select.EPOLLIN | select.EPOLLOUT)
        while missing:
            for fd, events in self._ready():
                if events & select.EPOLLOUT and unsent[fd] < size:
                    unsent[fd] += self._send(fd, payload[unsent[fd] :])
                if unsent[fd] == size:
                    self._poller.modify(fd, select.EPOLLIN)
                if events & ~select.EPOLLOUT:
                    self._receive(fd, missing)

    def collect(self, size: int, timeout_s: float) -> tuple[int, int]:
        """Read `size` bytes on every stream; when the first byte and the last came, in monotonic ns."""
        missing = dict.fromkeys(self._streams, size)
        first_ns = 0
        while missing:
            ready = self._ready(timeout_s)
            first_ns = first_ns or time.monotonic_ns()
            for fd, _events in ready:
                self._receive(fd, missing)
        return first_ns, time.monotonic_ns()

    def requests(self, size: int, rate: float, seconds: float) -> list[float]:
        """For so long send `size` bytes on one stream after the other, `rate` a second; the time in ms of each to its
        echo. A stream whose last echo has not come is passed over."""
        order, payload = list(self._streams), bytes(size)
        begun: dict[int, float] = {}
        missing: dict[int, int] = {}
        times: list[float] = []
        start_at = time.monotonic()
        sent = 0
        while (now := time.monotonic()) < start_at + seconds or missing:
            while now < start_at + seconds and sent < (now - start_at) * rate:
                fd = order[sent % len(order)]
                sent += 1
                if fd not in missing:
                    begun[fd], missing[fd] = time.monotonic(), size
                    self._streams[fd].send(payload)
            for fd, _events in self._poller.poll(0.001, 4096):
                self._receive(fd, missing)
                if fd not in missing:
                    times.append((time.monotonic() - begun.pop(fd)) * 1e3)
            if now > start_at + seconds + IDLE_TIMEOUT_SECONDS:
                raise ShortfallError(f"{len(missing)} echoes did not come")
        return times

    def _ready(self, timeout_s: float = IDLE_TIMEOUT_SECONDS) -> list[tuple[int, int]]:
        ready = self._poller.poll(timeout_s, 4096)
        if not ready:
            raise ShortfallError(f"nothing more came within {timeout_s:g} s")
        return ready

    def _send(self, fd: int, data: memoryview) -> int:
        try:
            return self._streams[fd].send(data)
        except BlockingIOError:
            return 0

    def _receive(self, fd: int, missing: dict[int, int]) -> None:
        received = self._streams[fd].recv_into(self._buffer)
        if not received:
            raise ShortfallError("a stream was closed")
        left = missing.get(fd, 0) - received
        if left < 0:
            raise ShortfallError("a stream brought more than was sent")
        if left:
            missing[fd] = left
        else:
            del missing[fd]


def crowd_server(worker: Worker, control, address: Address) -> None:
    """Echoes on every connection; counter 0 counts open connections. Command ("send", bytes): to each so many
    bytes."""
    server = CrowdServer(worker, address)
    server.add_control(control)
    control.send("ready")
    while True:
        server.turn()


class CrowdServer:
    """One epoll loop that echoes; what a slow peer does not take is kept and sent later."""

    def __init__(self, worker: Worker, address: Address):
        self._worker = worker
        self._listener = listen(address)
        self._listener.setblocking(False)
        self._poller = select.epoll()
        self._poller.register(self._listener.fileno(), select.EPOLLIN)
        self._streams: dict[int, socket.socket] = {}
        self._unsent: dict[int, bytearray] = {}
        self._control = None

    def add_control(self, control) -> None:
        self._control = control
        self._poller.register(control.fileno(), select.EPOLLIN)

    def turn(self) -> None:
        for fd, events in self._poller.poll(maxevents=1024):
            if fd == self._listener.fileno():
                self._accept()
            elif fd == self._control.fileno():
                _verb, size = self._control.recv()
                self._send_to_all(bytes(size))
            else:
                self._serve(fd, events)

    def _accept(self) -> None:
        try:
            while True:
                sock, _peer = self._listener.accept()
                sock.setblocking(False)
                self._streams[sock.fileno()] = sock
                self._poller.register(sock.fileno(), select.EPOLLIN)
                self._worker.counters[0] = len(self._streams)
        except BlockingIOError:
            pass

    def _send_to_all(self, data: bytes) -> None:
        for sock in self._streams.values():
            sock.send(data)
        self._control.send(len(self._streams))

    def _serve(self, fd: int, events: int) -> None:
        sock, unsent = self._streams[fd], self._unsent.setdefault(fd, bytearray())
        try:
            if events & select.EPOLLIN:
                data = sock.recv(READ_BYTES)
                if not data:
                    raise ConnectionResetError
                unsent += data
            self._flush(fd, sock, unsent)
        except BlockingIOError:
            self._poller.modify(fd, select.EPOLLIN | select.EPOLLOUT)
        except OSError:
            self._unsent.pop(fd, None)
            self._streams.pop(fd).close()
            self._worker.counters[0] = len(self._streams)

    def _flush(self, fd: int, sock: socket.socket, unsent: bytearray) -> None:
        sent = sock.send(unsent) if unsent else 0
        if sent < len(unsent):
            del unsent[:sent]
            self._poller.modify(fd, select.EPOLLIN | select.EPOLLOUT)
        else:
            del self._unsent[fd]
            self._poller.modify(fd, select.EPOLLIN)
