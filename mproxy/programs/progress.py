"""How far a transfer is, on the last line of a terminal; lines of the log go above it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.io._loop import Loop
    from mproxy.service.log import Log

LOOK_US = 250_000
RATE_OVER_LOOKS = 20  # the rate is the average of the last five seconds

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


class Progress:
    """Drawn on descriptor 2 if that is a terminal and `quiet` is not set; else nothing is drawn."""

    def __init__(self, loop: Loop, log: Log, quiet: bool) -> None:
        self._loop, self._log = loop, log
        self.wanted = not quiet and os.isatty(2)  # somebody watches
        self._total: Callable[[], int | None] = _unknown
        self._done: Callable[[], int] | None = None
        self._lost: Callable[[], int] = int
        self._found: Callable[[], int | None] = _unknown
        self._marks: deque[tuple[int, int]] = deque(maxlen=RATE_OVER_LOOKS)  # (when, bytes)
        self._shown = 0  # columns taken

    def start(self, total: Callable[[], int | None], done: Callable[[], int], lost: Callable[[], int],
              found: Callable[[], int | None] | None = None) -> None:
        """Draw from now on. `total()` and `done()` give bytes, None for unknown, and `lost()` packets; `found()` what
        is known so far as long as the total is not."""
        if not self.wanted:
            return
        self._total, self._done, self._lost, self._found = total, done, lost, found or _unknown
        self._log.before_line = self.clear
        self._look()

    def clear(self) -> None:
        """Erase the progress line, so that other output can be written."""
        if self._shown:
            _write("\r" + " " * self._shown + "\r")
            self._shown = 0

    def close(self) -> None:
        """Draw it for the last time, and leave it there."""
        if self._done is None:
            return
        self._draw()
        _write("\n")
        self._shown = 0
        self._done = None
        self._log.before_line = None

    def _look(self) -> None:
        if self._done is not None:
            self._draw()
            self._loop.call_later(LOOK_US, self._look)

    def _draw(self) -> None:
        if self._done is None:
            return
        done = self._done()
        self._marks.append((self._loop.now(), done))
        (since, before), (now, _) = self._marks[0], self._marks[-1]
        rate = (done - before) * 1e6 / (now - since) if now > since else 0.0
        text = describe(done, self._total(), rate, self._lost(), self._found())[:_columns() - 1]
        _write("\r" + text + " " * max(0, self._shown - len(text)))
        self._shown = max(self._shown, len(text))


def describe(done: int, total: int | None, rate: float, lost: int, found: int | None = None) -> str:
    """`45%  123 MB of 274 MB  11.2 MB/s  13s left  12 packets lost`; before the total is known `123 MB of 140 MB found
    so far  11.2 MB/s`."""
    parts = [f"{show_bytes(done)} of {show_bytes(total)}" if total else show_bytes(done), f"{show_bytes(rate)}/s"]
    if not total and found:
        parts[0] += f" of {show_bytes(found)} found so far"
    if total:
        parts.insert(0, f"{min(100, done * 100 // total):3d}%")
        if rate >= 1 and done < total:
            parts.append(f"{show_time((total - done) / rate)} left")
    if lost:
        parts.append(f"{lost} packet{'s' * (lost != 1)} lost")
    return "  ".join(parts)


def show_bytes(count: float) -> str:
    """Three digits and a unit, in powers of 1000."""
    step = 0
    while count >= 999.5 and step < len(_UNITS) - 1:
        count /= 1000
        step += 1
    return f"{count:.{0 if step == 0 or count >= 99.95 else 1 if count >= 9.995 else 2}f} {_UNITS[step]}"


def show_time(seconds: float) -> str:
    """`13s`, `2m05s`, `3h20m`, `5d`."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    if seconds < 86400:
        return f"{seconds // 3600}h{seconds // 60 % 60:02d}m"
    return f"{seconds // 86400}d"


def _unknown() -> None:
    """Nobody knows."""


def _columns() -> int:
    try:
        return os.get_terminal_size(2).columns or 80
    except OSError:
        return 80


def _write(text: str) -> None:
    try:
        os.write(2, text.encode("ascii", "replace"))
    except OSError:
        pass  # nobody is watching any more
