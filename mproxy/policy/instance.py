"""The instance id: the identity of a cproxy across its own death.

A cproxy that starts again uses the same id, and sproxy then ends what the dead one left behind. There is an id for each
listening port (with --stdio: each server) and running process: each holds a slot in the state directory, and a second
cproxy on the same port number (on another address, in another network namespace) takes the next.

Besides the id the file has the tag of the session that may be left behind at sproxy. It tells a cproxy that died from a
twin with a copy of the directory; and a cproxy that starts knows by it whether a goodbye is owed.
"""

from __future__ import annotations

import fcntl
import os

from mproxy._wire import INSTANCE_ID_BYTES
from mproxy.ground.words import percent_encoded
from mproxy.policy.slots import SlotFile

TAG_BYTES = 4
MOST_BYTES = INSTANCE_ID_BYTES + TAG_BYTES


class Instance:
    """Holds an id until the process ends. `name` says whose; without a state directory the id is only this
    process's."""

    def __init__(self, state_dir: str | None, name: str | None) -> None:
        self.id = os.urandom(INSTANCE_ID_BYTES)
        self.former = 0
        self._slot: SlotFile | None = None
        if state_dir is None or name is None:
            return
        self._slot = SlotFile(state_dir, f"instance-{name}")
        if not self.recall():
            self._keep()

    def recall(self) -> bool:
        """Be what the file says, which another process with this slot may have written last; False: it says nothing."""
        kept = self._slot.read(MOST_BYTES + 1) if self._slot is not None else b""
        if len(kept) not in (INSTANCE_ID_BYTES, MOST_BYTES):
            return False
        self.id, self.former = _split(kept)
        return True

    @property
    def persistent(self) -> bool:
        """Whether the id will be the same after a restart."""
        return self._slot is not None and self._slot.held

    @property
    def path(self) -> str | None:
        """The slot's file."""
        return self._slot.path if self._slot is not None else None

    def left_beside(self) -> list[str]:
        """Files of other slots of this name whose process has died, and has left a session behind at sproxy."""
        return self._slot.left_beside(MOST_BYTES) if self._slot is not None else []

    def release(self) -> None:
        """Let another process have the slot: as far as that is concerned this one has ended."""
        if self._slot is not None:
            self._slot.release()

    def began(self, tag: int) -> None:
        """There is a session at sproxy now."""
        self.former = tag
        self._keep()

    def ended(self) -> None:
        """sproxy knows that the session has ended."""
        if self.former:
            self.began(0)

    def rename(self) -> None:
        """Take a new id: another running cproxy has the same one."""
        self.id = os.urandom(INSTANCE_ID_BYTES)
        self.began(0)

    def _keep(self) -> None:
        if self._slot is not None:
            self._slot.write(self.id + (self.former.to_bytes(TAG_BYTES) if self.former else b""))


class LeftBehind:
    """What a cproxy that has ended left behind at sproxy, for a process that says goodbye in its place.

    `id` and `former` as in `Instance`. The slot is locked only while that process talks to sproxy: a cproxy that
    starts meanwhile takes it, and says goodbye itself. OSError if there is no file, or another process does this.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a different kind of lock than the slot's
        self._kept = os.pread(self._fd, MOST_BYTES + 1, 0)
        self.id, self.former = _split(self._kept)

    def take(self) -> bool:
        """Lock the slot; returns whether the goodbye is still owed, with nobody else to say it."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            same = os.path.samestat(os.fstat(self._fd), os.stat(self._path, follow_symlinks=False))
        except OSError:
            return False
        return bool(self.former) and same and os.pread(self._fd, MOST_BYTES + 1, 0) == self._kept

    def let_go(self) -> None:
        """Unlock the slot."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def ended(self) -> None:
        """sproxy knows that the session is over. The slot must be locked."""
        os.ftruncate(self._fd, INSTANCE_ID_BYTES)


def _split(kept: bytes) -> tuple[bytes, int]:
    return kept[:INSTANCE_ID_BYTES], int.from_bytes(kept[INSTANCE_ID_BYTES:])


def stdio_name(host: str, port: int | None) -> str:
    """The name of --stdio clients of one sproxy, for `Instance`: they have no port of their own."""
    return f"stdio-{percent_encoded(host)[:200]}-{port}"
