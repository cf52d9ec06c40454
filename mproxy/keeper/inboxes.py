"""How the workers of one program tell each other something, and hand descriptors over: an inbox for each.

An inbox outlives its worker, as all descriptors do that were there before: what lies in it is the next worker's. A
message is a JSON object, a line feed, and bytes.
"""

from __future__ import annotations

import json
import os
import socket
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from mproxy.io._loop import Loop, Watch

    Heard = Callable[[dict[str, Any], bytearray, list[int]], object]

LONGEST = 1 << 17
MOST_FDS = 4

# Messages heard in one turn; and how many wait for a worker that is busy, or being replaced, before any is dropped.
A_TURN = 16
MOST_WAITING = 4096


class Inboxes:
    """For `count` workers; made before there is any of them. `open` comes first in each."""

    def __init__(self, count: int) -> None:
        self._pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(count)]
        for pair in self._pairs:
            for end in pair:
                end.setblocking(False)
        self._waiting: dict[int, deque[tuple[bytearray, list[int]]]] = {}
        self._watches: dict[int, Watch] = {}
        self._loop: Loop | None = None
        self._heard: Heard | None = None
        self._own = 0

    @property
    def count(self) -> int:
        """Of how many workers."""
        return len(self._pairs)

    def open(self, loop: Loop, own: int, heard: Heard) -> None:
        """Hear what is sent to worker `own`: heard(message, bytes, descriptors) has them from then on."""
        self._loop, self._own, self._heard = loop, own, heard
        loop.watch(self._pairs[own][0].fileno(), self._hear)

    def send(self, worker: int, what: Mapping[str, Any], data: bytes | bytearray = b"",
             fds: Sequence[int] = ()) -> bool:
        """Send a message; the descriptors stay the caller's. False: it does not take it, and has not for long."""
        message = bytearray(json.dumps(what).encode() + b"\n")
        message += data
        if len(message) > LONGEST:
            return False
        queue = self._waiting.get(worker)
        if queue is None:
            if self._put(worker, message, fds):
                return True
            queue = self._waiting[worker] = deque()
            assert self._loop is not None
            self._watches[worker] = self._loop.watch(
                self._pairs[worker][1].fileno(), lambda _events: self._send_rest(worker), read=False, write=True)
        if len(queue) >= MOST_WAITING:
            return False
        queue.append((message, [os.dup(fd) for fd in fds]))
        return True

    def _put(self, worker: int, message: bytearray, fds: Sequence[int]) -> bool:
        """Whether the inbox has taken it. It may hold secrets: no copy stays here."""
        try:
            socket.send_fds(self._pairs[worker][1], [message], fds)
        except OSError:  # it is full, or so many descriptors are on their way (ETOOMANYREFS)
            return False
        message[:] = bytes(len(message))
        return True

    def _send_rest(self, worker: int) -> None:
        queue = self._waiting[worker]
        for _ in range(A_TURN):
            if not queue:
                self._watches.pop(worker).close()
                del self._waiting[worker]
                return
            message, fds = queue[0]
            if not self._put(worker, message, fds):
                return
            queue.popleft()
            for fd in fds:
                os.close(fd)

    def _hear(self, _events: int) -> None:
        assert self._heard is not None
        for _ in range(A_TURN):
            try:
                message, fds, flags, _address = socket.recv_fds(
                    self._pairs[self._own][0], LONGEST, MOST_FDS, socket.MSG_CMSG_CLOEXEC)
            except OSError:
                return
            line, _, data = message.partition(b"\n")
            if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):  # no descriptor was left for it
                for fd in fds:
                    os.close(fd)
                continue
            self._heard(json.loads(line), bytearray(data), list(fds))
