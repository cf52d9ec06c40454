"""Directories that only this user can enter, and small files in them."""

import contextlib
import errno
import os

from mproxy.ground.errors import MproxyError

LONGEST_LINE = 200  # that is read


def make_private_directories(path: str) -> None:
    """Make sure of a directory. It, and each one above it that is missing, is for this user alone whatever the umask:
    `os.makedirs` gives its mode to the last one only, and where the umask is 002, as in an ssh session on Debian, the
    others could be written by the user's group. OSError."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None
    except FileNotFoundError:
        above = os.path.dirname(path.rstrip("/"))
        if not above or os.path.isdir(above):  # /proc takes none
            raise
        make_private_directories(above)
        make_private_directories(path)


def make_private_directory(path: str) -> None:
    """The same; MproxyError if it cannot be made."""
    try:
        make_private_directories(path)
    except OSError as error:
        raise MproxyError(f"cannot create the directory {path}: {error.strerror}") from None


def keep_line(path: str, line: str) -> None:
    """Have a file with that line, in a private directory; empty: no file. Others see the whole line or the one before;
    where it cannot be written there is none."""
    temporary = f"{path}.{os.getpid()}"
    with contextlib.suppress(OSError):
        if not line:
            os.unlink(path)
            return
        make_private_directories(os.path.dirname(path))
        with open(temporary, "w", encoding="ascii", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(f"{line}\n")
        os.replace(temporary, path)


def kept_line(path: str) -> str:
    """What `keep_line` has written there; empty if that cannot be read. At most LONGEST_LINE characters."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(LONGEST_LINE).removesuffix("\n")
    except OSError:
        return ""
