"""Which signals a keeper takes, and how it passes them on."""

from __future__ import annotations

import os
import signal
import time

from mproxy.ground.left_ignored import is_left_ignored

# Two signals to stop within this time are one wish: timeout(1) and others send to the process and to its group, and
# both may come here. Somebody who wants the end at once still does a second later.
ONE_WISH_NS = 1_000_000_000

# A keeper that waited for it would have it even if it is ignored.
STOPPING = {signal.SIGTERM} | ({signal.SIGINT} if not is_left_ignored(signal.SIGINT) else set())
PASSED_ON = STOPPING | {signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
OWN = {signal.SIGCHLD, signal.SIGTSTP, signal.SIGCONT}


def passed_on(number: int) -> int:
    """The signal by which a worker hears of one that its keeper has had. Those it gets itself mean nothing: `pkill`, or
    a service manager, sends to both, and a second one would end it at once."""
    return signal.SIGRTMIN + number


def pass_on(pid: int, number: int) -> None:
    """Let process `pid` hear of a signal."""
    os.kill(pid, passed_on(number) if number in PASSED_ON else number)


def ended_by(status: int) -> bool:
    """Whether a signal to stop has ended a worker, as waitpid(2) tells: the second one, when the interpreter is ending
    and has no handler for it any more."""
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) in map(passed_on, STOPPING)


# What no process with a keeper, and no keeper, gets otherwise than by waiting for it.
HELD = PASSED_ON | OWN | set(map(passed_on, PASSED_ON))


class OneWish:
    """Tells a signal to stop that came twice from a second one."""

    def __init__(self) -> None:
        self._first_at: int | None = None

    def is_repeated(self) -> bool:
        """One has come: whether that says nothing new, so soon after the first one."""
        now = time.monotonic_ns()
        if self._first_at is None:
            self._first_at = now
            return False
        return now - self._first_at < ONE_WISH_NS


class Incoming:
    """The signals of a keeper. `passed`: it stands behind another one, which passes them on."""

    def __init__(self, *, passed: bool) -> None:
        self._meaning = {passed_on(number) if passed else number: number for number in PASSED_ON} | {
            number: number for number in OWN}
        self._wish = None if passed else OneWish()  # the one in front has looked

    def wait(self, longest_s: float | None = None) -> int:
        """The next one, as what it means; SIGCHLD, too, when the time is up, or it says nothing new."""
        if longest_s is None:
            number = self._meaning[signal.sigwait(self._meaning)]
        else:
            found = signal.sigtimedwait(self._meaning, longest_s)
            number = self._meaning[found.si_signo] if found is not None else signal.SIGCHLD
        if number in STOPPING and self._wish is not None and self._wish.is_repeated():
            return signal.SIGCHLD
        return number


def pay_no_heed() -> None:
    """In a worker, until it has handlers: those that it gets itself, and those that its keeper passes on and for which
    it has none."""
    for number in PASSED_ON:
        signal.signal(passed_on(number), _pay_no_heed)  # SIG_IGN would drop one that waits already
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _pay_no_heed)


def _pay_no_heed(_number: int, _frame: object) -> None:
    """A handler, which programs that the worker starts do not inherit as they would SIG_IGN."""


def stop_with(pid: int, by: int) -> None:
    """Ctrl-Z: stop process `pid`, then this process, as it would have been without us; both go on together."""
    os.kill(pid, by)
    stop_here()
    os.kill(pid, signal.SIGCONT)


def stop_here() -> None:
    """Stop this process; returns when it goes on."""
    os.kill(os.getpid(), signal.SIGTSTP)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})  # here
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})
