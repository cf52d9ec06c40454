"""Ends a program that nobody has used for long enough (`sproxy --exit-idle`)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mproxy.io._loop import Loop

# How many looks there are in that time: it is longer by up to one of them.
LOOKS = 16


class IdleEnd:
    """Calls `end` once `in_use()` was false for `idle_us`, from one look to the next."""

    def __init__(self, loop: Loop, idle_us: int, in_use: Callable[[], bool], end: Callable[[], object]) -> None:
        self._loop = loop
        self._idle_us = idle_us
        self._in_use = in_use
        self._end = end
        self._used_at = loop.now()
        self._wait()

    def _wait(self) -> None:
        self._loop.call_later(self._idle_us // LOOKS, self._look)

    def _look(self) -> None:
        now = self._loop.now()
        if self._in_use():
            self._used_at = now
        if now - self._used_at >= self._idle_us:
            self._end()
        else:
            self._wait()
