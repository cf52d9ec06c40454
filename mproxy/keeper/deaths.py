"""What a worker's death means: when the next worker starts, and which session is to blame. Takes times and statuses as
arguments, in microseconds and as waitpid(2) gives them."""

from __future__ import annotations

import os
import signal

# A worker that lived for less died young. The first two who follow such a one start at once, then there are pauses.
YOUNG_US = 1_000_000
FIRST_PAUSE_US = 100_000
AT_ONCE = 2

# So many young deaths in a row, and there is no use in going on.
MOST_YOUNG = 10

# A session in whose turn the worker crashed so many times within this is ended.
CRASHES = 2
BLAME_US = 60_000_000

# The exit status of an error within the program (EX_SOFTWARE of sysexits.h).
INTERNAL_ERROR = 70

# That of a worker, and of a keeper, that has given all to the next build of the program (upgrades.py). If that has
# ended meanwhile, the next worker still has it.
HANDED_OVER = 76

# That of a worker, and of a keeper that is not the main process, that has left all for the next start (leaving.py).
STORED = 77

# Signals by which a process ends that did something wrong. The others come from outside: nobody's turn is to blame.
_OWN_FAULT = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGSYS,
              signal.SIGTRAP}


def is_death(status: int) -> bool:
    """Whether a worker has died, not ended: an exit status of its own choice is an end."""
    return not os.WIFEXITED(status) or os.WEXITSTATUS(status) in (INTERNAL_ERROR, HANDED_OVER)


def is_crash(status: int) -> bool:
    """Whether it died of what it was doing."""
    return os.WEXITSTATUS(status) == INTERNAL_ERROR if os.WIFEXITED(status) else os.WTERMSIG(status) in _OWN_FAULT


def is_killed(status: int) -> bool:
    """Whether it was killed from outside."""
    return os.WIFSIGNALED(status) and not is_crash(status)


def status_of_dead(status: int) -> int:
    """The exit status of a program whose worker died, as a shell would count it."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def say_pause(pause_us: int) -> str:
    """When the next worker starts, for the log."""
    return f"{pause_us / 1e6:.1f}s" if pause_us else "now"


class Deaths:
    """The deaths of a keeper's workers."""

    def __init__(self, young_us: int = YOUNG_US, most_young: int = MOST_YOUNG) -> None:
        self.count = 0
        self.young = 0  # the last so many, in a row
        self._young_us = young_us
        self._most_young = most_young

    def note(self, lived_us: int) -> int | None:
        """A worker has died; returns how long the next one has to wait, None: for ever."""
        self.count += 1
        self.young = self.young + 1 if lived_us < self._young_us else 0
        if self._most_young <= self.young:
            return None
        return FIRST_PAUSE_US << self.young - AT_ONCE - 1 if self.young > AT_ONCE else 0


class Blame:
    """Sessions by what they have done to workers. Their numbers are never used twice; 0: it was nobody's turn."""

    def __init__(self) -> None:
        self._crashes: dict[int, list[int]] = {}  # session -> when

    def note(self, session: int, now_us: int) -> bool:
        """A worker has crashed in the turn of `session`; returns whether that one is to be ended."""
        self._crashes = {number: recent for number, times in self._crashes.items()
                         if (recent := [at for at in times if now_us - at < BLAME_US])}
        if not session:
            return False
        times = self._crashes.setdefault(session, [])
        times.append(now_us)
        return len(times) >= CRASHES
