"""Partial files that no sender continues: they are removed."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Collection

from mproxy.transfer._disk import is_named
from mproxy.transfer.file_names import is_temporary


def remove_abandoned(path: str, before_ns: int, names: Collection[bytes] | None = None) -> tuple[int, int]:
    """Remove temporary files below the directory `path` that have not changed since `before_ns` (time.time_ns) and that
    no transfer holds; with `names` only those, and only in the directory itself. Returns (how many, bytes)."""
    count = total = 0
    for _path, directories, files, fd in os.fwalk(path, follow_symlinks=False):
        for name in map(os.fsencode, files):
            if is_temporary(name) and (names is None or name in names):
                size = _remove(fd, name, before_ns)
                if size is not None:
                    count, total = count + 1, total + size
        if names is not None:
            directories.clear()
    return count, total


def _remove(directory_fd: int, name: bytes, before_ns: int) -> int | None:
    """Bytes freed; None when it stays."""
    try:
        if not _is_old(os.stat(name, dir_fd=directory_fd, follow_symlinks=False), directory_fd, before_ns):
            return None
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory_fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(fd)
            if not _is_old(status, directory_fd, before_ns) or not is_named(fd, directory_fd, name):
                return None
            os.unlink(name, dir_fd=directory_fd)
            return status.st_blocks * 512
        finally:
            os.close(fd)
    except OSError:
        return None  # in use, gone, or not ours to remove


def _is_old(status: os.stat_result, directory_fd: int, before_ns: int) -> bool:
    """Whether it is a file of ours, unchanged since then. Its st_mtime may be that of the source."""
    owners = (os.geteuid(), os.fstat(directory_fd).st_uid)
    return stat.S_ISREG(status.st_mode) and status.st_uid in owners and status.st_ctime_ns < before_ns
