"""The worker processes: forked, watched, replaced.

Everything that starts or ends a worker is in this file. A worker is in one of these states:

    starting   forked, has not said `ready` yet
    running    serves
    waiting    died; its successor comes after a delay, which grows while they die young
    ended      died while the relay stops: no successor
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Sequence

from mproxy.ground.words import say_ending
from mproxy.relay import worker as worker_module
from mproxy.relay._tally import Tally
from mproxy.relay.worker_channel import WorkerChannel, pair
from mproxy.relay.worker_messages import WorkerMessageError, check_report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mproxy.ground.shapes import Logger
    from mproxy.io._loop import Loop, Watch
    from mproxy.relay.worker_messages import Report

STARTING, RUNNING, WAITING, ENDED = "starting", "running", "waiting", "ended"

# A worker that lived for less died young. Its successor waits, 0.1 s and then twice as long each time.
YOUNG_US = 10_000_000
FIRST_DELAY_US = 100_000
LAST_DELAY_US = 10_000_000

# Workers report each second, or less often if reports take long. One that is silent for this long hangs.
SILENCE_US = 60_000_000
LOOK_US = 5_000_000


class WorkerProcess:
    """One place in the pool, and the process that fills it now."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.state = WAITING
        self.pid: int | None = None
        self.channel: WorkerChannel | None = None
        self.started_at = 0
        self.heard_at = 0
        self.deaths = 0         # since the relay started
        self.delay_us = 0       # until the next start
        self.connections = 0    # as last reported
        self.flows = 0
        self.watch: Watch | None = None       # of the pidfd
        self.pidfd = -1

    def send(self, *message: Any, fds: Sequence[int] = (), owner: object = None) -> None:
        """As `WorkerChannel.send`; does nothing when there is no process."""
        if self.channel is not None:
            self.channel.send(*message, fds=fds, owner=owner)


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
    """`count` workers. `prepare()` is called first in the process of each."""

    def __init__(self, loop: Loop, log: Logger, observer: WorkerPoolObserver, count: int,
                 prepare: Callable[[], object]) -> None:
        self._loop = loop
        self._log = log
        self._observer = observer
        self._prepare = prepare
        self._draining = False
        self._max_connections = 0
        self._tally = Tally(count)
        self.workers = [WorkerProcess(number) for number in range(count)]

    def start(self, max_connections: int) -> None:
        """Fork them all. max_connections: of all together; 0: no limit."""
        self._max_connections = max_connections
        for worker in self.workers:
            self._fork(worker)
        self._loop.call_later(LOOK_US, self._look)

    def send(self, *message: Any) -> None:
        """Send to every worker there is."""
        for worker in self.alive:
            worker.send(*message)

    @property
    def alive(self) -> list[WorkerProcess]:
        return [worker for worker in self.workers if worker.channel is not None]

    def drain(self, patience_us: int) -> None:
        """Let every worker finish; from now on none is replaced."""
        self._draining = True
        self.send("drain", patience_us)
        self._loop.call_later(patience_us + LOOK_US, self.kill)
        for worker in self.workers:
            if worker.state == WAITING:
                worker.state = ENDED
        self._tell_if_ended()

    def kill(self) -> None:
        """End those that are left at once."""
        self._draining = True
        for worker in self.alive:
            signal.pidfd_send_signal(worker.pidfd, signal.SIGKILL)

    # ---- birth

    def _fork(self, worker: WorkerProcess) -> None:
        if self._draining:
            return
        ours, its = pair()
        pid = os.fork()
        if pid == 0:
            worker_module.run(its, self._log, worker.number, self._max_connections, self._tally, self._prepare)
        its.close()
        worker.pid = pid
        worker.state = STARTING
        worker.started_at = worker.heard_at = self._loop.now()
        worker.pidfd = os.pidfd_open(pid)
        worker.watch = self._loop.watch(worker.pidfd, lambda _events: self._reap(worker))
        worker.channel = WorkerChannel(
            self._loop, ours, lambda message, fds: self._received(worker, message, fds),
            lambda: self._kill(worker))
        self._observer.on_started(worker)

    def _received(self, worker: WorkerProcess, message: list[Any], fds: list[int]) -> None:
        for fd in fds:  # a worker has no reason to send any
            os.close(fd)
        try:
            report = check_report(message)
        except WorkerMessageError as error:
            self._log.error("worker-failed", worker=worker.number, why=f"invalid message from the worker: {error}")
            self._kill(worker)
            return
        worker.heard_at = self._loop.now()
        if report[0] == "ready":
            worker.state = RUNNING
            self._log.debug("worker-ready", worker=worker.number, pid=worker.pid)
        self._observer.on_message(worker, report)

    @staticmethod
    def _kill(worker: WorkerProcess) -> None:
        """Nothing can be sent to it or believed from it any more: the pidfd will show its end."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(worker.pidfd, signal.SIGKILL)

    def _look(self) -> None:
        """Find workers that hang, in an endless loop or stopped by a signal."""
        now = self._loop.now()
        for worker in self.alive:
            if now - worker.heard_at > SILENCE_US:
                self._log.error("worker-hangs", worker=worker.number, pid=worker.pid, silent=SILENCE_US // 1_000_000)
                signal.pidfd_send_signal(worker.pidfd, signal.SIGKILL)
        self._loop.call_later(LOOK_US, self._look)

    # ---- death

    def _reap(self, worker: WorkerProcess) -> None:
        assert worker.pid is not None
        pid, status = os.waitpid(worker.pid, os.WNOHANG)
        if pid == 0:
            return
        if worker.channel is not None:
            worker.channel.read()  # its last reports
            worker.channel.close()
        if worker.watch is not None:
            worker.watch.close()
        os.close(worker.pidfd)
        worker.channel = worker.watch = None
        worker.connections = worker.flows = 0
        self._tally.forget(worker.number)
        self._observer.on_died(worker)
        if self._draining:
            worker.state = ENDED
            self._tell_if_ended()
        else:
            self._replace(worker, status)

    def _replace(self, worker: WorkerProcess, status: int) -> None:
        young = self._loop.now() - worker.started_at < YOUNG_US
        delay_us = min(max(2 * worker.delay_us, FIRST_DELAY_US), LAST_DELAY_US) if young and worker.deaths else 0
        worker.state = WAITING
        worker.deaths += 1
        worker.delay_us = delay_us
        self._log.error(
            "worker-died", worker=worker.number, pid=worker.pid, why=say_ending(status),
            restart=f"{delay_us / 1e6:.1f}s" if delay_us else "now")
        worker.pid = None
        if delay_us:
            self._loop.call_later(delay_us, lambda: self._fork(worker))
        else:
            self._fork(worker)

    def _tell_if_ended(self) -> None:
        if all(worker.state == ENDED for worker in self.workers):
            self._observer.on_all_ended()
