"""The main process of a program with several workers: each has a keeper of its own, which this one starts and stands in
front of.

A keeper shares its descriptors with its worker alone, so that whatever a dead worker leaves is that one's
(docs/decisions/several-workers.md). What was open before, such as ports, all have. This process only waits: it passes
signals on to every keeper, and ends when all have. A keeper that is killed takes its sessions with it, and no other's;
the next one starts in its place.

In an upgrade each keeper waits, when its worker has given everything to the next build, for what this process decides:
when all wait they end, and the next build begins. When one does not, as its worker has died meanwhile, the others go
back to work, each with a new worker that has all that the one before had.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time

from mproxy.ground.errors import MproxyError
from mproxy.ground.words import say_ending
from mproxy.io._process import die_with_parent
from mproxy.keeper.branch import BACK, FAILED, GO, HELD, LONGEST, READY, Branch
from mproxy.keeper.deaths import HANDED_OVER, STORED, Deaths, say_pause
from mproxy.keeper.main_process import be_keeper, note_death
from mproxy.keeper.signals import HELD as HELD_SIGNALS
from mproxy.keeper.signals import STOPPING, Incoming, pass_on, stop_here
from mproxy.keeper.upgrades import ENDING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from mproxy.ground.shapes import Logger
    from mproxy.keeper.branch import Preparing
    from mproxy.keeper.upgrades import Upgrades

    # What a branch does: (which worker's it is, what leads to the main process, descriptors for its first worker).
    Work = Callable[[int, Branch, Collection[int]], int]

# When the first keeper has been given up by its worker, the others are within this time, or not at all.
PATIENCE_NS = 2_000_000_000


class Branches:
    """`count` keepers. `upgrades`: the main process's part in upgrades, of this process or of the one before it;
    `stand_in_front(owed)` is what it does from the first one on, until the program ends, with signals that those before
    may not have carried out. `hung_up()`: SIGHUP has come; the next keepers begin with what this process has."""

    def __init__(self, log: Logger, count: int, upgrades: Upgrades, stand_in_front: Callable[[list[int]], int],
                 hung_up: Callable[[], object] = lambda: None, deaths: Deaths | None = None) -> None:
        self._log = log
        self._count = count
        self._upgrades = upgrades
        self._stand_in_front = stand_in_front
        self._hung_up = hung_up
        self._deaths = deaths or Deaths()
        self._numbers: dict[int, int] = {}     # process -> which worker's keeper it is
        self._began: dict[int, int] = {}       # process -> when, in nanoseconds
        self._owed: dict[int, int] = {}        # worker whose keeper has died -> when the next one starts
        self._sockets: dict[int, socket.socket] = {}  # process -> what leads to it
        self._held: set[int] = set()           # processes that wait, as their workers have given everything away
        self._held_until = 0                   # so long, in nanoseconds
        self._incoming = Incoming(passed=not upgrades.is_main)
        self._since_upgrade: set[int] = set()  # signals that were passed on since it began
        self._stopping = False
        self._leaving = False  # the workers were told to leave all for the next start
        self._stored = False   # at least one has
        self._status = 0
        self.mask: set[int] = set()  # of the signals that were held before `hold_signals`

    def hold_signals(self) -> None:
        """From now on signals wait for `run`."""
        self.mask = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)

    def run(self, work: Work, preparing: Preparing | None = None) -> int:
        """Returns in this process the program's exit status, and in each branch what `work(number, branch, given)`
        returned there. `preparing`: how the first ones take over what there was before them."""
        be_keeper()
        main = os.getpid()
        self._owed = dict.fromkeys(range(self._count), 0)
        branch = self._start_due(main)
        if branch is not None:
            given: Collection[int] = () if preparing is None else branch.prepare(preparing)
            return work(branch.number, branch, given)
        if preparing is not None:
            self._prepare(preparing)
        while self._owed or self._numbers:
            branch = self._start_due(main)
            if branch is not None:
                return work(branch.number, branch, ())
            if self._upgrades.begin_if_wanted():
                self._since_upgrade.clear()
            self._wait()
            self._reap()
            if self._are_given_up():
                return self._give_up()
        return self._end_status()

    def _start_due(self, main: int) -> Branch | None:
        """Start the keepers whose time has come; in such a one: what leads from it to this process."""
        now = time.monotonic_ns()
        for number in [number for number, at in self._owed.items() if at <= now]:
            del self._owed[number]
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            pid = os.fork()
            if pid == 0:
                die_with_parent(main)
                os.setpgid(0, 0)
                for sock in (ours, *self._sockets.values()):
                    sock.close()
                return Branch(theirs, number)
            theirs.close()
            self._numbers[pid], self._began[pid], self._sockets[pid] = number, now, ours
        return None

    # ---- before they begin

    def _prepare(self, preparing: Preparing) -> None:
        """Let them take over, all or none."""
        try:
            preparing.forked()
            for sock in self._sockets.values():
                word = sock.recv(LONGEST)
                if word != READY:
                    raise MproxyError(word.removeprefix(FAILED).decode() if word else "one of its keepers has ended")
            self._say_to_all(GO)
            preparing.settle(self._wait_for)
            self._say_to_all(GO)
        except (MproxyError, OSError) as error:
            preparing.fail(error)

    def _say_to_all(self, word: bytes) -> None:
        for sock in self._sockets.values():
            sock.send(word)

    def _wait_for(self, fd: int) -> None:
        """Until there is something to read; MproxyError if a branch has ended before that."""
        poll = select.poll()
        for each in (fd, *(sock.fileno() for sock in self._sockets.values())):
            poll.register(each, select.POLLIN)
        if fd not in dict(poll.poll()):
            raise MproxyError("a worker has died before all had given what they have")

    # ---- while they run

    def _wait(self) -> None:
        """Wait for a signal, or until a keeper is to be started, or has waited for too long."""
        if self._owed or self._held:
            until = min([*self._owed.values(), *([self._held_until] if self._held else [])])
            number = self._incoming.wait(max(0, until - time.monotonic_ns()) / 1e9)
        else:
            number = self._incoming.wait()
        if number == signal.SIGUSR2:
            self._upgrade()
        elif number == signal.SIGTSTP:
            self._stop_for_a_while()
        elif number != signal.SIGCHLD:
            self._pass_on(number)

    def _upgrade(self) -> None:
        if self._stopping:
            self._log.error("upgrade-failed", why=ENDING)
        else:
            self._upgrades.want()

    def _pass_on(self, number: int) -> None:
        if number in STOPPING:
            self._stopping = True
            self._owed.clear()
        elif number == signal.SIGHUP:
            self._hung_up()
        self._leaving = self._leaving or number == signal.SIGUSR1
        self._since_upgrade.add(number)
        for pid in self._numbers:
            pass_on(pid, number)

    def _stop_for_a_while(self) -> None:
        """Ctrl-Z, as in `stop_with`."""
        for pid in self._numbers:
            os.kill(pid, signal.SIGTSTP)
        stop_here()
        self._pass_on(signal.SIGCONT)

    def _reap(self) -> None:
        while self._numbers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            if pid in self._numbers:
                self._ended(pid, self._numbers.pop(pid), status)
            else:  # the next build, or, as we are the first process of a container, an orphan
                self._upgrades.ended(pid, status)

    def _ended(self, pid: int, number: int, status: int) -> None:
        lived_us = (time.monotonic_ns() - self._began.pop(pid)) // 1000
        self._sockets.pop(pid).close()
        self._held.discard(pid)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == STORED:
            self._stored = True
            return
        if os.WIFEXITED(status):
            self._status = self._status or os.WEXITSTATUS(status)
            if not self._stopping and not self._leaving:
                self._pass_on(signal.SIGTERM)  # one program: it ends as a whole
            return
        pause_us = self._deaths.note(lived_us)
        note_death()
        is_over = self._stopping or self._leaving
        restart = "never" if is_over or pause_us is None else say_pause(pause_us)
        self._log.error("keeper-died", worker=number, pid=pid, why=say_ending(status), restart=restart)
        if is_over:
            self._status = self._status or 128 + os.WTERMSIG(status)
        elif pause_us is None:
            raise MproxyError("keepers have died too often, just after their start")
        else:
            self._owed[number] = time.monotonic_ns() + pause_us * 1000

    def _end_status(self) -> int:
        """That of the program, whose workers have all ended."""
        if not self._stored:
            return self._status
        return self._upgrades.hand_on(self._log) if self._upgrades.is_main else STORED

    # ---- in an upgrade

    def _are_given_up(self) -> bool:
        """Whether every keeper waits, as the next build has what its worker had. If that does not come about those who
        wait go back to work."""
        for pid, sock in self._sockets.items():
            if pid not in self._held and _says(sock, HELD):
                self._held_until = self._held_until if self._held else time.monotonic_ns() + PATIENCE_NS
                self._held.add(pid)
        if not self._held:
            return False
        if len(self._held) == self._count and self._upgrades.is_under_way:
            return True
        if not self._upgrades.is_under_way or self._held_until <= time.monotonic_ns():
            self._log.error("upgrade-failed", why=DIED_MEANWHILE)
            self._upgrades.drop()
            for pid in self._held:
                self._sockets[pid].send(BACK)
            self._held.clear()
        return False

    def _give_up(self) -> int:
        """End all keepers, which have no workers, so that nothing is left of what they had open; then the next build
        begins. The exit status of the last one, in the process that stands in front."""
        for pid in self._numbers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if not self._upgrades.is_main:
            os._exit(HANDED_OVER)
        return self._stand_in_front(sorted(self._since_upgrade))


def _says(sock: socket.socket, word: bytes) -> bool:
    """Whether that has come from a keeper."""
    try:
        return sock.recv(LONGEST, socket.MSG_DONTWAIT) == word
    except OSError:
        return False


DIED_MEANWHILE = "a worker has died before all had given what they have; the running one continues"
