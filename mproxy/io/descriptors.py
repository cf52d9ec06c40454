"""Which descriptors this process has, and how to be rid of the others."""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

STANDARD = (0, 1, 2)

# What the system says nothing about, though it is open: a directory in /proc of a process that is gone.
NOWHERE = (0, 0)


def close_others(keep: Collection[int]) -> None:
    """Close every descriptor but the standard ones and these."""
    beyond = len(STANDARD)
    for fd in sorted(keep):
        if fd > beyond:
            os.closerange(beyond, fd)
        beyond = max(beyond, fd + 1)
    os.closerange(beyond, os.sysconf("SC_OPEN_MAX"))


def open_descriptors() -> list[int]:
    """Numbers of all open descriptors, and perhaps of one that has just been closed."""
    return sorted(map(int, os.listdir("/proc/self/fd")))


class Inherited:
    """The descriptors that are open now, but those that are another's, told apart from later ones that have the same
    numbers."""

    def __init__(self, others: Collection[int] = ()) -> None:
        self._files = {fd: found for fd in open_descriptors()
                       if fd not in others and (found := _file_of(fd)) is not None}

    def has(self, fd: int) -> bool:
        """Whether it was open then, and still is what it was."""
        return fd in self._files and _file_of(fd) == self._files[fd]

    def strangers(self) -> list[int]:
        """The descriptors that have come since then. Standard ones never count as such: a log is reopened."""
        return [fd for fd in open_descriptors() if fd not in STANDARD
                and (found := _file_of(fd)) is not None and found != self._files.get(fd)]

    def close_strangers(self, claim: Callable[[list[int]], Collection[int]]) -> None:
        """Close those, but for what `claim(strangers)` says is wanted."""
        strangers = self.strangers()
        wanted = claim(strangers)
        for fd in strangers:
            if fd not in wanted:
                os.close(fd)


def _file_of(fd: int) -> tuple[int, int] | None:
    """What a descriptor leads to: its device and inode. A socket has an inode of its own; None: it is closed."""
    try:
        found = os.fstat(fd)
    except OSError as error:
        return None if error.errno == errno.EBADF else NOWHERE
    return found.st_dev, found.st_ino
