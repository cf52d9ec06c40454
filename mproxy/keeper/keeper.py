"""The keeper: the process that was started, and that the service manager knows. A worker does all the work; when it
dies, the next one is cloned from the keeper's untouched memory, within milliseconds. After an upgrade the keeper of the
next build does so, and this one stands in front of it (upgrades.py).

Workers have memory of their own, but one table of descriptors with the keeper and with each other (`_clone.pxd`). So
the death of a worker closes nothing. The keeper only waits: it reads no descriptor, and nothing that a peer has sent.
It passes signals on, and ends as its worker ends. What a worker was told by a signal and has died without doing is the
next one's (orders.py).
"""

from __future__ import annotations

import os
import signal
import time

from mproxy.ground.errors import MproxyError
from mproxy.ground.words import say_ending
from mproxy.io.descriptors import Inherited
from mproxy.keeper._clone import clone_worker
from mproxy.keeper.attendant import Attendant
from mproxy.keeper.deaths import (
    HANDED_OVER,
    STORED,
    Blame,
    Deaths,
    is_crash,
    is_death,
    is_killed,
    say_pause,
    status_of_dead,
)
from mproxy.keeper.main_process import be_keeper, note_death
from mproxy.keeper.program_text import ProgramText
from mproxy.keeper.signals import HELD, ended_by, pay_no_heed

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
    it is of one of several workers.
    """

    def __init__(self, loop: Loop, log: Logger, deaths: Deaths | None = None,
                 claim: Callable[[list[int]], Collection[int]] = lambda fds: (),
                 turn: Callable[[], int] = lambda: 0, upgrades: Upgrades | None = None,
                 branch: Branch | None = None) -> None:
        self.deaths = deaths or Deaths()
        self.condemned: set[int] = set()  # sessions that the next worker is to end
        self._loop = loop
        self._log = log
        self._claim = claim
        self._turn = turn
        self.upgrades = upgrades
        self._branch = branch
        self._attendant = Attendant(
            log, upgrades, passed=branch is not None or (upgrades is not None and not upgrades.is_main))
        self.orders = self._attendant.orders
        self._blame = Blame()
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
            self.orders.await_worker()
            pid = clone_worker()
            if pid == 0:
                self._become_worker(inherited)
                return work()
            text.let_go()
            status = self._attendant.await_end(pid)
            if self._branch is not None:
                self._branch.end_if_given_up(status)
            if self.upgrades is not None and self.upgrades.is_handed_over(status):
                self._attendant.owe_to_next_build()
                return self.stand_in_front(self._attendant.owed)
            if self._attendant.is_told_to_stop and ended_by(status):
                return 1  # as where there still is a handler
            if not is_death(status):
                return self._exit_status(os.WEXITSTATUS(status))
            pause_us = self._judge_death(pid, status, (time.monotonic_ns() - began_at) // 1000)
            if pause_us is None:
                return status_of_dead(status)
            self._attendant.pause(pause_us)

    # ---- in the worker

    def _become_worker(self, inherited: Inherited) -> None:
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # or its log would stop it where `stty tostop` is set
        pay_no_heed()
        inherited.close_strangers(self._claim)
        self.orders.hear()
        self._loop.renew()

    def let_signals_through(self) -> None:
        """In the worker: it has handlers by now."""
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    # ---- in the keeper

    def stand_in_front(self, owed: list[int]) -> int:
        """Another keeper, or several, will have everything in a moment, and then perhaps the next ones; the exit status
        of the last. `owed`: signals that are still to be passed on."""
        upgrades, status = self.upgrades, HANDED_OVER << 8  # as waitpid(2) tells it
        assert upgrades is not None
        self._attendant.in_front, self._attendant.owed = True, owed
        while upgrades.is_handed_over(status):
            status = self._attendant.await_end(upgrades.promote())
            self._attendant.owe_to_next_build()
        return self._exit_status(os.WEXITSTATUS(status)) if os.WIFEXITED(status) else status_of_dead(status)

    def _exit_status(self, status: int) -> int:
        """That of the program, whose worker, or the keeper behind this one, has chosen this one for itself."""
        if status == STORED and self.upgrades is not None and self.upgrades.is_main:
            return self.upgrades.hand_on(self._log)
        return status

    def _judge_death(self, pid: int, status: int, lived_us: int) -> int | None:
        """How long the next worker has to wait; None: there is to be no other one."""
        pause_us = self.deaths.note(lived_us)
        note_death()
        left, crashed, session = self.orders.take_back(), is_crash(status), self._turn()
        if self.orders.is_stopping or (crashed and self._attendant.is_told_to_stop):
            pause_us, restart = None, "never"  # who has begun to stop has closed its listeners, and whatever else
        elif pause_us is None:
            raise MproxyError(f"the worker has died {self.deaths.young} times in a row, just after its start; the last"
                              f" time: {say_ending(status)}")
        else:
            restart = say_pause(pause_us)
        self._log.error("worker-died", pid=pid, why=say_ending(status), restart=restart)
        if not is_killed(status):
            self.orders.give_up_upgrade()
        if crashed and signal.SIGHUP in left:  # the next one may die of it, too
            left.remove(signal.SIGHUP)
            self._log.error("reload-failed", why="the worker has died of it, or meanwhile")
        if crashed and self._blame.note(session, time.monotonic_ns() // 1000):
            self.condemned.add(session)
        self._attendant.owed += left
        return pause_us
