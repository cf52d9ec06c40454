"""How several workers give all their sessions to the next build, which has as many: each on a socket of its own, to the
keeper that is to follow its own one. All have given everything before any of them ends
(docs/decisions/several-workers.md).

The next build makes the sockets, the first worker hands them out. Until its end each worker can go on, and does if it
hears that there will be no upgrade.
"""

from __future__ import annotations

import os
import socket

from mproxy.ground.errors import LocalError
from mproxy.io import heirlooms
from mproxy.keeper.deaths import HANDED_OVER
from mproxy.keeper.giving import give_sessions
from mproxy.keeper.main_process import worker_deaths
from mproxy.keeper.upgrade_messages import say
from mproxy.keeper.upgrades import PATIENCE_S

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from typing import Any

    from mproxy.io._loop import Loop
    from mproxy.keeper.inboxes import Inboxes

# All have given what they have within this time, or none of them has.
SLOW_S = PATIENCE_S + 1


class HandingOut:
    """In one of several workers. `shared`: the names of things that all have; each gives its own ones besides, and what
    `vows()` says. `succeeded(version)`: is called just before the end."""

    def __init__(self, inboxes: Inboxes, shared: Collection[str], vows: Callable[[], dict[str, Any]]) -> None:
        self.workers = inboxes.count
        self.succeeded: Callable[[str], object] = lambda _version: None
        self._inboxes = inboxes
        self._shared = shared
        self._vows = vows
        self._refusal = ""

    def open(self, loop: Loop, number: int) -> None:
        """Listen for what the first worker hands out, as worker `number`."""
        self._inboxes.open(loop, number, self._hear)

    def common(self, things: Mapping[str, int]) -> dict[str, int]:
        """Those that are not of this worker alone."""
        own = self._own()
        return {name: fd for name, fd in things.items() if name not in own}

    def refuse(self, why: str) -> None:
        """From now on this worker gives nothing."""
        self._refusal = why

    def hand_out(self, version: int, fds: list[int]) -> str:
        """In the first worker: the next build is ready, and reads dumps of that version; these sockets lead to its
        keepers. Returns why that cannot be."""
        try:
            if len(fds) != self.workers:
                return f"it is made for {len(fds) or 1} workers, and {self.workers} run"
            for worker, fd in enumerate(fds):
                if not self._inboxes.send(worker, {"give": version}, fds=[fd]):
                    return f"worker {worker} cannot be told of it"
            return ""
        finally:
            for fd in fds:
                os.close(fd)

    def _own(self) -> dict[str, int]:
        return {name: fd for name, fd in heirlooms.noted().items() if name not in self._shared}

    def _hear(self, message: dict[str, Any], _data: bytearray, fds: list[int]) -> None:
        with socket.socket(fileno=fds[0]) as sock:
            sock.settimeout(SLOW_S)
            self._give(sock, message["give"])

    def _give(self, sock: socket.socket, version: int) -> None:
        """Give everything; returns if there is no upgrade. Whoever is at the other end says why."""
        own = self._own()
        try:
            if self._refusal:
                raise LocalError(self._refusal)
            say(sock, {"deaths": worker_deaths(), "vows": self._vows(), "things": list(own)}, list(own.values()))
            answer = give_sessions(sock, version)
        except LocalError as error:
            answer = None
            try:
                say(sock, {"refused": str(error)})
            except OSError:
                pass  # it has ended itself
        except OSError:
            return  # the other side has
        if answer is not None and "loaded" in answer:
            self.succeeded(answer["loaded"])
            os._exit(HANDED_OVER)
