"""Files without a name, that nobody can change any more: what one process leaves to another one."""

from __future__ import annotations

import fcntl
import mmap
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    Answer = TypeVar("Answer")

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def make_sealed(name: str, fill: Callable[[Callable[[int], mmap.mmap]], Answer]) -> tuple[int, Answer]:
    """A descriptor of a new one, and what `fill(room)` returned, which writes to `room(length)`. OSError."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    rooms: list[mmap.mmap] = []

    def room(length: int) -> mmap.mmap:
        os.ftruncate(fd, length)
        rooms.append(mmap.mmap(fd, length))
        return rooms[0]

    try:
        answer = fill(room)
        rooms[0].close()
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(fd)
        raise
    return fd, answer


def is_sealed(fd: int) -> bool:
    """Whether it is such a file."""
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    except OSError:
        return False
