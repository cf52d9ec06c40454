"""The log: one line an event, on standard error.

    text: for people and grep
        2026-11-21T08:00:00.123+01:00 info resumed session=4f2a91c0 after=6.213s
    json: for collectors; a duration is a number of seconds
        {"time":"2026-11-21T08:00:00.123+01:00","level":"info","event":"resumed",...,"after":6.213}

Times are local, with the zone's offset from UTC (ISO 8601). On a terminal a line also ends with a carriage return,
because ssh, whose ProxyCommand this may be, has set the terminal to raw.

Four promises, because the log must never be what stops or fools a relay:

1. Logging never raises. A line that cannot be written (disk full, reader gone, descriptor closed) is counted,
   the next line tries again, and the first that gets through is preceded by `lines-lost count=N`.
2. Logging never waits. A stopped terminal (ctrl-S) or a full pipe would block a plain write and with it every
   stream; so the descriptor is asked first, and a line is at most PIPE_BUF bytes, which a pipe or terminal
   that says "writable" takes without waiting (pipe(7)).
3. Logging has a rate, whatever a peer does and however long something is out of reach (`restrain`).
4. Nothing that a peer sends can forge a line or move the cursor: values are written as printable ASCII, everything
   else is escaped.
"""

from __future__ import annotations

import os
import select
import time

from mproxy.ground.words import say_duration
from mproxy.io._output import is_terminal, is_writable, write_now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mproxy.service.log_rate import Restraint

# Order is rank. The configuration offers the same names.
_RANK = {"debug": 0, "info": 1, "warning": 2, "error": 3}

# Bytes of a whole line (select.PIPE_BUF is 4096 on Linux), less what time, level, event and the keys take.
_VALUES_BYTES = select.PIPE_BUF - 700

# Bytes of one value: long enough for a path or an error text, short enough for a line one can read.
_VALUE_BYTES = 400

# A value of only these needs no quotes; blanks, quotes and = would make `key=value` ambiguous.
_PLAIN = frozenset(map(chr, range(0x21, 0x7F))) - frozenset('"=\\')

_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}

# How often to look whether lines that were held back may be written.
_LOOK_US = 10_000_000


class Seconds(float):
    """A duration in seconds: in text `6.213s`, and from a minute on `2m5s` or `3d4h`; a number in JSON."""

    def __str__(self) -> str:
        return f"{float(self):.3f}s" if self < 60 else say_duration(self).replace(" ", "")


class Log:
    """Writes events to a descriptor.

    `level` is the lowest that is written, `style` is "text" or "json", `now` gives seconds since 1970. Fields whose
    value is None are left out; true, false and numbers stay themselves in JSON, everything else becomes its `str`.
    """

    def __init__(self, level: str = "info", style: str = "text", fd: int = 2,
                 now: Callable[[], float] = time.time) -> None:
        self._lowest = _RANK[level]
        self._compose = {"text": _compose_text, "json": _compose_json}[style]
        self._fd = fd
        self._now = now
        self._lost = 0
        # Called before each line, for whoever draws on the same terminal to clear it.
        self.before_line: Callable[[], object] | None = None
        # The rest of a line that a descriptor took only in part (the disk filled up in the middle of it).
        self._rest = b""
        self._second, self._clock, self._zone = -1, "", ""  # of the last line
        self._restraint: Restraint | None = None  # what holds repetitions back
        self._call_later: Callable[[int, Callable[[], None]], object] = lambda _delay_us, _function: None
        self._looking = False   # a timer runs
        self._marks: dict[str, object] = {}  # fields of every line
        if fd == 2:
            reserve_standard_fds()

    def restrain(self, call_later: Callable[[int, Callable[[], None]], object]) -> None:
        """From now on hold back what repeats itself (mproxy.service.log_rate).

        `call_later(microseconds, function)` is the loop's: what was held back is written when its time has come, or
        by `tell_rest`.
        """
        from mproxy.service.log_rate import Restraint
        self._restraint = Restraint(with_flaps=self._lowest == 0)
        self._call_later = call_later
        self._looking = False

    def mark(self, **fields: object) -> None:
        """From now on every line has these fields, too."""
        self._marks = fields

    def confine(self, level: str) -> None:
        """From now on write what has this level or a higher one."""
        self._lowest = _RANK[level]

    @property
    def writes_info(self) -> bool:
        """Whether events of the level info are written."""
        return self._lowest <= 1

    def forget(self, event: str) -> None:
        """Drop what was held back of an event: it is over."""
        if self._restraint is not None:
            self._restraint.forget(event)

    def tell_rest(self) -> None:
        """Write what was held back: nothing more follows."""
        if self._restraint is not None:
            for line in self._restraint.rest():
                self._put(*line)

    def debug(self, event: str, /, **fields: object) -> None:
        if self._lowest <= 0:
            self._log("debug", event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        if self._lowest <= 1:
            self._log("info", event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        if self._lowest <= 2:
            self._log("warning", event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        self._log("error", event, fields)

    def _log(self, level: str, event: str, fields: dict[str, object]) -> None:
        if self._restraint is None:
            self._put(level, event, fields)
            return
        more = self._restraint.admit(level, event, fields, self._now())
        if more is None:
            self._look_later()
        else:
            self._put(level, event, fields, more)

    def _look_later(self) -> None:
        if not self._looking:
            self._looking = True
            self._call_later(_LOOK_US, self._look)

    def _look(self) -> None:
        self._looking = False
        restraint = self._restraint
        if restraint is None:
            return
        for line in restraint.due(self._now()):
            self._put(*line)
        if restraint.holding:
            self._look_later()

    def _put(self, level: str, event: str, fields: dict[str, object], more: int = 0) -> None:
        """Write a line, before which `more` like it were held back."""
        now = self._now()
        if more:
            fields = {**fields, "more": more}
        if self._marks:
            fields = {**fields, **self._marks}
        lost = b""
        if self._lost:
            lost = self._compose(self._stamp(now), "warning", "lines-lost", {"count": self._lost})
        if self._write_rest() and (not lost or self._write(lost)):
            self._lost = 0
            if self._write(self._compose(self._stamp(now), level, event, fields)):
                return
        self._lost += 1

    def _stamp(self, now: float) -> str:
        """Local time with milliseconds, truncated and not rounded: no line may be dated after the next one."""
        second, milliseconds = divmod(int(now * 1000), 1000)
        if second != self._second:
            local = time.localtime(second)
            self._second, self._clock, self._zone = second, time.strftime("%Y-%m-%dT%H:%M:%S", local), _offset(local)
        return f"{self._clock}.{milliseconds:03d}{self._zone}"

    def _write_rest(self) -> bool:
        """Finish a line cut in the middle, so that the next one starts on its own line."""
        rest, self._rest = self._rest, b""
        if rest and not self._write(rest):
            self._rest = rest
        return not self._rest

    def _write(self, line: bytes) -> bool:
        """Whether `line` was written, or at least begun: then the rest is kept for the next call."""
        try:
            if not is_writable(self._fd):
                return False
            if self.before_line is not None:
                self.before_line()
            if is_terminal(self._fd) and not line.endswith(b"\r\n"):
                line = line[:-1] + b"\r\n"
            written = write_now(self._fd, line)
        except OSError:
            return False
        self._rest = line[written:]
        return written > 0


def reserve_standard_fds() -> list[int]:
    """Open /dev/null if descriptor 0, 1 or 2 is closed; returns which were.

    Otherwise a socket might get the number 2, and log lines would be sent to a daemon.
    """
    closed = []
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            closed.append(fd)
            null_fd = os.open("/dev/null", os.O_RDWR)
            if null_fd != fd:
                os.dup2(null_fd, fd)
                os.close(null_fd)
    return closed


def _compose_text(stamp: str, level: str, event: str, fields: dict[str, object]) -> bytes:
    limit = _value_limit(fields)
    parts = [stamp, level, event]
    for name, value in fields.items():
        if value is None:
            continue
        text = "true" if value is True else "false" if value is False else str(value)
        plain = text and len(text) <= limit and _PLAIN.issuperset(text)
        parts.append(f"{name}={text if plain else quote(text, limit)}")
    return (" ".join(parts) + "\n").encode("ascii", "replace")


def _compose_json(stamp: str, level: str, event: str, fields: dict[str, object]) -> bytes:
    limit = _value_limit(fields)
    parts = [f'"time":"{stamp}"', f'"level":"{level}"', f'"event":"{event}"']
    for name, value in fields.items():
        if value is None:
            continue
        if value is True or value is False:
            text = "true" if value else "false"
        elif isinstance(value, Seconds):
            text = f"{float(value):.3f}"
        elif type(value) is int or (type(value) is float and abs(value) < float("inf")):
            text = repr(value)
        else:
            text = quote(str(value), limit)
        parts.append(f'"{name}":{text}')
    return ("{" + ",".join(parts) + "}\n").encode("ascii", "replace")


def _value_limit(fields: dict[str, object]) -> int:
    return min(_VALUE_BYTES, _VALUES_BYTES // max(1, len(fields)))


def quote(text: str, limit: int = _VALUE_BYTES) -> str:
    """`text` as a JSON string (RFC 8259 section 7) of printable ASCII, cut off with `...` at `limit` bytes.

    JSON itself lets DEL and the C1 control characters pass, which terminals obey.
    """
    if len(text) <= limit - 5 and _PLAIN.issuperset(text):
        return f'"{text}"'
    parts = ['"']
    room = limit - 5
    for char in text:
        escaped = _ESCAPES.get(char) or (char if " " <= char <= "~" else _escape(ord(char)))
        room -= len(escaped)
        if room < 0:
            parts.append("...")
            break
        parts.append(escaped)
    parts.append('"')
    return "".join(parts)


def _escape(code: int) -> str:
    if code > 0xFFFF:
        code -= 0x10000
        return f"\\u{0xd800 + (code >> 10):04x}\\u{0xdc00 + (code & 0x3ff):04x}"
    return f"\\u{code:04x}"


def _offset(local: time.struct_time) -> str:
    """The zone's offset from UTC, as in +01:00."""
    minutes = local.tm_gmtoff // 60
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"
