"""What the person at the keyboard is told while the server is away: a line on the terminal, a desktop notification.

The line is for `cproxy --stdio`, whose terminal belongs to somebody else: ssh has set it to raw, and its cursor stands
in the user's work. So it is drawn in the line below the cursor, and leaves that where it was.
"""

from __future__ import annotations

import os

from mproxy.ground.words import say_duration
from mproxy.io._output import is_terminal, is_writable, write_now

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from mproxy.io._loop import Loop, Timer
    from mproxy.service.log import Log

TERMINAL = 2

# Back within this time: nobody has to be told by a line; by a notification, which stays for longer.
LINE_AFTER_US = 1_000_000
NOTICE_AFTER_US = 5_000_000

# Between two drawings of the line: it counts seconds.
AGAIN_US = 1_000_000

# Make room for a line below the cursor, keeping the column (IND, cursor up); go there and come back (DECSC, DECRC);
# erase to the end of the line (EL). Every terminal since the VT100 knows these.
MAKE_ROOM = "\033D\033[A"
BELOW = "\0337\033[B\r"
ERASE = "\033[K"
BACK = "\0338"


class AwayFacts:
    """How it stands now, in microseconds and bytes."""

    __slots__ = ("away_us", "next_try_us", "waiting")

    def __init__(self, away_us: int, waiting: int, next_try_us: int | None) -> None:
        self.away_us = away_us
        self.waiting = waiting
        self.next_try_us = next_try_us   # None: there is a dial, or none is due

    def say(self, server: str) -> str:
        """One line for a person."""
        from mproxy.programs.relay_status import say_bytes  # needed by those who are away alone
        parts = [f"mproxy: {server} away for {say_duration(self.away_us / 1e6)}"]
        if self.waiting:
            parts.append(f"{say_bytes(self.waiting)} waiting")
        if self.next_try_us is not None and self.next_try_us >= 1_000_000:
            parts.append(f"trying again in {say_duration(self.next_try_us / 1e6)}")
        else:
            parts.append("trying again")
        return ", ".join(parts)


class AwayTeller:
    """Tells when the server has been away for a moment, and when it is back."""

    def __init__(self, loop: Loop, log: Log, server: str, facts: Callable[[], AwayFacts]) -> None:
        self._loop = loop
        self._log = log
        self._server = server
        self._facts = facts
        self._draws = False                       # a line on the terminal
        self._notifier: str | None = None         # the program that shows notifications
        self._notices: list[subprocess.Popen[bytes]] = []   # of it, those that may still run
        self._shown = False                       # the line is there
        self._noticed = False                     # a notification has told it
        self._line_timer: Timer | None = None
        self._notice_timer: Timer | None = None

    def use_terminal(self) -> None:
        """Draw the line, if standard error is a terminal."""
        self._draws = is_terminal(TERMINAL)

    def leave_terminal(self) -> None:
        """It is no longer ours."""
        self.withdraw()
        self._draws = False

    def use_notifications(self) -> None:
        """Notify the desktop, if there is notify-send."""
        import shutil
        self._notifier = shutil.which("notify-send")
        if self._notifier is None:
            self._log.warning("no-notifications", why="--notify: notify-send is not installed (package libnotify-bin)")

    def away(self) -> None:
        """The carrier is lost."""
        if self._draws and self._line_timer is None:
            self._log.before_line = self._clear
            self._line_timer = self._loop.call_later(LINE_AFTER_US, self._draw)
        if self._notifier is not None and self._notice_timer is None:
            self._notice_timer = self._loop.call_later(NOTICE_AFTER_US, self._notice_away)

    def back(self) -> None:
        """There is one again, or the session is over."""
        self.withdraw()
        if self._noticed:
            self._noticed = False
            self._notify(f"{self._server} is back", "connections continue where they were")

    def withdraw(self) -> None:
        """Nobody waits for one any more: whose terminal it was, a shell writes there now."""
        for timer in (self._line_timer, self._notice_timer):
            if timer is not None:
                timer.cancel()
        self._line_timer = self._notice_timer = None
        self._clear()
        self._log.before_line = None

    # ---- the line

    def _draw(self) -> None:
        self._line_timer = self._loop.call_later(AGAIN_US, self._draw)
        text = self._facts().say(self._server)
        room = "" if self._shown else MAKE_ROOM
        self._shown = self._write(f"{room}{BELOW}{text[:_columns() - 1]}{ERASE}{BACK}") or self._shown

    def _clear(self) -> None:
        if self._shown:
            self._shown = not self._write(f"{BELOW}{ERASE}{BACK}")

    def _write(self, text: str) -> bool:
        """False, and nothing written, where the terminal takes nothing now."""
        try:
            return is_writable(TERMINAL) and write_now(TERMINAL, text.encode("ascii", "replace")) > 0
        except OSError:
            return False

    # ---- the notification

    def _notice_away(self) -> None:
        self._noticed = True
        self._notify(f"{self._server} is away", "connections are kept, and continue when it is back")

    def _notify(self, title: str, text: str) -> None:
        import subprocess
        assert self._notifier is not None
        self._notices = [notice for notice in self._notices if notice.poll() is None]
        try:
            self._notices.append(subprocess.Popen(
                [self._notifier, "--app-name=mproxy", "--", title, text], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True))
        except OSError as error:
            self._log.warning("no-notifications", why=f"cannot run notify-send: {error.strerror}")


def _columns() -> int:
    try:
        return os.get_terminal_size(TERMINAL).columns or 80
    except OSError:
        return 80
