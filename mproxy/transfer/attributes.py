"""Extended attributes of files and directories, and with them ACLs (xattr(7), acl(5))."""

from __future__ import annotations

import errno
import os
import struct

from mproxy.ground.errors import MproxyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_ATTRIBUTE_BYTES = 48 << 10  # all of one file, which go into one message

# The user's own, and what else each owner may set. Those of the kernel and of root (security., trusted.) stay behind.
_OWN = b"user."
_ACLS = (b"system.posix_acl_access", b"system.posix_acl_default")

_ONE = struct.Struct(">HI")  # bytes of the name, bytes of the value; then both
_NONE_HERE = (errno.ENOTSUP, errno.EOPNOTSUPP)


class AttributesError(MproxyError):
    """Attributes that cannot be told or given."""


def _is_carried(name: bytes) -> bool:
    return name.startswith(_OWN) or name in _ACLS


def has_attributes(path: str) -> bool:
    """Whether there are some to be carried; also when nobody knows."""
    try:
        return any(map(_is_carried, map(os.fsencode, os.listxattr(path))))
    except OSError as error:
        return error.errno not in _NONE_HERE


def attributes_of(fd: int) -> bytes:
    """Those of an open file, for a FILE message; empty if it has none. OSError, AttributesError."""
    try:
        names = sorted(name for name in map(os.fsencode, os.listxattr(fd)) if _is_carried(name))
    except OSError as error:
        if error.errno in _NONE_HERE:
            return b""
        raise
    parts = []
    for name in names:
        value = os.getxattr(fd, name)
        parts += [_ONE.pack(len(name), len(value)), name, value]
    packed = b"".join(parts)
    if len(packed) > MOST_ATTRIBUTE_BYTES:
        raise AttributesError(f"its extended attributes take more than {MOST_ATTRIBUTE_BYTES >> 10} KiB")
    return packed


def give_attributes(fd: int, packed: bytes) -> None:
    """Give them to an open file. AttributesError names one that it cannot have, or says that they are malformed."""
    for name, value in _unpacked(packed):
        if not _is_carried(name):
            continue
        try:
            os.setxattr(fd, name, value)
        except OSError as error:
            raise AttributesError(f"extended attribute {os.fsdecode(name)}: {error.strerror}; without --xattrs the"
                                  " receiver does without them") from None


def _unpacked(packed: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(packed):
        if len(packed) - at < _ONE.size:
            raise AttributesError("malformed extended attributes")
        name_bytes, value_bytes = _ONE.unpack_from(packed, at)
        at += _ONE.size
        name, value = packed[at:at + name_bytes], packed[at + name_bytes:at + name_bytes + value_bytes]
        at += name_bytes + value_bytes
        if at > len(packed) or b"\0" in name:
            raise AttributesError("malformed extended attributes")
        yield name, value
