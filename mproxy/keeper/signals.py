"""Which signals a keeper takes, and how it passes them on."""

from __future__ import annotations

import os
import signal

from mproxy.ground.left_ignored import is_left_ignored

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# A keeper that waited for it would have it even if it is ignored.
STOPPING = {signal.SIGTERM} | ({signal.SIGINT} if not is_left_ignored(signal.SIGINT) else set())
PASSED_ON = STOPPING | {signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
OWN = {signal.SIGCHLD, signal.SIGTSTP, signal.SIGCONT}


def passed_on(number: int) -> int:
    """The signal by which a worker hears of one that its keeper has had. Those it gets itself mean nothing: `pkill`, or
    a service manager, sends to both, and a second one would end it at once."""
    return signal.SIGRTMIN + number


def ended_by(status: int) -> bool:
    """Whether a signal to stop has ended a worker, as waitpid(2) tells: the second one, when the interpreter is ending
    and has no handler for it any more."""
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) in map(passed_on, STOPPING)


# What no process with a keeper, and no keeper, gets otherwise than by waiting for it.
HELD = PASSED_ON | OWN | set(map(passed_on, PASSED_ON))


def meanings(*, passed: bool) -> Mapping[int, int]:
    """What a keeper waits for: {signal: what it means}. `passed`: it stands behind another one, which passes on."""
    return {passed_on(number) if passed else number: number for number in PASSED_ON} | {
        number: number for number in OWN}


def stop_with(pid: int, by: int) -> None:
    """Ctrl-Z: stop process `pid`, then this process, as it would have been without us; both go on together."""
    os.kill(pid, by)
    os.kill(os.getpid(), signal.SIGTSTP)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})  # here
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})
    os.kill(pid, signal.SIGCONT)
