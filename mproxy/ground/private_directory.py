"""Directories that only this user can enter."""

import os

from mproxy.ground.errors import MproxyError


def make_private_directories(path: str) -> None:
    """Make sure of a directory. It, and each one above it that is missing, is for this user alone whatever the umask:
    `os.makedirs` gives its mode to the last one only, and where the umask is 002, as in an ssh session on Debian, the
    others could be written by the user's group. OSError."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
    except FileNotFoundError:
        above = os.path.dirname(path.rstrip("/"))
        if not above:
            raise
        make_private_directories(above)
        make_private_directories(path)


def make_private_directory(path: str) -> None:
    """The same; MproxyError if it cannot be made."""
    try:
        make_private_directories(path)
    except OSError as error:
        raise MproxyError(f"cannot create the directory {path}: {error.strerror}") from None
