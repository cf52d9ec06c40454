"""The access log: a line of JSON for each connection that has ended, in a file that all workers append to.

A disk that is slow or full must not hold up connections, nor fill memory: lines gather for FLUSH_US, and a thread of
the worker writes them; while it is busy at most MOST_BYTES wait, and what comes beyond that is dropped and counted. So
is what the disk does not take. `access-log-lost` says how many lines, every TELL_US at most.

The supervisor opens the file, as it may have rights that workers have not, and again when it was moved away.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from queue import Empty, SimpleQueue

from mproxy.ground.errors import UsageError
from mproxy.ground.words import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mproxy.ground.shapes import Logger
    from mproxy.io._loop import Loop
    from mproxy.relay.relay_observer import Account
    from mproxy.relay.rules import Rule

FLUSH_US = 100_000
TELL_US = 10_000_000
MOST_BYTES = 4 << 20

# How long the end of a worker waits for the disk.
LAST_LINES_S = 1.0


class AccessFile:
    """The file, open for appending: in the supervisor. UsageError when it cannot be opened."""

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY, 0o640)
        except OSError as error:
            raise UsageError(f"cannot write --access-log {printable(path)}: {error.strerror}") from None

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.close(self._fd)

    def fileno(self) -> int:
        """Its descriptor, open as long as this object lives."""
        return self._fd

    def was_moved(self) -> bool:
        """Whether its name stands for another file now, or for none; pipes and devices are never moved."""
        ours = os.fstat(self._fd)
        if not stat.S_ISREG(ours.st_mode):
            return False
        try:
            found = os.stat(self._path)
        except OSError:
            return True
        return (found.st_dev, found.st_ino) != (ours.st_dev, ours.st_ino)


class LineWriter:
    """Writes lines to a descriptor in a thread. `lost(count, why)` is told of those that were not written. All but the
    writing itself runs on the loop's thread."""

    def __init__(self, loop: Loop, lost: Callable[[int, str], object], most_bytes: int = MOST_BYTES) -> None:
        self._loop = loop
        self._lost = lost
        self._most = most_bytes
        self._fd = -1
        self._waiting: list[bytes] = []
        self._bytes = 0
        self._late = 0          # lines that there was no room for
        self._is_set = False    # the timer
        self._busy = False      # the thread has a batch
        self._given: SimpleQueue[tuple[int, bytes]] = SimpleQueue()
        self._done: SimpleQueue[tuple[int, str]] = SimpleQueue()
        self._has_thread = False

    def use(self, fd: int) -> None:
        """Write to a duplicate of `fd` from now on."""
        former, self._fd = self._fd, os.dup(fd)
        if former >= 0:
            self._given.put((former, b""))  # closed when what was given before is written
        if not self._has_thread:
            import _thread
            self._has_thread = True
            told = self._loop.call_soon_threadsafe
            _thread.start_new_thread(_write_all, (self._given, self._done, told, self._wrote))

    def add(self, line: bytes) -> None:
        """Have a line written, with its newline."""
        if self._bytes + len(line) > self._most:
            self._late += 1
        else:
            self._waiting.append(line)
            self._bytes += len(line)
        if not self._is_set:
            self._is_set = True
            self._loop.call_later(FLUSH_US, self._flush)

    def _flush(self) -> None:
        self._is_set = False
        if self._late:
            late, self._late = self._late, 0
            self._lost(late, "the disk is too slow")
        if self._busy:  # `_wrote` goes on
            return
        self._give()

    def _give(self) -> None:
        if self._waiting and self._fd >= 0:
            self._busy = True
            self._given.put((self._fd, b"".join(self._waiting)))
            self._waiting, self._bytes = [], 0

    def _wrote(self) -> None:
        """The thread has done with a batch."""
        with contextlib.suppress(Empty):
            lost, why = self._done.get_nowait()
            self._busy = False
            if lost:
                self._lost(lost, why)
            if not self._is_set:
                self._give()

    def close(self, patience_s: float = LAST_LINES_S) -> None:
        """Write what there is, and wait for the disk, but not for ever."""
        until = time.monotonic() + patience_s
        while (self._busy or self._waiting) and self._has_thread and self._fd >= 0:
            if not self._busy:
                self._give()
            try:
                lost, why = self._done.get(timeout=max(0.0, until - time.monotonic()))
            except Empty:
                return
            self._busy = False
            if lost:
                self._lost(lost, why)


def _write_all(given: SimpleQueue[tuple[int, bytes]], done: SimpleQueue[tuple[int, str]],
               call: Callable[[Callable[[], None]], object], wrote: Callable[[], None]) -> None:
    """The thread: batches of lines, with the descriptor of each; an empty one closes its descriptor."""
    torn = False  # the file ends in the middle of a line
    while True:
        fd, data = given.get()
        if not data:
            os.close(fd)
            torn = False
            continue
        whole = b"\n" + data if torn else data
        view, why = memoryview(whole), ""
        while view:
            try:
                view = view[os.write(fd, view):]
            except OSError as error:
                why = error.strerror or str(error)
                break
        written = len(whole) - len(view)
        lost = whole.count(b"\n", written) - (torn and written == 0)
        if written:
            torn = not whole.endswith(b"\n", 0, written)
        done.put((lost, why))
        call(wrote)


class AccessLog:
    """What a worker writes of its connections. `use` gives it the file."""

    def __init__(self, loop: Loop, log: Logger, worker: int) -> None:
        self._loop = loop
        self._log = log
        self._worker = worker
        self._lost = 0
        self._told_at = -TELL_US
        self._writer: LineWriter | None = None

    def use(self, fd: int) -> None:
        """Write to a duplicate of this descriptor from now on."""
        if self._writer is None:
            self._writer = LineWriter(self._loop, self._on_lost)
        self._writer.use(fd)

    def note(self, rule: Rule, account: Account) -> None:
        """A connection of the rule has ended."""
        if self._writer is not None:
            self._writer.add(say_account(rule, account, self._worker, time.time()))

    def close(self) -> None:
        """The worker ends."""
        if self._writer is not None:
            self._writer.close()
            self._told_at = -TELL_US
            self._on_lost(0, "the disk is too slow")

    def _on_lost(self, lines: int, why: str) -> None:
        self._lost += lines
        now = self._loop.now()
        if self._lost and now - self._told_at >= TELL_US:
            self._log.warning("access-log-lost", worker=self._worker, lines=self._lost, why=why)
            self._lost, self._told_at = 0, now


def say_account(rule: Rule, account: Account, worker: int, now: float) -> bytes:
    """The line: an object of JSON. `now`: seconds since 1970, the end."""
    duration_us = account.duration_us
    line: dict[str, object] = {
        "time": _say_time(now - duration_us / 1e6), "protocol": rule.protocol, "rule": rule.options.name or None,
        "listen": rule.listen_text, "client": account.client, "through": account.through, "target": account.target,
        "address": account.address, "bytes_in": account.bytes_in, "bytes_out": account.bytes_out,
        "duration_s": round(duration_us / 1e6, 6), "ended": account.why, "worker": worker}
    return json.dumps({name: value for name, value in line.items() if value is not None}).encode() + b"\n"


def _say_time(at: float) -> str:
    """Local time in ISO 8601, as in the log."""
    whole = int(at)
    zone = time.strftime("%z", time.localtime(whole))
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.localtime(whole))}.{int(at % 1 * 1000):03d}{zone[:3]}:{zone[3:]}"
