"""A child process whose standard input and output are one end of a pair of sockets; ours is the other.

It is run by /bin/sh in a session of its own: it has no terminal, is reached by no Ctrl-C, and is ended with all that it
has started. What it says on standard error is logged line by line, up to a bound. It is waited for as soon as it ends.

One that may use the terminal, to ask for a password, is in our session and process group, or the terminal would stop
it; then what it has started has to end by itself. Its standard error is ours.
"""

from __future__ import annotations

import os
import select
import signal

from mproxy.ground.words import escaped, say_ending
from mproxy.policy.via_start import start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mproxy.ground.shapes import Logger
    from mproxy.io._loop import Loop, Timer

# Lines of standard error that are logged of one process, and bytes of one of them. What follows is read, and dropped.
MOST_LINES = 20
LINE_BYTES = 500

# From SIGTERM to SIGKILL: ssh ends its connection in order, a shell its children.
KILL_US = 2_000_000

READ_BYTES = 4096
LAST_READS = 16  # of what a process that has ended left behind


class ViaCommand:
    """One run of `command`. `on_end(self)` is called once, when it has ended and its last words were read. OSError if
    it cannot be started."""

    def __init__(self, loop: Loop, command: str, log: Logger, on_end: Callable[[ViaCommand], object],
                 has_terminal: bool = False) -> None:
        child = start(command, has_terminal)
        self.has_terminal = child.has_terminal
        self.sock = child.sock
        self.ending = ""      # how it has ended
        self.status: int | None = None  # its exit status; None: by a signal, or not yet
        self.last_words = ""  # its last line on standard error
        self.carries = False  # it has brought a WELCOME
        self.dismissed = False  # its end was asked for
        self._loop = loop
        self._log = log
        self._on_end = on_end
        self._said = 0
        self._rest = b""      # of a line that is not complete
        self._timer: Timer | None = None
        self._errors = child.errors
        self._pid = child.pid
        self._pidfd = os.pidfd_open(self._pid)
        self._watch = loop.watch(self._pidfd, lambda _events: self._ended())
        self._errors_watch = loop.watch(self._errors, lambda _events: self._read())

    def dismiss(self, grace_us: int = 0) -> None:
        """Have it end: by itself within `grace_us`, else by SIGTERM, and after KILL_US by SIGKILL."""
        self.dismissed = True
        if self.ending:
            return
        if self._timer is not None:
            self._timer.cancel()
        if grace_us:
            self._timer = self._loop.call_later(grace_us, self.dismiss)
        else:
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)
            self._timer = self._loop.call_later(KILL_US, lambda: self._signal(signal.SIGKILL))

    def end_now(self, patience_s: float) -> None:
        """The same once the loop has ended: SIGTERM, and SIGKILL after that time."""
        if self.ending:
            return
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if not poll.poll(patience_s * 1000):
            self._signal(signal.SIGKILL)

    def say_end(self) -> str:
        """How it ended, with its last words."""
        return f"{self.ending}: {self.last_words}" if self.last_words else self.ending

    def _signal(self, number: signal.Signals) -> None:
        """To all of its processes: their group has its number, which is not given to another before it is waited
        for. With the terminal: to itself alone."""
        if not self.ending:
            try:
                (os.kill if self.has_terminal else os.killpg)(self._pid, number)
            except OSError:
                pass  # it runs with other rights (sudo), and ends with its input

    def _ended(self) -> None:
        for _ in range(LAST_READS):
            if not self._read():
                break
        if self._rest:
            self._say(self._rest)
        self._signal(signal.SIGKILL)  # what it has left in the background
        _pid, status = os.waitpid(self._pid, 0)
        self.ending = say_ending(status)
        self.status = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        for watch in (self._watch, self._errors_watch):
            watch.close()
        for fd in (self._pidfd, self._errors):
            os.close(fd)
        if self._timer is not None:
            self._timer.cancel()
        self._on_end(self)

    def _read(self) -> bool:
        """Read some of standard error; whether there was any."""
        try:
            data = os.read(self._errors, READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._errors_watch.close()
            return False
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._say(line)
        self._rest = rest[:LINE_BYTES]
        return True

    def _say(self, line: bytes) -> None:
        text = escaped(line[:LINE_BYTES].decode(errors="replace").strip())
        if not text:
            return
        self.last_words = text
        self._said += 1
        if self._said <= MOST_LINES:
            more = "the rest is left out" if self._said == MOST_LINES else None
            self._log.warning("via-says", line=text, more=more)
