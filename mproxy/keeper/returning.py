"""A restart by the service manager, the part of the program that starts: what the one before has left in the manager's
store (leaving.py) is taken over whole, or refused, and then the program starts as ever.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time

from mproxy._inherit import empty_arena
from mproxy.ground.errors import MproxyError
from mproxy.io import heirlooms
from mproxy.io.manager_socket import ManagerSocket
from mproxy.io.sealed_file import is_sealed
from mproxy.keeper.descriptor_store import (
    DamagedStore,
    Names,
    identity,
    read_manifest,
    remove_message,
    take_given,
)
from mproxy.keeper.loading import load_apart
from mproxy.keeper.main_process import come_back

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from typing import Any

    from mproxy.ground.shapes import Logger


class GivenStore:
    """What the manager has kept and given back, in this process and there. It stays there until it is forgotten."""

    def __init__(self) -> None:
        self._manager = ManagerSocket()
        self.fds = take_given()  # by name
        self._names = set(self.fds)

    def take(self, name: str) -> list[int]:
        """The descriptors of that name, which are the caller's from now on."""
        return self.fds.pop(name, [])

    def close(self, names: Iterable[str]) -> None:
        """Close these in this process."""
        for name in list(names):
            for fd in self.take(name):
                os.close(fd)

    def forget(self, names: Collection[str]) -> None:
        """Have the manager close these, and wait until it has. In the main process: it hears no other."""
        if self._names.isdisjoint(names):
            return
        with contextlib.suppress(OSError):  # then the manager is being restarted, or has gone
            for name in sorted(self._names.intersection(names)):
                self._manager.tell(remove_message(name))
            self._manager.settle()
        self._names.difference_update(names)

    def forget_all(self) -> None:
        """All that is left."""
        self.close(list(self.fds))
        self.forget(list(self._names))


class Returning:
    """Of the program that starts, or of one of its several workers: what is in the store under these names. It stays
    there until it was taken over or refused: a start that fails for another reason can be repeated. Only listening
    sockets are had at once."""

    def __init__(self, program: str, log: Logger, store: GivenStore, names: Names) -> None:
        self._log = log
        self._store = store
        self._names = names
        self._manifest: dict[str, Any] | None = None
        if not store.fds.keys().isdisjoint((names.manifest, names.dump, names.connection, names.listener(0))):
            try:
                self._manifest = self._find_manifest(program)
            except DamagedStore as error:
                self.refuse(error)

    @property
    def is_usable(self) -> bool:
        """Whether there is something that was not refused yet."""
        return self._manifest is not None

    def take_listeners(self, *, own: bool = False) -> None:
        """Have the sockets that listen; of several workers those that all have, or those of this one."""
        if self._manifest is None:
            return
        for number, name in enumerate(self._manifest["listeners"]):
            if own == (name in self._manifest.get("own", ())):
                for fd in self._store.take(self._names.listener(number)):
                    heirlooms.give({name: fd})

    def take_over(self, keep_vows: Callable[[Mapping[str, Any]], object], judge: Callable[[bytes], bool]) -> list[int]:
        """Leave the sessions in the arena for the first worker; returns their descriptors.

        `keep_vows(vows)` raises MproxyError if this program cannot do what the one before it did. `judge(record)`:
        whether it understands what that one has kept with a session.
        """
        heirlooms.close_rest()
        if self._manifest is None:
            return []
        try:
            keep_vows(self._manifest["vows"])
            descriptors, missing = self._find_connections()
            self._load(descriptors, judge)
        except MproxyError as error:
            self.refuse(error)
            return []
        self._store.close((self._names.dump, self._names.manifest))
        come_back()
        after = round(time.monotonic() - self._manifest["stored_at"], 3)
        (self._log.warning if missing else self._log.info)(
            "restarted", former=self._manifest["version"], after=f"{after}s", connections=len(descriptors),
            missing=missing or None)
        return descriptors

    def refuse(self, why: object) -> None:
        """Have none of it: connections are reset, and the other proxies hear that their sessions are not known."""
        self._log.error("restart-failed", why=(
            f"what the run before has left cannot be used: {why}; its connections are reset"))
        self.let_go()

    def let_go(self) -> None:
        """Close what is left of it in this process."""
        names, manifest = self._names, self._manifest or {"listeners": []}
        self._store.close((names.manifest, names.dump, names.connection,
                           *(names.listener(number) for number in range(len(manifest["listeners"])))))
        self._manifest = None

    def _find_manifest(self, program: str) -> dict[str, Any]:
        names, given = self._names, self._store.fds
        if len(given.get(names.manifest, [])) != 1 or len(given.get(names.dump, [])) != 1:
            raise DamagedStore("a part of it is missing")
        found = read_manifest(given[names.manifest][0])
        if found["program"] != program:
            raise DamagedStore(f"it is {found['program']}'s, not {program}'s")
        return found

    def _find_connections(self) -> tuple[list[int], int]:
        """The connections in the order of the dump, and how many are not there. In place of each of those there is a
        socket of which nobody can tell what was done, so that its stream is reset."""
        assert self._manifest is not None
        given: dict[tuple[int, int], int] = {}
        for fd in self._store.take(self._names.connection):
            os.set_blocking(fd, False)
            if given.setdefault(identity(fd), fd) != fd:
                os.close(fd)
        wanted = [tuple(each) for each in self._manifest["connections"]]
        found = [given.pop(each, None) for each in wanted]
        for fd in given.values():
            os.close(fd)
        return [_nowhere() if fd is None else fd for fd in found], found.count(None)

    def _load(self, descriptors: list[int], judge: Callable[[bytes], bool]) -> None:
        """DamagedStore: the dump is not right; then nothing of it is left."""
        dump = self._store.fds[self._names.dump][0]
        why = load_apart(dump, descriptors, judge) if is_sealed(dump) else "its dump could have been changed"
        if why:
            for fd in descriptors:
                os.close(fd)
            empty_arena()
            raise DamagedStore(why)


def _nowhere() -> int:
    """A socket that was never connected."""
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC).detach()
