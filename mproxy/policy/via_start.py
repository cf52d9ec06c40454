"""Starts what `--via` names: a shell command whose standard input and output are one end of a pair of sockets.

Apart from who watches it (mproxy.policy.via_command), because one whose end everybody waits for is started before
anything of a session is imported.
"""

from __future__ import annotations

import os
import socket

from mproxy.ground.left_ignored import reset_in_children

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

# In the environment, of programs/quick_start.c: process, socket and standard error of a child of ours.
BEGUN = "MPROXY_BEGUN"

# Where commands are started if that is not where we are.
_directory: str | None = None


def leave_directory() -> None:
    """Stay in `/`, so that the file system that we were started in can be unmounted. Commands are started in the
    directory where we were, as long as it is there: their words may name files in it."""
    global _directory
    if _directory is None:
        try:
            _directory = os.getcwd()
        except OSError:
            pass  # it has been removed
        os.chdir("/")


def owns_terminal() -> bool:
    """Whether a child of ours can ask something at a terminal: there is one, and we are not in its background."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


class ViaChild:
    """A process that runs `command`; OSError if it cannot be started. With the terminal it is in our session and
    process group, and its standard error is ours; else it leads a session of its own."""

    def __init__(self, command: str, has_terminal: bool) -> None:
        self.has_terminal = has_terminal
        self.sock, theirs = socket.socketpair()
        self.sock.setblocking(False)
        self.errors, errors = os.pipe2(os.O_CLOEXEC)  # what it says on standard error, without a terminal
        os.set_blocking(self.errors, False)
        try:
            self.pid = os.posix_spawn(
                "/bin/sh", ["sh", "-c", _where_we_were() + command], os.environ, setsid=not has_terminal, setsigmask=(),
                setsigdef=reset_in_children(),
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0), (os.POSIX_SPAWN_DUP2, theirs.fileno(), 1),
                              (os.POSIX_SPAWN_DUP2, 2 if has_terminal else errors, 2)])
        except OSError:
            self.sock.close()
            os.close(self.errors)
            raise
        finally:
            theirs.close()
            os.close(errors)

    @classmethod
    def begun(cls, pid: int, sock: int, errors: int) -> Self:
        """One whose parent we are although we have not started it; `errors` is -1 if it has the terminal."""
        child = cls.__new__(cls)
        child.pid, child.has_terminal = pid, errors < 0
        child.sock = socket.socket(fileno=sock)
        child.sock.setblocking(False)
        child.errors = errors
        if errors < 0:
            child.errors, writer = os.pipe2(os.O_CLOEXEC)
            os.close(writer)
        os.set_blocking(child.errors, False)
        for fd in (sock, child.errors):
            os.set_inheritable(fd, False)
        return child


def _where_we_were() -> str:
    if _directory is None:
        return ""
    import shlex
    return f"cd -- {shlex.quote(_directory)} 2>/dev/null; "


# Those that were started before who needs them was there, by their commands.
_early: dict[str, ViaChild] = {}


def start_early(command: str, has_terminal: bool) -> None:
    """Start the command for the `start` that will ask for it."""
    try:
        _early[command] = ViaChild(command, has_terminal)
    except OSError:
        pass  # `start` will say so


def take_over_early(command: str) -> bool:
    """Whether quick-start, in whose place we are, has started the command for the `start` that will ask for it."""
    words = os.environ.pop(BEGUN, "").split()
    if len(words) != 3:
        return False
    _early[command] = ViaChild.begun(*map(int, words))
    return True


def start(command: str, has_terminal: bool) -> ViaChild:
    """The process of that command that was started early, or a new one; OSError."""
    return _early.pop(command, None) or ViaChild(command, has_terminal)


def forget_early() -> None:
    """Nobody has asked for them, and nobody will: without its input each of them ends."""
    for child in _early.values():
        child.sock.close()
        os.close(child.errors)
    _early.clear()
