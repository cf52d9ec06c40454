"""The main process's part in an upgrade: it starts the next build of the program, and goes on as what stands in front
of it.

The next build is a whole program, a keeper of its own; it gets everything from the worker that serves now, and this
process decides the moment. When that worker has given all away it ends with HANDED_OVER. Then the next build is told to
begin, and what this process had is closed. From there on it only passes signals on, and ends as that keeper ends: who
has started it, and whoever knows its number, need not know more. Until then the worker can go on at any time.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

from mproxy._inherit import forget_arena
from mproxy.ground.words import say_ending
from mproxy.io._process import die_with_parent
from mproxy.io.descriptors import close_others
from mproxy.keeper.deaths import HANDED_OVER
from mproxy.keeper.handing_on import hand_on
from mproxy.keeper.upgrade_messages import make_sockets, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from mproxy.ground.shapes import Logger

# The next build has this long until it is ready, and again until it has all; the kernel counts.
PATIENCE_S = 5

# Why there is no upgrade any more.
ENDING = "the program is ending"

# In the environment of the next build: two descriptors, and the main process.
SUCCESSOR = "MPROXY_SUCCESSOR"


class Upgrades:
    """Of one program. `worker_end`: where workers hear of the next build; what has followed another one is given it,
    and is not the main process."""

    def __init__(self, log: Logger, worker_end: socket.socket | None = None) -> None:
        self._log = log
        self._end: socket.socket | None = None  # in the main process
        if worker_end is None:
            self._end, worker_end = make_sockets()
            self._end.setblocking(False)
        self.worker_end = worker_end
        self._command = command_line()
        self._main = os.getpid()
        self._pid: int | None = None  # of the next build, until it serves
        self._is_wanted = False

    @property
    def is_main(self) -> bool:
        """Whether this is the process that was started, and that others know."""
        return self._end is not None

    @property
    def is_under_way(self) -> bool:
        """Whether the next build has been started, and has not ended; where another process is the main one that alone
        knows."""
        return self._pid is not None or not self.is_main

    def want(self) -> None:
        """The next build is to be started as soon as that can be; if there is one already, when that has ended or
        serves: what is installed now may not be what that one is."""
        self._is_wanted = True

    def begin_if_wanted(self) -> bool:
        """Whether it is started now."""
        if self._end is None or not self._is_wanted or self._pid is not None:
            return False
        self._is_wanted = False
        try:
            ours, theirs = make_sockets()
            with ours, theirs:
                self._pid = os.fork()
                if self._pid == 0:
                    self._become_next(theirs)
                say(self._end, {"successor": self._pid}, [ours.fileno()])
        except OSError as error:
            self._tell_end(f"it cannot be started: {error.strerror}", begun=False)
        return self._pid is not None

    def drop(self) -> None:
        """There is to be no next build now, however far it is; where another process is the main one it ends by
        itself, as nobody lets it begin."""
        if self._pid is not None:
            os.kill(self._pid, signal.SIGKILL)

    def ended(self, pid: int, status: int) -> None:
        """A child has ended, perhaps the next build, before it served."""
        if pid != self._pid:
            return
        self._pid = None
        hung = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM
        self._tell_end(f"it was not ready within {PATIENCE_S} s" if hung else (
            f"it ended before it was ready: {say_ending(status)}"))

    def is_handed_over(self, status: int) -> bool:
        """Whether what served until now has ended so that the next build can begin."""
        if not os.WIFEXITED(status) or os.WEXITSTATUS(status) != HANDED_OVER:
            return False
        if not self.is_main:
            os._exit(HANDED_OVER)  # at once: with this process its descriptors close
        return self._pid is not None

    def promote(self) -> int:
        """Let the next build begin, and have nothing any more that it has; its process."""
        assert self._pid is not None and self._end is not None
        pid, self._pid = self._pid, None
        say(self._end, {"go": True})
        close_others({self._end.fileno(), self.worker_end.fileno()})
        forget_arena()
        return pid

    def hand_on(self, log: Logger) -> int:
        """The program ends, and leaves all to the service manager; its exit status."""
        assert self._end is not None
        return hand_on(self._end, log)

    def _tell_end(self, why: str, begun: bool = True) -> None:
        """Tell the worker, which has not heard of it before unless it has `begun`."""
        try:
            if self._end is not None:
                say(self._end, {"ended": why, "begun": begun})
        except OSError:  # no worker has listened for long
            self._log.error("upgrade-failed", why=f"{why}; the running one continues, but hangs")

    def _become_next(self, sock: socket.socket) -> NoReturn:
        """In the child: be the next build, with one end of what leads to the worker."""
        try:
            die_with_parent(self._main)
            os.setpgid(0, 0)
            signal.alarm(PATIENCE_S)
            given = sock.fileno(), self.worker_end.fileno()
            for fd in given:
                os.set_inheritable(fd, True)
            os.execve(self._command[0], self._command,
                      {**os.environ, SUCCESSOR: ",".join(map(str, (*given, self._main)))})
        except OSError as error:
            say(sock, {"failed": f"cannot start {self._command[0]}: {error.strerror}"})
        finally:
            os._exit(1)


def command_line() -> list[str]:
    """How this program was started; what lies in its place by then is the next build."""
    if os.path.isfile(sys.argv[0]) and os.access(sys.argv[0], os.X_OK):
        return [os.path.abspath(sys.argv[0]), *sys.argv[1:]]
    return [sys.executable, *sys.orig_argv[1:]]
