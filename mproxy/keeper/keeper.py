"""The keeper: the process that was started, and that the service manager knows. A worker does all the work; when it
dies, the next one is cloned from the keeper's untouched memory, within milliseconds. After an upgrade the keeper of the
next build does so, and this one stands in front of it (upgrades.py).

Workers have memory of their own, but one table of descriptors with the keeper and with each other (`_clone.pxd`). So
the death of a worker closes nothing. The keeper only waits: it reads no descriptor, and nothing that a peer has sent.
It passes signals on, and ends as its worker ends.
"""

from __future__ import annotations

import os
import signal
import time

from mproxy.ground.errors import MproxyError
from mproxy.ground.words import say_ending
from mproxy.io.descriptors import Inherited
from mproxy.keeper._clone import clone_worker
from mproxy.keeper.deaths import HANDED_OVER, STORED, Blame, Deaths, is_crash, is_death
from mproxy.keeper.main_process import be_keeper, note_death
from mproxy.keeper.program_text import ProgramText
from mproxy.keeper.signals import HELD, PASSED_ON, STOPPING, ended_by, meanings, passed_on, stop_with

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from mproxy.ground.shapes import Logger
    from mproxy.io._loop import Loop
    from mproxy.keeper.branch import Branch
    from mproxy.keeper.upgrades import Upgrades


class Keeper:
    """Keeps a worker running, with one thread and until it ends by itself.

    What is open and what is in memory when `run` is called is what every worker begins with; so no worker may close a
    descriptor of those, unless the program ends. `claim(fds)`: which of the descriptors that a dead worker has left are
    still wanted. `turn()`: the session whose turn it was, 0: nobody's. `upgrades`: without, there are none. `branch`:
    it is of one of several workers. `behind`: it stands behind another process, which passes signals on, as it does at
    the latest after an upgrade.
    """

    def __init__(self, loop: Loop, log: Logger, deaths: Deaths | None = None,
                 claim: Callable[[list[int]], Collection[int]] = lambda fds: (),
                 turn: Callable[[], int] = lambda: 0, upgrades: Upgrades | None = None,
                 branch: Branch | None = None, *, behind: bool = False) -> None:
        self.deaths = deaths or Deaths()
        self.condemned: set[int] = set()  # sessions that the next worker is to end
        self._loop = loop
        self._log = log
        self._claim = claim
        self._turn = turn
        self.upgrades = upgrades
        self._branch = branch
        self._meaning = meanings(passed=behind or branch is not None or (upgrades is not None and not upgrades.is_main))
        self._in_front = False      # another keeper has the workers
        self._blame = Blame()
        self._owed: list[int] = []  # signals that came when there was no worker
        self._stopping = False      # the worker was told to stop
        self._leaving = False       # and to leave all for the next start, if it can
        self._mask: set[int] = set()

    def hold_signals(self, mask: set[int] | None = None) -> None:
        """From now on signals wait for `run`. `mask`: they do already, and which others did before."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
        self._mask = before if mask is None else mask

    def run(self, work: Callable[[], int], given: Collection[int] = ()) -> int:
        """Returns twice, like os.fork: in a worker what `work()` returned, in the keeper the program's exit status.

        `hold_signals` comes before; `work()` calls `let_signals_through` as soon as it can handle them. `given`:
        descriptors that are the first worker's to claim."""
        be_keeper()
        inherited, text = Inherited(given), ProgramText()
        while True:
            began_at = time.monotonic_ns()
            pid = clone_worker()
            if pid == 0:
                self._become_worker(inherited)
                return work()
            text.let_go()
            status = self._await_end(pid)
            if self._branch is not None:
                self._branch.end_if_given_up(status)
            if self.upgrades is not None and self.upgrades.is_handed_over(status):
                return self.stand_in_front()
            if self._stopping and ended_by(status):
                return 1  # as where there still is a handler
            if not is_death(status):
                return self._exit_status(os.WEXITSTATUS(status))
            pause_us = self._judge_death(pid, status, (time.monotonic_ns() - began_at) // 1000)
            if pause_us is None:
                return _status_of_dead(status)
            self._wait(pause_us)

    # ---- in the worker

    def _become_worker(self, inherited: Inherited) -> None:
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # or its log would stop it where `stty tostop` is set
        for number in PASSED_ON:
            signal.signal(passed_on(number), _pay_no_heed)  # SIG_IGN would drop one that waits already
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, _pay_no_heed)
        strangers = inherited.strangers()
        wanted = self._claim(strangers)
        for fd in strangers:
            if fd not in wanted:
                os.close(fd)
        self._loop.renew()

    def let_signals_through(self) -> None:
        """Let the worker have the signals that it has handlers for by now."""
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    # ---- in the keeper

    def _await_end(self, pid: int) -> int:
        """How the worker has ended, as waitpid(2) tells it."""
        owed, self._owed = self._owed, []
        for number in owed:
            self._pass_on(pid, number)
        status = self._reap(pid)
        while status is None:
            number = self._meaning[signal.sigwait(self._meaning)]
            status = self._reap(pid)
            if status is not None and number != signal.SIGCHLD:
                self._owed.append(number)
            elif number != signal.SIGCHLD:
                self._pass_on(pid, number)
        return status

    def _pass_on(self, pid: int, number: int) -> None:
        self._stopping = self._stopping or number in STOPPING
        self._leaving = self._leaving or number == signal.SIGUSR1
        if number == signal.SIGTSTP:
            stop_with(pid, signal.SIGTSTP if self._in_front else signal.SIGSTOP)
        elif number == signal.SIGUSR2 and self.upgrades is not None and not self._stopping:
            self.upgrades.begin()
        else:
            os.kill(pid, passed_on(number) if number in PASSED_ON else number)

    def stand_in_front(self, *, stopping: bool = False) -> int:
        """Another keeper, or several, will have everything in a moment, and then perhaps the next ones; the exit status
        of the last. `stopping`: the one before was told to stop, and ends without doing it."""
        upgrades, status = self.upgrades, HANDED_OVER << 8  # as waitpid(2) tells it
        assert upgrades is not None
        self._in_front = True
        self._stopping = self._stopping or stopping
        while upgrades.is_handed_over(status):
            pid = upgrades.promote()
            if self._stopping:
                self._pass_on(pid, signal.SIGTERM)
            status = self._await_end(pid)
        return self._exit_status(os.WEXITSTATUS(status)) if os.WIFEXITED(status) else _status_of_dead(status)

    def _exit_status(self, status: int) -> int:
        """That of the program, whose worker, or the keeper behind this one, has chosen this one for itself."""
        if status == STORED and self.upgrades is not None and self.upgrades.is_main:
            return self.upgrades.hand_on(self._log)
        return status

    def _reap(self, pid: int) -> int | None:
        """How process `pid` has ended; None: it runs. As the first process of a container we get orphans, too."""
        while True:
            try:
                found, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return None
            if found in (0, pid):
                return status if found else None
            if self.upgrades is not None:
                self.upgrades.ended(found, status)

    def _judge_death(self, pid: int, status: int, lived_us: int) -> int | None:
        """How long the next worker has to wait; None: there is to be no other one."""
        pause_us = self.deaths.note(lived_us)
        note_death()
        if self._stopping:
            restart = "never"  # it has closed its listeners, and whatever else
        elif pause_us is None:
            raise MproxyError(f"the worker has died {self.deaths.young} times in a row, just after its start; the last"
                              f" time: {say_ending(status)}")
        else:
            restart = f"{pause_us / 1e6:.1f}s" if pause_us else "now"
        self._log.error("worker-died", pid=pid, why=say_ending(status), restart=restart)
        session = self._turn()
        if self._leaving:
            self._owed.append(signal.SIGUSR1)
        if is_crash(status) and self._blame.note(session, time.monotonic_ns() // 1000):
            self.condemned.add(session)
        return None if self._stopping else pause_us

    def _wait(self, pause_us: int) -> None:
        """A pause; a signal for the worker ends it, and is for the next one."""
        until = time.monotonic_ns() + pause_us * 1000
        while not self._owed and (left := until - time.monotonic_ns()) > 0:
            found = signal.sigtimedwait(self._meaning, left / 1e9)
            if found is not None and found.si_signo != signal.SIGCHLD:
                self._owed.append(self._meaning[found.si_signo])


def _pay_no_heed(_number: int, _frame: object) -> None:
    """A handler, which programs that the worker starts do not inherit as they would SIG_IGN."""


def _status_of_dead(status: int) -> int:
    """The exit status of a program whose worker died, as a shell would count it."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
