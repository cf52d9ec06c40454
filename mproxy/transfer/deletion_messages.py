"""What sender and receiver say of deleting what the sender does not have (mproxy.transfer.deletion_out): the sender
names all that its directories hold, the receiver what is in them beyond that, and the sender which of these goes. How
this is part of all they say: mproxy.transfer.messages."""

from __future__ import annotations

import struct
from collections import namedtuple

from mproxy.transfer.framing import MOST_TEXT_BYTES, MessageType, bad, pack, pack_ranges, pack_text, parse_ranges

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self, TypeAlias

    DeletionMessage: TypeAlias = "Keep | Extra | Remove | Removed"

_KEEP = struct.Struct(">B3x")  # flags; then names
_EXTRA = struct.Struct(">B3xI")  # flags, number of the first; then names
_REMOVE = struct.Struct(">B3xI")  # flags, number of ranges
_REMOVED = struct.Struct(">II")  # how many were removed, how many were not; then text

LEAST_BYTES = {MessageType.KEEP: _KEEP.size, MessageType.EXTRA: _EXTRA.size, MessageType.REMOVE: _REMOVE.size,
               MessageType.REMOVED: _REMOVED.size}

# Flags of KEEP, EXTRA and REMOVE: this is the last one; KEEP: it goes on with the last directory of the one before;
# EXTRA: it is the last that answers a KEEP.
LAST, CONTINUES, ANSWERS = 1, 2, 4


class Keep(namedtuple("Keep", "flags names")):
    """A KEEP message: directories, each with the names of what is in it and has to stay, all zero-terminated, and a
    zero behind each directory."""

    __slots__ = ()
    flags: int
    names: bytes

    if TYPE_CHECKING:
        def __new__(cls, flags: int, names: bytes) -> Self: ...


class Extra(namedtuple("Extra", "flags first names")):
    """An EXTRA message: paths of what the sender does not have, numbered from `first` on, each with `d` or `f` in front
    (a directory or not), joined by zeros. A directory comes before what is in it."""

    __slots__ = ()
    flags: int
    first: int
    names: bytes

    if TYPE_CHECKING:
        def __new__(cls, flags: int, first: int, names: bytes) -> Self: ...


class Remove(namedtuple("Remove", "flags ranges")):
    """A REMOVE message; ranges of numbers are (first, how many)."""

    __slots__ = ()
    flags: int
    ranges: tuple[tuple[int, int], ...]

    if TYPE_CHECKING:
        def __new__(cls, flags: int, ranges: tuple[tuple[int, int], ...]) -> Self: ...


class Removed(namedtuple("Removed", "count failed text")):
    """A REMOVED message: how many were removed, how many could not be, and why the first of these could not."""

    __slots__ = ()
    count: int
    failed: int
    text: str

    if TYPE_CHECKING:
        def __new__(cls, count: int, failed: int, text: str) -> Self: ...


def pack_keep(keep: Keep) -> bytes:
    return pack(MessageType.KEEP, _KEEP.pack(keep.flags), keep.names)


def pack_extra(extra: Extra) -> bytes:
    return pack(MessageType.EXTRA, _EXTRA.pack(extra.flags, extra.first), extra.names)


def pack_remove(remove: Remove) -> bytes:
    return pack(MessageType.REMOVE, _REMOVE.pack(remove.flags, len(remove.ranges)), pack_ranges(remove.ranges))


def pack_removed(removed: Removed) -> bytes:
    return pack(MessageType.REMOVED, _REMOVED.pack(removed.count, removed.failed), pack_text(removed.text))


def _parse_keep(payload: bytes) -> Keep:
    return Keep(payload[0], payload[_KEEP.size:])


def _parse_extra(payload: bytes) -> Extra:
    flags, first = _EXTRA.unpack(payload[:_EXTRA.size])
    return Extra(flags, first, payload[_EXTRA.size:])


def _parse_remove(payload: bytes) -> Remove:
    flags, count = _REMOVE.unpack(payload[:_REMOVE.size])
    return Remove(flags, parse_ranges(count, payload[_REMOVE.size:]))


def _parse_removed(payload: bytes) -> Removed:
    count, failed = _REMOVED.unpack(payload[:_REMOVED.size])
    if len(payload) > _REMOVED.size + MOST_TEXT_BYTES:
        raise bad("a malformed result")
    return Removed(count, failed, payload[_REMOVED.size:].decode("utf-8", "replace"))


PARSERS: dict[MessageType, Callable[[bytes], DeletionMessage]] = {
    MessageType.KEEP: _parse_keep, MessageType.EXTRA: _parse_extra, MessageType.REMOVE: _parse_remove,
    MessageType.REMOVED: _parse_removed}
