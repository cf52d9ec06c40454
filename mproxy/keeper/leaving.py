"""A restart by the service manager, the part of the program that ends: all that there is goes to the manager's store,
for the next start (returning.py).

The worker leaves it with the main process, which hands it on when the worker has ended (handing_on.py). Until then the
worker can still go on.
"""

from __future__ import annotations

import os
import socket
import time

from mproxy import __version__
from mproxy._dump import VERSION
from mproxy.ground.errors import LocalError
from mproxy.io import heirlooms
from mproxy.io.manager_socket import MOST_FDS, ManagerSocket
from mproxy.keeper.deaths import STORED
from mproxy.keeper.descriptor_store import (
    MOST_CONNECTIONS,
    Names,
    identity,
    make_manifest,
    remove_message,
    store_message,
)
from mproxy.keeper.giving import make_dump

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from typing import Any

    from mproxy.ground.shapes import Logger
    from mproxy.io._loop import Loop

# How often to look whether the store is large enough.
LOOK_US = 10_000_000

# Of what outlives an upgrade, that which callers would miss meanwhile. Locks and files are had again, and locks must
# be: where their files lie may look different to the next start.
LISTENERS = ("port ", "path ", "place ")


class Part:
    """Which worker of how many one is, and which heirlooms all of them have, by name: the first one leaves these."""

    def __init__(self, number: int, workers: int, shared: Collection[str]) -> None:
        self.number = number
        self.workers = workers
        self.shared = shared


class Leaving:
    """In a worker. `room`: how many descriptors the manager keeps. `connections()`: how many there are to be kept;
    `vows()`: what the next start has to know. `part`: it is one of several."""

    def __init__(self, loop: Loop, log: Logger, program: str, main_socket: socket.socket, room: int,
                 connections: Callable[[], int], vows: Callable[[], dict[str, Any]], part: Part | None = None) -> None:
        self._loop = loop
        self._log = log
        self._program = program
        self._main_socket = main_socket
        self._part = part
        self._names = Names(part.number if part is not None else 0)
        self._workers = part.workers if part is not None else 1
        self._room = room // self._workers  # nobody knows what the others will need
        self._connections = connections
        self._vows = vows
        self._warned = False
        loop.call_later(LOOK_US, self._look)

    def leave(self) -> bool:
        """Leave everything and end the process; False, and nothing has changed, if that cannot be."""
        try:
            self._leave()
        except (OSError, LocalError, MemoryError) as error:
            self._log.error("not-stored", why=f"{error}; connections end, as when it is stopped")
            return False
        os._exit(STORED)

    def _leave(self) -> None:
        try:
            ManagerSocket().reach()
        except OSError as error:
            raise LocalError(f"the service manager cannot be reached: {error.strerror}") from None
        dump, descriptors = make_dump(VERSION)
        names, listeners = self._names, self._listeners()
        places = self._places(len(listeners))
        if places < 0:
            raise LocalError(f"FileDescriptorStoreMax={self._room * self._workers} is too small even for the ports")
        kept, lost = descriptors[:places], len(descriptors[places:])
        manifest = make_manifest({
            "program": self._program, "version": __version__, "stored_at": time.monotonic(), "vows": self._vows(),
            "listeners": list(listeners), "connections": [identity(fd) for fd in descriptors], **self._of_several()})
        for name in (names.manifest, names.dump, names.connection):  # a worker may have died in the middle of this
            self._say(remove_message(name))
        self._say(store_message(names.dump), [dump])
        for number, fd in enumerate(listeners.values()):
            self._say(store_message(names.listener(number)), [fd])
        for start in range(0, len(kept), MOST_FDS):
            self._say(store_message(names.connection), kept[start:start + MOST_FDS])
        self._say(store_message(names.manifest), [manifest])
        (self._log.warning if lost else self._log.info)("stored", connections=len(kept), lost=lost or None)

    def _say(self, message: bytes, fds: Sequence[int] = ()) -> None:
        """One message that the main process will hand on."""
        if fds:
            socket.send_fds(self._main_socket, [message], fds, socket.MSG_DONTWAIT)
        else:
            self._main_socket.send(message, socket.MSG_DONTWAIT)

    def _listeners(self) -> dict[str, int]:
        """Those that this worker is to leave."""
        found = {name: fd for name, fd in heirlooms.noted().items() if name.startswith(LISTENERS)}
        if self._part is None or self._part.number == 0:
            return found
        return {name: fd for name, fd in found.items() if name not in self._part.shared}

    def _of_several(self) -> dict[str, Any]:
        """What a manifest says besides where several workers write one."""
        if self._part is None:
            return {}
        return {"workers": self._workers, "own": [name for name in self._listeners() if name not in self._part.shared]}

    def _places(self, listeners: int) -> int:
        """How many connections can be kept beside all else, which is dump, manifest, and what listens."""
        return min(self._room - listeners - 2, MOST_CONNECTIONS // self._workers)

    def _look(self) -> None:
        """Say it before it matters."""
        self._loop.call_later(LOOK_US, self._look)
        count, places = self._connections(), self._places(len(self._listeners()))
        if count > places and not self._warned:
            self._log.warning("store-small", connections=count, most=max(0, places), why=(
                "a restart would reset those above; raise FileDescriptorStoreMax in the unit"))
        self._warned = count > places
