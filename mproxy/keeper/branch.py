"""What leads from the keeper of one of several workers to the main process, and what is said on it: each keeper
prepares what it takes over, and none begins before all can; and in an upgrade none is given up before all can be.
"""

from __future__ import annotations

import os
import signal
import socket

from mproxy.ground.errors import MproxyError
from mproxy.ground.words import escaped
from mproxy.keeper.deaths import HANDED_OVER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Protocol

    class Preparing(Protocol):
        """How branches take over what there was before them (mproxy.keeper.branches)."""

        def forked(self) -> None:
            """In the main process: there are all branches."""
        def prepare(self, number: int) -> Collection[int]:
            """In a branch: take over; the descriptors that its first worker may claim. MproxyError, OSError."""
        def confirm(self, number: int) -> None:
            """In a branch: all are prepared."""
        def settle(self, wait: Wait) -> None:
            """In the main process: the same; when this returns all begin. MproxyError, OSError."""
        def begin(self, number: int) -> None:
            """In a branch: it serves from now on."""
        def fail(self, why: object) -> None:
            """In the main process: there is nothing to begin with; raises an error, or ends the process."""

    class Wait(Protocol):
        """Waits until the descriptor is readable; MproxyError if a branch has ended meanwhile."""

        def __call__(self, fd: int) -> None: ...

READY, GO, HELD, BACK = b"ready", b"go", b"held", b"back"
FAILED = b"failed "
LONGEST = 2048


class Branch:
    """In the keeper of worker `number`."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self._socket = sock
        self.number = number

    def prepare(self, preparing: Preparing) -> Collection[int]:
        """Take over, together with all other branches; the descriptors for the first worker. The process ends if that
        cannot be."""
        try:
            given = preparing.prepare(self.number)
        except (MproxyError, OSError, MemoryError) as error:
            self._socket.send(FAILED + escaped(str(error)).encode()[:LONGEST // 2])
            os._exit(1)
        self._socket.send(READY)
        self._await_go()
        preparing.confirm(self.number)
        self._await_go()
        preparing.begin(self.number)
        return given

    def _await_go(self) -> None:
        if self._socket.recv(LONGEST) != GO:
            os._exit(1)  # the main process has ended

    def end_if_given_up(self, status: int) -> None:
        """If the worker has ended with this status because the next build has its sessions: end here, as soon as all
        other workers have done the same. If they do not this returns, and the next worker goes on with everything."""
        if not os.WIFEXITED(status) or os.WEXITSTATUS(status) != HANDED_OVER:
            return
        self._socket.send(HELD)
        os.kill(os.getppid(), signal.SIGCHLD)  # so that it looks
        if self._socket.recv(LONGEST) != BACK:
            os._exit(HANDED_OVER)
