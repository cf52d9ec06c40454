"""Names that a sender gives: which are accepted, the directories on the way, and the temporary names.

A name is taken apart: each directory on the way is opened from the one before, and never through a symbolic link, so
that neither a name nor a planted link can lead elsewhere (openat(2), O_NOFOLLOW).
"""

from __future__ import annotations

import errno
import hashlib
import os

from mproxy.ground.errors import MproxyError
from mproxy.transfer._disk import open_below
from mproxy.transfer.messages import MOST_NAME_BYTES

PART, STATE = b".mproxy-part", b".mproxy-state"
LONGEST_COMPONENT = 255  # NAME_MAX
MOST_DEPTH = 128  # components; deeper trees are meant to do harm


class BadName(MproxyError):
    """A name that is not accepted."""


def split_name(name: bytes) -> list[bytes]:
    """The components of a relative path given as bytes; BadName for what could lead out of its directory."""
    parts = name.split(b"/")
    if not name or len(name) > MOST_NAME_BYTES or b"\0" in name:
        raise BadName("the name is empty, too long, or contains a zero byte")
    if len(parts) > MOST_DEPTH:
        raise BadName(f"the name is more than {MOST_DEPTH} directories deep")
    for part in parts:
        check_part(part)
    return parts


def check_part(part: bytes, dots: bool = True) -> None:
    """BadName unless that can be a component of a path; `dots`: whether it may begin with a dot."""
    if part in (b"", b".", b".."):
        raise BadName("the name is absolute, or has an empty, '.' or '..' component")
    if b"\0" in part:
        raise BadName("the name contains a zero byte")
    if len(part) > LONGEST_COMPONENT:
        raise BadName(f"the name has a component longer than {LONGEST_COMPONENT} bytes")
    if is_temporary(part):
        raise BadName("the name is reserved for mproxy itself")
    if not dots and part.startswith(b"."):
        raise BadName("the name has a component that begins with a dot, which a receiver with --open does not accept")


def check_link(name: bytes, target: bytes) -> None:
    """BadName unless a symbolic link called `name` stays in the directory, whatever other links lie in its way.

    Each link is made in a real directory, never behind another link, so '..' at the beginning of its target counts
    those above it. Behind a name it would not: that may be a link, too.
    """
    if not target or target.startswith(b"/") or b"\0" in target:
        raise BadName("the symbolic link leads to an absolute path")
    parts = [part for part in target.split(b"/") if part not in (b"", b".")]
    up = next((number for number, part in enumerate(parts) if part != b".."), len(parts))
    if up > name.count(b"/"):
        raise BadName("the symbolic link leads out of the directory")
    if b".." in parts[up:]:
        raise BadName("the symbolic link goes up behind a name, which may lead out of the directory")


def is_temporary(part: bytes) -> bool:
    """Whether a name in a directory is one of ours."""
    return part.startswith(b".") and part.endswith((PART, STATE))


def temporary_names(name: bytes) -> tuple[bytes, bytes]:
    """(part, state) of a file called `name`: `.NAME.mproxy-part`, with a hash in place of what is too long."""
    most = LONGEST_COMPONENT - len(STATE) - 1
    if len(name) > most:
        tail = b"~" + hashlib.blake2b(name, digest_size=8).hexdigest().encode()
        head = name[:most - len(tail)]
        while head and head[-1] & 0xC0 == 0x80:  # never cut a character in half: some file systems refuse that
            head = head[:-1]
        if head and head[-1] & 0xC0 == 0xC0:
            head = head[:-1]
        name = head + tail
    return b"." + name + PART, b"." + name + STATE


def open_directory(base_fd: int, parts: list[bytes]) -> int:
    """A descriptor of the directory below `base_fd`; BadName if it is missing or a symbolic link is on the way."""
    try:
        return open_below(base_fd, parts)
    except FileNotFoundError as error:
        raise BadName(f"its directory {os.fsdecode(error.filename)} was not announced") from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise BadName(f"{os.fsdecode(error.filename)} exists and is not a directory") from None
        raise


def make_directory(base_fd: int, parts: list[bytes], mode: int) -> tuple[int, bool]:
    """(descriptor, whether it was made here) of the directory `parts`, made if missing, with `mode` less the umask."""
    above = open_directory(base_fd, parts[:-1])
    try:
        try:
            os.mkdir(parts[-1], mode, dir_fd=above)
            made = True
        except FileExistsError:
            made = False
        return open_directory(above, parts[-1:]), made
    finally:
        os.close(above)


def current_umask() -> int:
    """The process's umask. Only while there is one thread: it can be read only by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
