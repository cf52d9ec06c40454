"""Keeping to a rate: what is to be sent is given to the connection a slice at a time."""

from __future__ import annotations

from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.io._loop import Loop
    from mproxy.transfer.arriving import Data
    from mproxy.transport._link import Link

SLICE_US = 10_000
LEAST_SLICE_BYTES = 1200


class Throttle:
    """In front of a Link, with the same `send` and `unsent`: at most `rate` bytes a second pass, evenly."""

    def __init__(self, loop: Loop, link: Link, rate: int) -> None:
        self._loop, self._link, self._rate = loop, link, rate
        self._slice_bytes = max(LEAST_SLICE_BYTES, rate * SLICE_US // 1_000_000)
        self._waiting: deque[memoryview] = deque()
        self._next_at = loop.now()  # when the next slice may go
        self._is_timed = False

    @property
    def unsent(self) -> int:
        """Buffers that are not in the connection's ring yet."""
        return len(self._waiting) + self._link.unsent

    def send(self, data: Data) -> None:
        """As of Link."""
        self._waiting.append(memoryview(data))
        if not self._is_timed:
            self._pass_on()

    def _pass_on(self) -> None:
        now = self._loop.now()
        while self._waiting and self._next_at <= now:
            data = self._waiting[0]
            piece = data[:self._slice_bytes]
            if len(piece) == len(data):
                self._waiting.popleft()
            else:
                self._waiting[0] = data[len(piece):]
            self._link.send(piece)
            self._next_at = max(self._next_at, now - SLICE_US) + len(piece) * 1_000_000 // self._rate
        if self._waiting:
            self._is_timed = True
            self._loop.call_later(self._next_at - now, self._on_time)

    def _on_time(self) -> None:
        self._is_timed = False
        self._pass_on()
