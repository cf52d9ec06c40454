"""Standard input and output as descriptors of our own that never block."""

from __future__ import annotations

import fcntl
import os
import stat

from mproxy.ground.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def check_stdio(fds: Iterable[int]) -> None:
    """UsageError if a descriptor of `fds`, 0 and 1, is closed, or open for the other direction alone: the data would
    silently be lost. A directory is told by the launcher (programs/push_script.py), for Python does not start then."""
    for fd in fds:
        try:
            access = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
        except OSError:
            raise UsageError(f"standard {('input', 'output')[fd]} is closed") from None
        if access == (os.O_WRONLY, os.O_RDONLY)[fd]:
            raise UsageError(f"standard {('input is open for writing', 'output is open for reading')[fd]} only")


def open_stdio() -> tuple[int, int]:
    """Return (read descriptor, write descriptor) in place of descriptors 0 and 1, which then lead nowhere.

    Pipes and terminals are reopened, so that O_NONBLOCK does not affect other programs that share them, and closing
    ours is the end for whoever reads.
    """
    return _reopen(0, os.O_RDONLY), _reopen(1, os.O_WRONLY)


def _reopen(fd: int, flags: int) -> int:
    mode = os.fstat(fd).st_mode
    own = -1
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        try:
            own = os.open(f"/proc/self/fd/{fd}", flags | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError:
            pass  # no /proc, or another user's terminal: share the open file
    if own < 0:
        own = os.dup(fd)
        if not stat.S_ISREG(mode):
            os.set_blocking(own, False)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, fd)
    os.close(null)
    return own
