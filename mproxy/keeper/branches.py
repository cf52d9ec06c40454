"""The main process of a program with several workers: each has a keeper of its own, which this one starts and stands in
front of.

A keeper shares its descriptors with its worker alone, so that whatever a dead worker leaves is that one's
(docs/decisions/several-workers.md). What was open before, such as ports, all have. This process only waits: it passes
signals on to every keeper, and ends when all have. A keeper that is killed takes its sessions with it, and no other's;
the next one starts in its place.
"""

from __future__ import annotations

import os
import signal
import time

from mproxy.ground.errors import MproxyError
from mproxy.ground.words import say_ending
from mproxy.io._process import die_with_parent
from mproxy.keeper.deaths import Deaths
from mproxy.keeper.main_process import be_keeper, note_death
from mproxy.keeper.signals import HELD, PASSED_ON, STOPPING, meanings, passed_on

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mproxy.ground.shapes import Logger


class Branches:
    """`count` keepers."""

    def __init__(self, log: Logger, count: int, deaths: Deaths | None = None) -> None:
        self._log = log
        self._count = count
        self._deaths = deaths or Deaths()
        self._numbers: dict[int, int] = {}     # process -> which worker's keeper it is
        self._began: dict[int, int] = {}       # process -> when, in nanoseconds
        self._owed: dict[int, int] = {}        # worker whose keeper has died -> when the next one starts
        self._meaning = meanings(passed=False)
        self._stopping = False
        self._status = 0
        self.mask: set[int] = set()  # of the signals that were held before `hold_signals`

    def hold_signals(self) -> None:
        """From now on signals wait for `run`."""
        self.mask = signal.pthread_sigmask(signal.SIG_BLOCK, HELD)

    def run(self, work: Callable[[int], int]) -> int:
        """Returns in this process the program's exit status, and in each branch what `work(number)` returned there."""
        be_keeper()
        main = os.getpid()
        self._owed = dict.fromkeys(range(self._count), 0)
        while self._owed or self._numbers:
            number = self._start_due(main)
            if number is not None:
                return work(number)
            self._wait()
            self._reap()
        return self._status

    def _start_due(self, main: int) -> int | None:
        """Start the keepers whose time has come; in such a one: which it is."""
        now = time.monotonic_ns()
        for number in [number for number, at in self._owed.items() if at <= now]:
            del self._owed[number]
            pid = os.fork()
            if pid == 0:
                die_with_parent(main)
                os.setpgid(0, 0)
                return number
            self._numbers[pid], self._began[pid] = number, now
        return None

    def _wait(self) -> None:
        """Wait for a signal, or until a keeper is to be started."""
        if self._owed:
            left_s = max(0, min(self._owed.values()) - time.monotonic_ns()) / 1e9
            found = signal.sigtimedwait(self._meaning, left_s)
            number = self._meaning[found.si_signo] if found is not None else signal.SIGCHLD
        else:
            number = self._meaning[signal.sigwait(self._meaning)]
        if number == signal.SIGUSR2:
            self._log.error("upgrade-failed", why=NO_UPGRADE)
        elif number == signal.SIGTSTP:
            self._stop_for_a_while()
        elif number != signal.SIGCHLD:
            self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        if number in STOPPING:
            self._stopping = True
            self._owed.clear()
        for pid in self._numbers:
            os.kill(pid, passed_on(number) if number in PASSED_ON else number)

    def _stop_for_a_while(self) -> None:
        """Ctrl-Z, as in `stop_with`."""
        for pid in self._numbers:
            os.kill(pid, signal.SIGTSTP)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})  # here
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})
        self._pass_on(signal.SIGCONT)

    def _reap(self) -> None:
        while self._numbers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            if pid in self._numbers:  # as the first process of a container we get orphans, too
                self._ended(pid, self._numbers.pop(pid), status)

    def _ended(self, pid: int, number: int, status: int) -> None:
        lived_us = (time.monotonic_ns() - self._began.pop(pid)) // 1000
        if os.WIFEXITED(status):
            self._status = self._status or os.WEXITSTATUS(status)
            if not self._stopping:
                self._pass_on(signal.SIGTERM)  # one program: it ends as a whole
            return
        pause_us = self._deaths.note(lived_us)
        note_death()
        restart = "never" if self._stopping or pause_us is None else f"{pause_us / 1e6:.1f}s" if pause_us else "now"
        self._log.error("keeper-died", worker=number, pid=pid, why=say_ending(status), restart=restart)
        if self._stopping:
            self._status = self._status or 128 + os.WTERMSIG(status)
        elif pause_us is None:
            raise MproxyError("keepers have died too often, just after their start")
        else:
            self._owed[number] = time.monotonic_ns() + pause_us * 1000


NO_UPGRADE = "with --workers there is no upgrade without a restart; the running one continues"
