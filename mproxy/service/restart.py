"""What a restart by the service manager means for a program: where it can (--survive), it leaves its connections with
the manager, and goes on with those that the run before has left.
"""

from __future__ import annotations

import os

from mproxy.ground.errors import LocalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Collection, Mapping
    from typing import Any, Protocol

    from mproxy.ground.config import LogConfig
    from mproxy.io._loop import Loop
    from mproxy.keeper.leaving import Part
    from mproxy.keeper.returning import GivenStore, Returning
    from mproxy.keeper.several_returning import SeveralReturning
    from mproxy.service.log import Log

    class Lasting(Protocol):
        """What it asks of a program (`mproxy.service.run.Program`)."""

        workers: int
        def connections(self) -> int: ...
        def understands(self, record: bytes, /) -> bool: ...
        def vows(self) -> dict[str, Any]: ...
        def keep_vows(self, vows: Mapping[str, Any]) -> None: ...


class Restart:
    """Of one program. Made before it opens anything, as it may get ports from the run before."""

    def __init__(self, name: str, program: Lasting, config: LogConfig, log: Log, loop: Loop,
                 has_keeper: bool) -> None:
        self._name = name
        self._program = program
        self._log = log
        self._loop = loop
        self._returning: Returning | None = None
        self.several: SeveralReturning | None = None
        self._leave: Callable[[], bool] = lambda: False  # where that cannot be a restart is an end
        self._survives: bool = getattr(config, "survive", False)
        if "LISTEN_FDS" in os.environ and hasattr(config, "survive"):
            self._find_store(has_keeper)
        self._room = self._find_room(has_keeper) if self._survives else None

    def _find_store(self, has_keeper: bool) -> None:
        """Look at what the manager has given, and have the ports."""
        if self._program.workers > 1:
            from mproxy.keeper.several_returning import SeveralReturning
            self.several = SeveralReturning(self._name, self._log, self._program.workers)
            return
        from mproxy.keeper.descriptor_store import Names
        from mproxy.keeper.returning import GivenStore, Returning
        self._store: GivenStore = GivenStore()
        self._returning = Returning(self._name, self._log, self._store, Names())
        if self._returning.is_usable and not has_keeper:
            self._returning.refuse("this one has no keeper")
        given = set(self._store.fds)
        self._returning.take_listeners()
        if self._returning.is_usable:
            self._store.forget(given.difference(self._store.fds))
        else:
            self._store.forget_all()

    def _find_room(self, has_keeper: bool) -> int | None:
        """How many descriptors the manager will keep; None: it cannot."""
        # All that a restart needs is read now: by then the files are those of the next build.
        from mproxy.keeper import leaving  # noqa: F401
        from mproxy.keeper.descriptor_store import store_room
        try:
            if not has_keeper:
                raise LocalError("there is no keeper (--no-keeper, --plain)")
            return store_room()
        except LocalError as error:
            self._log.warning("no-store", why=f"connections will not survive a restart: {error}")
            return None

    def take_over(self) -> Collection[int]:
        """Have what the run before has left, if there was one; the descriptors of its connections."""
        if self._returning is None:
            return ()
        descriptors = self._returning.take_over(self._program.keep_vows, self._program.understands)
        self._store.forget_all()
        return descriptors

    def begin(self, main_socket: socket.socket, part: Part | None = None) -> None:
        """In a worker. `main_socket`: where the main process hears; `part`: it is one of several."""
        if self._room is not None:
            from mproxy.keeper.leaving import Leaving
            leaving = Leaving(self._loop, self._log, self._name, main_socket, self._room, self._program.connections,
                              self._program.vows, part)
            self._leave = leaving.leave

    @property
    def leave(self) -> Callable[[], bool] | None:
        """What SIGUSR1 means (mproxy/service/signal_handlers.py)."""
        return self._leave if self._survives else None
