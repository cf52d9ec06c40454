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


def rebuild_from(sketch: Sketch, fd: int, number: int, data: Data) -> bytes | None:
    """`data`, block `number` of the file of a descriptor, as pieces; None if that is not shorter."""
    around = sketch.block_bytes - 1
    at = number * LEAF_BYTES
    before = os.pread(fd, min(around, at), max(0, at - around))
    behind = os.pread(fd, around, at + len(data)) if len(data) == LEAF_BYTES else b""
    text = b"".join((before, data, behind))
    begin, end = len(before), len(before) + len(data)
    guess = at // sketch.block_bytes if at % sketch.block_bytes == 0 else -1
    pieces: list[bytes] = []
    new: list[Data] = []
    done = 0
    for place, offset, length in sketch.find(text, begin, end, guess):
        here = place - begin
        if here > done:
            pieces.append(_PIECE.pack(NEW, here - done))
            new.append(data[done:here])
        pieces.append(_PIECE.pack(offset, length))
        done = here + length
    if done < len(data):
        pieces.append(_PIECE.pack(NEW, len(data) - done))
        new.append(data[done:])
    if len(pieces) > MOST_PIECES or _COUNT.size + len(pieces) * _PIECE.size + sum(map(len, new)) >= len(data):
        return None
    return b"".join((_COUNT.pack(len(pieces)), *pieces, *new))


def decode(coded: Coded, data: Data, fd: int) -> Data | None:
    """The block that `data` stand for; `fd`: the older file, -1 if there is none. None: it cannot be made, as when that
    file is another by now. PeerError for what no sender writes."""
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
    view, made, done = memoryview(data), bytearray(length), 0
    out = memoryview(made)
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
    return made


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
