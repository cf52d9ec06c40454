"""A bundle: small files and directories that are announced, and mostly sent, in one message.

An entry is what FILE says of a file, then its name, and then its contents if the sender expects that the receiver does
not have the file: its directory was made during this transfer. Else the receiver answers that it wants it. The root
tells the hash of the whole; zeros with BY_TIME, where size and time decide.

If the receiver takes links in bundles there are entries of symbolic links, too, their contents what they lead to, and
of further names of small files, with the first name, behind its length (2), in place of contents.

The receiver answers bundles in their order, with one BundleAnswer for each entry.
"""

from __future__ import annotations

import enum
import struct
from collections import namedtuple

from mproxy.transfer._making import find_group
from mproxy.transfer._small import MOST_BYTES
from mproxy.transfer.messages import (
    BY_TIME,
    MOST_BUNDLE_ENTRIES,
    MOST_NAME_BYTES,
    MOST_TIME_NS,
    File,
    FileKind,
    bad,
)
from mproxy.transfer.tree import DIGEST_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from mproxy.transfer.arriving import Data

# How large ours are. Memory at both ends is bounded by it, and so is what is lost with a connection.
BUNDLE_ENTRIES, BUNDLE_BYTES = 256, 1 << 18

# How `read_files` and `pack_files` read.
AS_DIRECTORY, AS_FILE, FOLLOWED, UNREAD, AS_LINK, WITHOUT_ATTRIBUTES = 0, 1, 2, 4, 8, 16

# Flags beside BY_TIME: the contents follow; or the name of a file that has arrived and is the same one (a hard link).
WITH_DATA, WITH_OTHER = 4, 8

ENTRY = struct.Struct(f">BBHqIH{DIGEST_BYTES}s")  # kind, flags, mode, mtime (ns), size, bytes of the name, root
ENTRY_BYTES = ENTRY.size
_NO_IDENTITY = bytes(16)
_OTHER = struct.Struct(">H")  # bytes of the other name
_KINDS = {kind.value: kind for kind in (FileKind.FILE, FileKind.DIRECTORY, FileKind.LINK)}


# What an entry may say.
_FLAGS = {FileKind.FILE: (0, BY_TIME, WITH_DATA, WITH_DATA | BY_TIME, WITH_OTHER, WITH_OTHER | BY_TIME),
          FileKind.DIRECTORY: (0,), FileKind.LINK: (WITH_DATA,)}


class BundleAnswer(enum.IntEnum):
    """What became of an entry."""

    DONE = 0  # it is there, its hash verified
    MADE = 1  # the directory was made now, so nothing is in it
    WANTED = 2  # nothing of this name is there: send the contents
    ALONE = 3  # something is out of the ordinary: announce it with a FILE of its own


class BundleEntry(namedtuple("BundleEntry", "file root at")):
    """An entry of a bundle that has come. `at`: where in the bundle its contents begin; -1: they did not come."""

    __slots__ = ()
    file: File
    root: bytes
    at: int

    if TYPE_CHECKING:
        def __new__(cls, file: File, root: bytes, at: int) -> Self: ...


class FileGroup(namedtuple("FileGroup", "at count size directory")):
    """Files with their contents that lie beside each other in a bundle that has come, and in one directory: `count`
    entries from offset `at` on, `size` bytes of contents. Of most files no more has to be known, as they are made in
    one go (`make_group`)."""

    __slots__ = ()
    at: int
    count: int
    size: int
    directory: bytes

    if TYPE_CHECKING:
        def __new__(cls, at: int, count: int, size: int, directory: bytes) -> Self: ...


def parse_bundle(data: Data, count: int) -> list[BundleEntry | FileGroup]:
    """The `count` entries that fill `data`, in their order; PeerError when they do not, or are malformed."""
    parts: list[BundleEntry | FileGroup] = []
    view = memoryview(data)
    at = 0
    while count:
        some, end, size, directory = find_group(view, at, count)
        if some:
            parts.append(FileGroup(at, some, size, directory))
        else:
            entry, end = _parse_entry(view, at)
            parts.append(entry)
        at, count = end, count - (some or 1)
    if at != len(view):
        raise bad("a bundle that is longer than its entries")
    return parts


def entries_of(data: Data, group: FileGroup) -> list[BundleEntry]:
    """Those of a group that was found in `data`."""
    view = memoryview(data)
    entries = []
    at = group.at
    for _ in range(group.count):
        entry, at = _parse_entry(view, at)
        entries.append(entry)
    return entries


def _parse_entry(view: memoryview, at: int) -> tuple[BundleEntry, int]:
    """The entry at that offset, and where it ends."""
    end = len(view)
    if end - at < ENTRY_BYTES:
        raise bad("a bundle that is too short")
    number, flags, mode, mtime_ns, size, length, root = ENTRY.unpack_from(view, at)
    kind = _KINDS.get(number)
    at += ENTRY_BYTES + length
    if kind is None or size > MOST_BYTES or length > MOST_NAME_BYTES or not -MOST_TIME_NS <= mtime_ns <= (
            MOST_TIME_NS) or flags not in _FLAGS[kind] or (kind is FileKind.DIRECTORY and size):
        raise bad("a malformed entry of a bundle")
    name = bytes(view[at - length:at])
    begin, other = -1, b""
    if flags & WITH_DATA:
        begin, at = at, at + size
    elif flags & WITH_OTHER and end - at >= _OTHER.size:
        begin = at + _OTHER.size
        at = begin + _OTHER.unpack_from(view, at)[0]
        other, begin = bytes(view[begin:at]), -1
    if at > end or (flags & WITH_OTHER and not 0 < len(other) <= MOST_NAME_BYTES):
        raise bad("a bundle that is too short")
    if kind is FileKind.LINK:
        other, begin, size = bytes(view[begin:at]), -1, 0
        if not 0 < len(other) <= MOST_NAME_BYTES or b"\0" in other:
            raise bad("a malformed entry of a bundle")
    file = File(0, kind, mode, mtime_ns, size, _NO_IDENTITY, name, other, flags & BY_TIME)
    return BundleEntry(file, root, begin), at


def check_count(count: int) -> None:
    """PeerError for a number of entries that no bundle has."""
    if not 0 < count <= MOST_BUNDLE_ENTRIES:
        raise bad("a bundle of no entries, or of too many")
