"""How messages of sender and receiver follow each other in the byte stream: type, length, payload; and the parts that
several types have. What each says: mproxy.transfer.messages."""

from __future__ import annotations

import enum
import struct

from mproxy.ground.errors import PeerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

# Enough for a path of 4096 bytes (PATH_MAX), or some thousand ranges; whoever sends far more is after our memory.
MOST_CONTROL_BYTES = 65536
MOST_RANGES = 4000
MOST_TEXT_BYTES = 1000

HEADER = struct.Struct(">B3xI")  # type, bytes of payload
_RANGE = struct.Struct(">II")  # the first, how many


class MessageType(enum.IntEnum):
    HELLO = 1
    FILE = 2
    WANT = 3
    BLOCK = 4
    END = 5
    RESULT = 6
    BYE = 7
    HOLES = 8
    BUNDLE = 9
    ANSWER = 10
    SKETCH = 11
    CODED = 12
    KEEP = 13
    EXTRA = 14
    REMOVE = 15
    REMOVED = 16
    LEFT_OUT = 17
    TOTAL = 18
    PACKED_BUNDLE = 19


# By number: calling or searching an enumeration costs more than the rest of a short message.
TYPES = {kind.value: kind for kind in MessageType}


def pack(kind: MessageType, *parts: bytes) -> bytes:
    """A message with this payload."""
    return HEADER.pack(kind, sum(map(len, parts))) + b"".join(parts)


def pack_text(text: str) -> bytes:
    """As much of it as may be said."""
    return text.encode("utf-8", "backslashreplace")[:MOST_TEXT_BYTES]


def pack_ranges(ranges: Collection[tuple[int, int]]) -> bytes:
    """(first, how many) of each, in order."""
    return b"".join(_RANGE.pack(*one) for one in ranges)


def parse_ranges(count: int, data: bytes) -> tuple[tuple[int, int], ...]:
    """So many; PeerError unless they fill `data`, and are in order."""
    if count > MOST_RANGES or len(data) != count * _RANGE.size:
        raise bad("ranges that do not fill their message")
    ranges = tuple(_RANGE.iter_unpack(data))
    end = 0
    for first, length in ranges:
        if first < end or length == 0:
            raise bad("ranges out of order")
        end = first + length
    return ranges


def bad(reason: str) -> PeerError:
    """The error for a peer that says something it must not."""
    return PeerError(None, reason)
