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
    CONNECTION,
    DUMP,
    LISTENER,
    MANIFEST,
    DamagedStore,
    identity,
    read_manifest,
    remove_message,
    take_given,
)
from mproxy.keeper.loading import load_apart
from mproxy.keeper.main_process import come_back

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from mproxy.ground.shapes import Logger


class Returning:
    """Of the program that starts. What the manager keeps stays there until it was taken over or refused: a start that
    fails for another reason can be repeated. Only listening sockets are had at once."""

    def __init__(self, program: str, log: Logger, has_keeper: bool) -> None:
        self._log = log
        self._manager = ManagerSocket()
        self._given = take_given()
        self._manifest: dict[str, Any] | None = None
        if not self._given:
            return
        try:
            if not has_keeper:
                raise DamagedStore("this one has no keeper")
            self._manifest = self._find_manifest(program)
        except DamagedStore as error:
            self._refuse(error)
            return
        for number, name in enumerate(self._manifest["listeners"]):
            for fd in self._given.pop(f"{LISTENER}{number}", []):
                heirlooms.give({name: fd})
                self._forget(f"{LISTENER}{number}")
        self._settle()

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
            self._refuse(error)
            return []
        self._close_given(DUMP, MANIFEST, CONNECTION)
        come_back()
        after = round(time.monotonic() - self._manifest["stored_at"], 3)
        (self._log.warning if missing else self._log.info)(
            "restarted", former=self._manifest["version"], after=f"{after}s", connections=len(descriptors),
            missing=missing or None)
        return descriptors

    def _refuse(self, why: object) -> None:
        """Have none of it: connections are reset, and the other proxies hear that their sessions are not known."""
        self._log.error("restart-failed", why=(
            f"what the run before has left cannot be used: {why}; its connections are reset"))
        self._close_given(*self._given, CONNECTION)
        self._manifest = None

    def _find_manifest(self, program: str) -> dict[str, Any]:
        if len(self._given.get(MANIFEST, [])) != 1 or len(self._given.get(DUMP, [])) != 1:
            raise DamagedStore("it is not whole")
        found = read_manifest(self._given[MANIFEST][0])
        if found["program"] != program:
            raise DamagedStore(f"it is {found['program']}'s, not {program}'s")
        return found

    def _find_connections(self) -> tuple[list[int], int]:
        """The connections in the order of the dump, and how many are not there. In place of each of those there is a
        socket of which nobody can tell what was done, so that its stream is reset."""
        assert self._manifest is not None
        given: dict[tuple[int, int], int] = {}
        for fd in self._given.pop(CONNECTION, []):
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
        dump = self._given[DUMP][0]
        why = load_apart(dump, descriptors, judge) if is_sealed(dump) else "its dump could have been changed"
        if why:
            for fd in descriptors:
                os.close(fd)
            empty_arena()
            raise DamagedStore(why)

    def _close_given(self, *names: str) -> None:
        """Close these, here and in the store."""
        for name in names:
            for fd in self._given.pop(name, []):
                os.close(fd)
            self._forget(name)
        self._settle()

    def _forget(self, name: str) -> None:
        with contextlib.suppress(OSError):  # then the manager is being restarted, or has gone
            self._manager.tell(remove_message(name))

    def _settle(self) -> None:
        with contextlib.suppress(OSError):
            self._manager.settle()


def _nowhere() -> int:
    """A socket that was never connected."""
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC).detach()
