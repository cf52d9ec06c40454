"""Small files in the state directory, each held by one running process at a time: numbered slots, with a lock.

A process that starts again finds its slot free and takes it; a second one at the same time takes the next.
"""

from __future__ import annotations

import fcntl
import os

from mproxy.ground.errors import MproxyError
from mproxy.ground.private_directory import make_private_directories
from mproxy.io import heirlooms

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# Most processes of one kind at the same time with one state directory.
SLOTS = 1024


class SlotFile:
    """A slot's file, locked until the process ends. When all slots are taken `path` is None and nothing is kept."""

    def __init__(self, state_dir: str, name: str) -> None:
        self.path: str | None = None
        self._fd = -1
        self._first = os.path.join(state_dir, name)
        self._heirloom = f"slot {self._first}"
        try:
            if not self._inherit():
                make_private_directories(state_dir)
                self._take()
        except OSError as error:
            raise MproxyError(
                f"cannot keep state in {state_dir}: {error.strerror}; choose another place with --state-dir") from None

    def _inherit(self) -> bool:
        """Have the slot of the program whose place this process takes, with its lock."""
        fd = heirlooms.take(self._heirloom)
        if fd is not None:
            self._hold(os.readlink(f"/proc/self/fd/{fd}"), fd)
        return fd is not None

    def _hold(self, path: str, fd: int) -> None:
        self.path, self._fd = path, fd  # the lock lives as long as the descriptor
        heirlooms.note(self._heirloom, fd)

    def _take(self) -> None:
        for path in self._paths():
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                continue
            self._hold(path, fd)
            return

    def _paths(self) -> Iterator[str]:
        yield self._first
        for slot in range(1, SLOTS):
            yield f"{self._first}.{slot}"

    def left_beside(self, size: int) -> list[str]:
        """Files of `size` bytes in other slots whose process has ended."""
        left = []
        for path in self._paths():
            try:
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:  # none was ever taken beyond the first that is missing
                break
            try:
                if path != self.path and os.fstat(fd).st_size == size:
                    fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    left.append(path)
            except BlockingIOError:
                pass
            finally:
                os.close(fd)
        return left

    @property
    def held(self) -> bool:
        """Whether a slot was free, so that there is a file."""
        return self._fd >= 0

    def release(self) -> None:
        """Unlock the file before the process ends."""
        if self.held:
            heirlooms.forget(self._heirloom)
            os.close(self._fd)
            self._fd = -1

    @property
    def inode(self) -> int:
        """The file's inode: in a copy of the directory it is another."""
        return os.fstat(self._fd).st_ino

    def read(self, most: int) -> bytes:
        """What was kept, at most that many bytes."""
        return os.pread(self._fd, most, 0) if self.held else b""

    def write(self, data: bytes) -> None:
        """Keep this instead; a disk that does not take it is no reason to end."""
        if self.held:
            try:
                os.pwrite(self._fd, data, 0)
                os.ftruncate(self._fd, len(data))
            except OSError:
                pass
