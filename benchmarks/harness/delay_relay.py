"""A TCP relay that behaves like a long path: each byte waits, and so many a second come through.

Each direction has one clock for when its line is free again. A chunk that arrives starts on the line when the
line is free, occupies it for its length, and comes out one delay after that:

    leaves_line = max(now, line_free_at) + length / rate;  delivered = leaves_line + delay

The line is shared by all connections of one direction. When more than `held_bytes` are under way beyond what
the delay itself holds, the sender is not read until there is room: ample buffer, but not without end.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from dataclasses import dataclass

CHUNK_BYTES = 32 * 1024  # 0.9 ms of a 300 Mbit/s line


@dataclass(frozen=True)
class PathLimits:
    """One-way delay, rate of each direction, and how many bytes a connection may have under way."""

    one_way_s: float
    bytes_per_s: float
    held_bytes: int


class Line:
    """The shared rate of one direction."""

    def __init__(self, limits: PathLimits):
        self.limits = limits
        self._free_at = 0.0

    def pass_through(self, length: int, now: float) -> float:
        """Occupy the line; returns when the chunk comes out at the far end."""
        self._free_at = max(now, self._free_at) + length / self.limits.bytes_per_s
        return self._free_at + self.limits.one_way_s


class Way:
    """One direction of one connection: chunks under way, each with the time it is due at the far end."""

    def __init__(self, line: Line, source: socket.socket, sink: socket.socket):
        self.line, self.source, self.sink = line, source, sink
        self._under_way: deque[tuple[float, memoryview]] = deque()
        self._held_bytes = 0
        self._source_ended = False
        self._sink_full = False

    def wants_input(self) -> bool:
        return not self._source_ended and self._held_bytes < self.line.limits.held_bytes

    def wants_output(self) -> bool:
        return self._sink_full

    def due_at(self) -> float | None:
        return self._under_way[0][0] if self._under_way and not self._sink_full else None

    def handle_input(self, now: float) -> None:
        data = self.source.recv(CHUNK_BYTES)
        self._source_ended = not data  # an empty chunk carries the end of the stream, delayed like the rest
        self._held_bytes += len(data)
        self._under_way.append((self.line.pass_through(len(data), now), memoryview(data)))

    def deliver(self, now: float) -> None:
        """Hand on everything due; stop early when the far side takes no more."""
        while self._under_way and self._under_way[0][0] <= now:
            due_at, chunk = self._under_way[0]
            if not chunk:
                self._under_way.popleft()
                self.sink.shutdown(socket.SHUT_WR)
                return
            try:
                sent = self.sink.send(chunk)
            except BlockingIOError:
                self._sink_full = True
                return
            self._held_bytes -= sent
            if sent < len(chunk):
                self._under_way[0] = (due_at, chunk[sent:])
            else:
                self._under_way.popleft()
        self._sink_full = False


def delay_relay(
    _worker, control, address: tuple[str, int], onward: tuple[str, int], limits: PathLimits
) -> None:
    """Worker: relay every connection to `address` on to `onward`, over the long path."""
    listener = socket.create_server(address, backlog=1024)
    lines = Line(limits), Line(limits)
    ways: list[Way] = []
    control.send("ready")
    while True:
        readers = [listener, *(way.source for way in ways if way.wants_input())]
        writers = [way.sink for way in ways if way.wants_output()]
        readable, writable, _ = select.select(readers, writers, [], _timeout(ways))
        if listener in readable:
            ways += _accept(listener, onward, lines)
        now = time.monotonic()
        ready = set(readable), set(writable)
        for way in ways[:]:
            if not _serve(way, ready, now):
                _drop(ways, way)


def _timeout(ways: list[Way]) -> float | None:
    due = [at for way in ways if (at := way.due_at()) is not None]
    return max(0.0, min(due) - time.monotonic()) if due else None


def _accept(listener: socket.socket, onward: tuple[str, int], lines: tuple[Line, Line]) -> list[Way]:
    near, _peer = listener.accept()
    try:
        far = socket.create_connection(onward)
    except OSError:
        near.close()
        return []
    for sock in (near, far):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return [Way(lines[0], near, far), Way(lines[1], far, near)]


def _serve(way: Way, ready: tuple[set, set], now: float) -> bool:
    try:
        if way.source in ready[0] and way.wants_input():
            way.handle_input(now)
        if not way.wants_output() or way.sink in ready[1]:
            way.deliver(now)
        return True
    except OSError:
        return False


def _drop(ways: list[Way], broken: Way) -> None:
    """Close both sockets of a connection that failed, and forget both of its directions."""
    sockets = {broken.source, broken.sink}
    for sock in sockets:
        sock.close()
    ways[:] = [way for way in ways if way.source not in sockets]
