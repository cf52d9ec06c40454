"""The worker processes: started, watched, replaced.

Everything that starts or ends a worker is in this file; its keeper (worker_keeper.py) carries that out. A worker is in
one of these states:

    starting   asked for, has not said `ready` yet
    running    serves
    waiting    died; its successor comes after a delay, which grows while they die young
    ended      has finished while the relay stops, or had died before that could be: no successor

The successor has the connections of the one before it. Only when they die young again and again is the keeper ended,
and with it all that they have left.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from functools import partial

from mproxy.ground.words import say_ending
from mproxy.keeper.deaths import Blame, Deaths, is_crash
from mproxy.relay import worker as worker_module
from mproxy.relay._tally import Tally
from mproxy.relay.worker_channel import WorkerChannel, pair
from mproxy.relay.worker_keeper import keep
from mproxy.relay.worker_messages import WorkerMessageError, check_keeper, check_report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mproxy.ground.shapes import Logger
    from mproxy.io._loop import Loop, Watch
    from mproxy.relay.worker_messages import Report

STARTING, RUNNING, WAITING, ENDED = "starting", "running", "waiting", "ended"

# How long there is no worker when so many have died young in a row that their connections were given up.
LAST_DELAY_US = 10_000_000

# Workers report each second, or less often if reports take long. One that is silent for this long hangs.
SILENCE_US = 60_000_000
LOOK_US = 5_000_000


class WorkerProcess:
    """One place in the pool, the process that fills it now, and its keeper."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.state = WAITING
        self.pid: int | None = None
        self.pidfd = -1
        self.channel: WorkerChannel | None = None
        self.is_ready = False                 # it has said so
        self.hangs = False                    # it is killed because it is silent
        self.is_lost = False                  # it is to be killed as soon as it is known which process it is
        self.started_at = 0
        self.heard_at = 0
        self.deaths = 0                       # since the relay started
        self.history = Deaths()
        self.blame = Blame()
        self.condemned: set[int] = set()      # serials of pairs that the next worker is to end
        self.connections = 0                  # as last reported
        self.flows = 0
        self.keeper: KeeperProcess | None = None

    def send(self, *message: Any, fds: Sequence[int] = (), owner: object = None) -> None:
        """As `WorkerChannel.send`; does nothing when there is no process."""
        if self.channel is not None:
            self.channel.send(*message, fds=fds, owner=owner)

    def kill(self) -> None:
        """Nothing can be sent to it or believed from it any more."""
        if self.pidfd < 0:
            self.is_lost = True
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def forget(self) -> None:
        """It has ended."""
        if self.channel is not None:
            self.channel.read()  # its last reports
        if self.channel is not None:
            self.channel.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
        self.pid, self.pidfd, self.channel = None, -1, None
        self.is_ready = self.hangs = self.is_lost = False
        self.connections = self.flows = 0


class KeeperProcess:
    """The process that keeps the worker of one place."""

    def __init__(self, pid: int, line: WorkerChannel) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.line = line
        self.watch: Watch | None = None  # of the pidfd

    def kill(self) -> None:
        """End it, and its worker with it."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def forget(self) -> int | None:
        """How it has ended; None: it has not."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            return None
        if self.watch is not None:
            self.watch.close()
        self.line.close()
        os.close(self.pidfd)
        return status


class WorkerPoolObserver:
    """Told by a WorkerPool."""

    def on_started(self, worker: WorkerProcess) -> None:
        """There is a new process: give it rules."""
        raise NotImplementedError

    def on_message(self, worker: WorkerProcess, message: Report) -> None:
        """It says something, which has been checked."""
        raise NotImplementedError

    def on_died(self, worker: WorkerProcess) -> None:
        """Its process has ended; there may be another one soon."""
        raise NotImplementedError

    def on_all_ended(self) -> None:
        """After `drain` the last one has ended."""
        raise NotImplementedError


class WorkerPool:
    """`count` workers. `outlives`: connections go on when one dies. `prepare()` is called first in the process of each
    keeper."""

    def __init__(self, loop: Loop, log: Logger, observer: WorkerPoolObserver, count: int, outlives: bool,
                 prepare: Callable[[], object]) -> None:
        self._loop = loop
        self._log = log
        self._observer = observer
        self._outlives = outlives
        self._prepare = prepare
        self._drain_until: int | None = None  # the relay stops
        self._max_connections = 0
        self._tally = Tally(count)
        self.workers = [WorkerProcess(number) for number in range(count)]

    def start(self, max_connections: int) -> None:
        """Start them all. max_connections: of all together; 0: no limit."""
        self._max_connections = max_connections
        for worker in self.workers:
            self._start(worker)
        self._loop.call_later(LOOK_US, self._look)

    def send(self, *message: Any) -> None:
        """Send to every worker there is."""
        for worker in self.alive:
            worker.send(*message)

    @property
    def alive(self) -> list[WorkerProcess]:
        return [worker for worker in self.workers if worker.channel is not None]

    def drain(self, patience_us: int) -> None:
        """Let every worker finish. One that dies meanwhile has a successor as ever, if there is something to finish."""
        self._drain_until = self._loop.now() + patience_us
        self.send("drain", patience_us)
        self._loop.call_later(patience_us + LOOK_US, self.kill)
        for worker in self.workers:
            if worker.state == WAITING and self._has_more_to_do(worker):
                self._start(worker)
            elif worker.state == WAITING:
                self._end(worker)
        self._tell_if_ended()

    def _has_more_to_do(self, worker: WorkerProcess) -> bool:
        """Whether what a dead worker has left is to go on: always, but in the end."""
        if self._drain_until is None:
            return True
        return self._outlives and worker.keeper is not None and self._loop.now() < self._drain_until

    def kill(self) -> None:
        """End those that are left at once."""
        self._drain_until = 0
        for worker in self.workers:
            worker.kill()
            if worker.keeper is not None:
                worker.keeper.kill()

    # ---- birth

    def _start(self, worker: WorkerProcess) -> None:
        if worker.keeper is None:
            worker.keeper = self._fork(worker)
        ours, its = pair()
        worker.keeper.line.send("start", sorted(worker.condemned), fds=[its.fileno()], owner=its)
        worker.state = STARTING
        worker.started_at = worker.heard_at = self._loop.now()
        worker.channel = WorkerChannel(self._loop, ours, partial(self._received, worker), worker.kill)
        self._observer.on_started(worker)
        worker.send("take_over")
        if self._drain_until is not None:
            worker.send("drain", max(0, self._drain_until - self._loop.now()))

    def _fork(self, worker: WorkerProcess) -> KeeperProcess:
        ours, its = pair()
        pid = os.fork()
        if pid == 0:
            keep(its, self._log, worker.number, self._outlives, self._prepare, partial(
                worker_module.run, log=self._log, number=worker.number, max_connections=self._max_connections,
                tally=self._tally))
        its.close()
        self._tally.forget(worker.number)
        keeper = KeeperProcess(pid, WorkerChannel(self._loop, ours, partial(self._told, worker), lambda: None))
        keeper.watch = self._loop.watch(keeper.pidfd, lambda _events: self._reap(worker, keeper))
        return keeper

    def _received(self, worker: WorkerProcess, message: list[Any], fds: list[int]) -> None:
        for fd in fds:  # a worker has no reason to send any
            os.close(fd)
        try:
            report = check_report(message)
        except WorkerMessageError as error:
            self._log.error("worker-failed", worker=worker.number, why=f"invalid message from the worker: {error}")
            worker.kill()
            return
        worker.heard_at = self._loop.now()
        if report[0] == "ready":
            worker.is_ready = True
            self._look_if_runs(worker)
        self._observer.on_message(worker, report)

    def _told(self, worker: WorkerProcess, message: list[Any], fds: list[int]) -> None:
        """Its keeper says something."""
        for fd in fds:
            os.close(fd)
        try:
            told = check_keeper(message)
        except WorkerMessageError as error:
            self._log.error("worker-failed", worker=worker.number, why=f"invalid message from its keeper: {error}")
            if worker.keeper is not None:
                worker.keeper.kill()
            return
        if told[0] == "started":
            worker.pid = told[1]
            with contextlib.suppress(ProcessLookupError):
                worker.pidfd = os.pidfd_open(told[1])
            if worker.is_lost:
                worker.kill()
            self._look_if_runs(worker)
        else:
            self._ended(worker, *told[1:])

    def _look_if_runs(self, worker: WorkerProcess) -> None:
        if worker.is_ready and worker.pid is not None and worker.state == STARTING:
            worker.state = RUNNING
            worker.condemned.clear()
            self._log.debug("worker-ready", worker=worker.number, pid=worker.pid)

    def _look(self) -> None:
        """Find workers that hang, in an endless loop or stopped by a signal."""
        now = self._loop.now()
        for worker in self.alive:
            if now - worker.heard_at > SILENCE_US:
                self._log.error("worker-hangs", worker=worker.number, pid=worker.pid, silent=SILENCE_US // 1_000_000)
                worker.hangs = True
                worker.kill()
        self._loop.call_later(LOOK_US, self._look)

    # ---- death

    def _ended(self, worker: WorkerProcess, status: int, serial: int) -> None:
        """The worker has; `serial` of the pair whose turn it was."""
        pid, is_own_fault = worker.pid, worker.hangs or is_crash(status)
        worker.forget()
        self._observer.on_died(worker)
        if self._drain_until is not None and (status == 0 or not self._has_more_to_do(worker)):
            self._end(worker)
            self._tell_if_ended()
            return
        if is_own_fault and worker.blame.note(serial, self._loop.now()):
            worker.condemned.add(serial)
            self._log.error("connection-condemned", worker=worker.number, why="two workers have crashed in its turn")
        pause_us = worker.history.note(self._loop.now() - worker.started_at)
        self._await_next(worker, pid, status, LAST_DELAY_US if pause_us is None else pause_us)
        if pause_us is None and worker.keeper is not None:
            self._log.error("connections-given-up", worker=worker.number,
                            why=f"{worker.history.young} workers in a row have died just after their start")
            worker.history = Deaths()
            worker.keeper.kill()

    def _await_next(self, worker: WorkerProcess, pid: int | None, status: int, delay_us: int) -> None:
        worker.state = WAITING
        worker.deaths += 1
        self._log.error(
            "worker-died", worker=worker.number, pid=pid, why=say_ending(status),
            restart=f"{delay_us / 1e6:.1f}s" if delay_us else "now")
        if delay_us:
            self._loop.call_later(delay_us, lambda: self._start_if_due(worker))
        else:
            self._start(worker)

    def _start_if_due(self, worker: WorkerProcess) -> None:
        if worker.state == WAITING and self._has_more_to_do(worker):
            self._start(worker)

    def _reap(self, worker: WorkerProcess, keeper: KeeperProcess) -> None:
        """A keeper has ended; a worker that it had has ended with it, and so have its connections."""
        status = keeper.forget()
        if status is None or worker.keeper is not keeper:
            return
        worker.keeper = None
        self._tally.forget(worker.number)
        if worker.channel is None:  # it is known, and when there will be another one, if there will
            if worker.state == WAITING and not self._has_more_to_do(worker):
                self._end(worker)
                self._tell_if_ended()
            return
        pid = worker.pid
        worker.forget()
        self._observer.on_died(worker)
        if self._drain_until is not None:
            worker.state = ENDED
            self._tell_if_ended()
        else:
            pause_us = worker.history.note(0 if self._outlives else self._loop.now() - worker.started_at)
            self._await_next(worker, pid, status, LAST_DELAY_US if pause_us is None else pause_us)

    def _end(self, worker: WorkerProcess) -> None:
        """There is to be no other one."""
        worker.state = ENDED
        if worker.keeper is not None:
            worker.keeper.line.close()  # so the keeper ends

    def _tell_if_ended(self) -> None:
        if all(worker.state == ENDED for worker in self.workers):
            self._observer.on_all_ended()
