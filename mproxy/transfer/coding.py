"""What a CODED message holds in place of a block's data.

PACKED: a Zstandard frame of them.

REBUILT: they are put together from pieces of the receiver's older file and of the message:

    number of pieces (4)
    for each: offset in the older file (8), or NEW; bytes (4)
    the bytes of all NEW pieces, joined

Both: a Zstandard frame of that. All numbers are big-endian. However a block was written, its digest is that of its
data, and is checked as if these had come.
"""

from __future__ import annotations

import os
import struct
import threading
from itertools import islice

from mproxy.transfer import zstd
from mproxy.transfer.messages import PACKED, REBUILT, bad
from mproxy.transfer.tree import LEAF_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.transfer._rolling import Sketch
    from mproxy.transfer.arriving import Data
    from mproxy.transfer.messages import Coded

NEW = (1 << 64) - 1  # in place of an offset
MOST_PIECES = 4096
LEAST_PACKED_BYTES = 256  # less is not worth a frame

_COUNT = struct.Struct(">I")
_PIECE = struct.Struct(">QI")

_rooms = threading.local()


def pieces_of(sketch: Sketch, text: memoryview, begin: int, length: int, number: int) -> bytes | None:
    """Block `number`, `length` bytes from `begin` on of `text`, as pieces; None if that is not shorter. The rest of the
    text is what is around it in the file: a block of the sketch less a byte on either side, if there is as much."""
    at = number * LEAF_BYTES
    data = text[begin:begin + length]
    guess = at // sketch.block_bytes if at % sketch.block_bytes == 0 else -1
    pieces: list[bytes] = []
    new: list[Data] = []
    done = 0
    for place, offset, same in sketch.find(text, begin, begin + length, guess):
        here = place - begin
        if here > done:
            pieces.append(_PIECE.pack(NEW, here - done))
            new.append(data[done:here])
        pieces.append(_PIECE.pack(offset, same))
        done = here + same
    if done < len(data):
        pieces.append(_PIECE.pack(NEW, len(data) - done))
        new.append(data[done:])
    if len(pieces) > MOST_PIECES or _COUNT.size + len(pieces) * _PIECE.size + sum(map(len, new)) >= len(data):
        return None
    return b"".join((_COUNT.pack(len(pieces)), *pieces, *new))


def whole_piece(coded: Coded, data: Data) -> int | None:
    """Where a block is in the older file, if it is all there in one piece."""
    if coded.coding != REBUILT or len(data) != _COUNT.size + _PIECE.size or _COUNT.unpack_from(data)[0] != 1:
        return None
    offset: int
    offset, length = _PIECE.unpack_from(data, _COUNT.size)
    return offset if length == coded.length and offset < 1 << 62 else None


def decode(coded: Coded, data: Data, fd: int) -> Data | None:
    """The block that `data` stand for, until the next one on this thread; `fd`: the older file, -1 if there is none.
    None: it cannot be made, as when that file is another by now. PeerError for what no sender writes."""
    if coded.coding & PACKED:
        unpacked = zstd.decompress(data, LEAF_BYTES)
        if unpacked is None:
            raise bad("compressed data that are damaged, or longer than a block")
        data = unpacked
    if coded.coding & REBUILT:
        return _rebuild(data, coded.length, fd)
    if len(data) != coded.length:
        raise bad("compressed data of another length than was said")
    return data


def _rebuild(data: Data, length: int, fd: int) -> Data | None:
    begin = _COUNT.size
    count = _COUNT.unpack_from(data)[0] if len(data) >= begin else MOST_PIECES + 1
    at = begin + count * _PIECE.size  # of the next new bytes
    if count > MOST_PIECES or at > len(data):
        raise bad("a block of too many pieces")
    view, out, done = memoryview(data), _room()[:length], 0
    for offset, piece in islice(_PIECE.iter_unpack(view[begin:at]), count):
        if piece > length - done or (offset == NEW and piece > len(view) - at):
            raise bad("pieces that are longer than their block")
        target = out[done:done + piece]
        done += piece
        if offset == NEW:
            target[:] = view[at:at + piece]
            at += piece
        elif not _read(fd, target, offset):
            return None
    if done != length or at != len(view):
        raise bad("pieces that are not their block")
    return out


def _room() -> memoryview:
    """For a block, of this thread: memory that was used before need not be cleared."""
    if not hasattr(_rooms, "room"):
        _rooms.room = memoryview(bytearray(LEAF_BYTES))
    room: memoryview = _rooms.room
    return room


def _read(fd: int, target: memoryview, offset: int) -> bool:
    """Whether the file has as many bytes there."""
    while target:
        try:
            got = os.preadv(fd, [target], offset) if offset < 1 << 63 else 0
        except OSError:
            return False
        if got == 0:
            return False
        target, offset = target[got:], offset + got
    return True
