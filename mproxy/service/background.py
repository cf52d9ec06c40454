"""A program in the background: its pidfile, and the double fork whose first process waits until the last one is ready.

The pidfile is locked while its process lives, so a number left behind by a dead process is recognised whatever program
has that number now.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import stat
import struct
from collections.abc import Iterable

from mproxy.ground.errors import MproxyError, UsageError
from mproxy.ground.words import printable
from mproxy.io.descriptors import close_others


class PidFile:
    """Holds the pidfile of this process until `remove`; written by the process that runs, not by one that forks."""

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        self._fd = self._open()
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def _open(self) -> int:
        while True:
            try:
                fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise UsageError(f"cannot write --pidfile {printable(self._path)}: {error.strerror}") from None
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                pid = _read_number(fd)
                os.close(fd)
                raise MproxyError(
                    f"already running as process {pid}: --pidfile {printable(self._path)} is in use") from None
            # If the file was removed between open and lock its owner was ending: nobody owns this one.
            if os.path.exists(self._path) and os.path.samestat(os.fstat(fd), os.stat(self._path)):
                return fd
            os.close(fd)

    def remove(self) -> None:
        """Delete the file, and give up the lock."""
        try:
            os.unlink(self._path)
        except OSError:
            pass
        os.close(self._fd)


def running_pid(path: str) -> int:
    """The number of the process that holds a pidfile; MproxyError for a missing, stale or strange one."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise MproxyError(f"cannot read --pidfile {printable(path)}: {error.strerror}; is the relay running?") from None
    try:
        pid = _read_number(fd)
        holder = _lock_holder(fd)
    except OSError as error:
        raise MproxyError(f"cannot read --pidfile {printable(path)}: {error.strerror}") from None
    finally:
        os.close(fd)
    if pid is None:
        raise MproxyError(f"--pidfile {printable(path)} contains no process id")
    if holder is None or (holder and holder != pid):
        raise MproxyError(f"--pidfile {printable(path)} is stale: process {pid} has ended, or is another program")
    return pid


def _read_number(fd: int) -> int | None:
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else None


def _lock_holder(fd: int) -> int | None:
    """The process that has the lock; None: nobody; 0: one in another process namespace."""
    # struct flock: type, whence, start, length, pid; F_GETLK only looks, and works for files of other users.
    layout = "hhqqi4x"
    answer = fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack(layout, fcntl.F_WRLCK, 0, 0, 0, 0))
    kind, _, _, _, pid = struct.unpack(layout, answer)
    return None if kind == fcntl.F_UNLCK else max(pid, 0)


class Background:
    """The double fork: `begin` returns only in the daemon; the first process ends in it when told how it went."""

    def __init__(self) -> None:
        self._report = -1

    def begin(self, keep: Iterable[int] = ()) -> None:
        """Go into the background. The first process waits for `ready` or `failed` and ends with the status of that.

        What the caller had open is not kept: a pipe would never end for its reader, a lock would never be free.
        `keep`: descriptors that were given to this process on purpose. Standard error stays until `ready`.
        """
        read_end, self._report = os.pipe2(os.O_CLOEXEC)
        if os.fork():
            os.close(self._report)
            os._exit(_await(read_end))
        os.close(read_end)
        os.setsid()
        if os.fork():
            os._exit(0)
        close_others({self._report, *keep})
        _attach_null((0, 1))
        os.chdir("/")
        os.umask(0o022)

    def ready(self) -> None:
        """Let the first process end with status 0; leave its terminal."""
        if self._report >= 0:
            leave_terminal()
            self._tell(0)

    def failed(self, status: int) -> None:
        """Let it end with that status; standard error already says what was wrong."""
        if self._report >= 0:
            self._tell(status)

    def _tell(self, status: int) -> None:
        try:
            os.write(self._report, bytes([status]))
        except OSError:
            pass  # it has been killed meanwhile
        os.close(self._report)
        self._report = -1


class LogFile:
    """Standard error into a file, if one is wanted. Where it went before is kept, for what fails at the start."""

    def __init__(self, path: str | None) -> None:
        self._path = path and os.path.abspath(path)
        self._former: int | None = None  # a descriptor, until it is forgotten
        self._is_open = False

    def open(self) -> None:
        """Send standard error to the file; reopens it if it has been moved away. UsageError."""
        if self._path is None:
            return
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise UsageError(f"cannot write --log-file {printable(self._path)}: {error.strerror}") from None
        if not self._is_open:
            self._former = fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, 3)
            self._is_open = True
        os.dup2(fd, 2)
        os.close(fd)

    def give_back(self) -> None:
        """Let standard error go where it went before."""
        if self._former is not None:
            os.dup2(self._former, 2)

    def forget_former(self) -> None:
        """It serves in the background: the caller's standard error is no longer held open."""
        if self._former is not None:
            os.close(self._former)
            self._former = None


def _await(read_end: int) -> int:
    while True:
        try:
            told = os.read(read_end, 1)
        except InterruptedError:
            continue
        return told[0] if told else 1  # nothing was told: the daemon died


def leave_terminal() -> None:
    """Standard files of our own. A log that goes to a file stays there: the user said `2>> file`."""
    _attach_null(fd for fd in (0, 1, 2) if fd != 2 or not _is_file(fd))


def _attach_null(fds: Iterable[int]) -> None:
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in fds:
        os.dup2(null, fd)
    if null > 2:
        os.close(null)


def _is_file(fd: int) -> bool:
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError:
        return False


def stop_process(pid: int, patience_s: float) -> None:
    """Ask process `pid` to end, by SIGTERM, and wait for it; MproxyError if it does not."""
    try:
        pidfd = os.pidfd_open(pid)
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
    except OSError as error:
        if error.errno == errno.ESRCH:
            return
        raise MproxyError(f"cannot stop process {pid}: {error.strerror}") from None
    ended = select.select([pidfd], [], [], patience_s)[0]
    os.close(pidfd)
    if not ended:
        raise MproxyError(f"process {pid} is still running after {patience_s:.0f} s; a second SIGTERM ends it at once")
