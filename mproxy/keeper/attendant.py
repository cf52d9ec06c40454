"""What a keeper does while a process is there that it keeps, or stands in front of: it waits for signals and for that
one's end, and passes signals on. What one process has not carried out is passed on to the next."""

from __future__ import annotations

import os
import signal
import time

from mproxy.keeper.orders import Orders
from mproxy.keeper.signals import STOPPING, Incoming, stop_with
from mproxy.keeper.upgrades import ENDING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.ground.shapes import Logger
    from mproxy.keeper.upgrades import Upgrades


class Attendant:
    """Of one keeper. `passed`: signals come from another keeper, in front of this one; `upgrades`: of the program,
    where this process can begin them."""

    def __init__(self, log: Logger, upgrades: Upgrades | None, *, passed: bool) -> None:
        self.orders = Orders()
        self.is_told_to_stop = False
        self.in_front = False  # of another keeper, which has the workers
        self.owed: list[int] = []  # signals for the next process
        self._log = log
        self._upgrades = upgrades
        self._incoming = Incoming(passed=passed)
        self._since_upgrade: set[int] = set()  # signals that were passed on since it began

    def await_end(self, pid: int) -> int:
        """Attend process `pid`, and first tell it what is owed; how it has ended, as waitpid(2) tells."""
        owed, self.owed = self.owed, []
        for number in owed:
            self._pass_on(pid, number)
        status = self._reap(pid)
        while status is None:
            self._begin_upgrade()
            number = self._incoming.wait()
            status = self._reap(pid)
            if status is not None and number != signal.SIGCHLD:
                self.owed.append(number)
            elif number != signal.SIGCHLD:
                self._pass_on(pid, number)
        return status

    def pause(self, pause_us: int) -> None:
        """There is no process now. A signal ends the pause, and is for the next one."""
        until = time.monotonic_ns() + pause_us * 1000
        while not STOPPING.intersection(self.owed) and (left := until - time.monotonic_ns()) > 0:
            number = self._incoming.wait(left / 1e9)
            if number != signal.SIGCHLD:
                self.owed.append(number)
                return

    def owe_to_next_build(self) -> None:
        """The next build goes on with everything. It is told what the one before has not done, and what that one was
        told meanwhile, for it has read its files before."""
        left = set() if self.in_front else set(self.orders.take_back())  # who is behind has orders of its own
        self.owed += sorted(left | self._since_upgrade)
        if self.is_told_to_stop and not STOPPING.intersection(self.owed):
            self.owed.append(signal.SIGTERM)

    def _pass_on(self, pid: int, number: int) -> None:
        self.is_told_to_stop = self.is_told_to_stop or number in STOPPING
        if number == signal.SIGTSTP:
            stop_with(pid, signal.SIGTSTP if self.in_front else signal.SIGSTOP)
        elif number != signal.SIGUSR2 or self._upgrades is None:
            self.orders.give(pid, number)
            self._since_upgrade.add(number)
        elif self.is_told_to_stop:
            self._log.error("upgrade-failed", why=ENDING)
        else:
            self._upgrades.want()

    def _begin_upgrade(self) -> None:
        if self._upgrades is not None and (self.in_front or self.orders.is_heard) and self._upgrades.begin_if_wanted():
            self._since_upgrade.clear()

    def _reap(self, pid: int) -> int | None:
        """How process `pid` has ended; None: it runs. As the first process of a container we get orphans, too."""
        while True:
            try:
                found, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return None
            if found in (0, pid):
                return status if found else None
            if self._upgrades is not None:
                self._upgrades.ended(found, status)
