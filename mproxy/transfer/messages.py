"""What sender and receiver of files say to each other on top of a byte stream: messages of type, length, payload.

    sender                                            receiver
    HELLO {version}
                                                      HELLO {version, how many files ahead, what it takes}
    FILE {index, kind, flags, mode, mtime, size, identity, name[, other[, attributes]]}
                                                      WANT {index, ranges of blocks}   or   RESULT {index, why not}
    BLOCK {index, number, digest} data ...
    HOLES {index, first block, number of blocks}
    END {index, size, root}
                                                      RESULT {index, code, made, root, text}
                                                      SKETCH {index, bytes of a block, key, blocks, sums} ...
    CODED {index, number, digest, coding, length} ...
    BUNDLE {number of entries} entries ...
    PACKED_BUNDLE {number of entries, their bytes} entries ...
                                                      ANSWER {what became of each entry}
    KEEP {flags, names} ...
                                                      EXTRA {flags, first number, names} ...
    REMOVE {flags, ranges of numbers} ...
                                                      REMOVED {how many, how many not, why not}
    LEFT_OUT {name, why}
    TOTAL {bytes}
    BYE                                               BYE

FILE messages go ahead of the data, as many as the receiver's HELLO allows, and AHEAD before it has come, so that small
files do not cost a round trip each. `other`, behind a zero byte, is where a symbolic link leads, or the name of a file
that has arrived and is the same one (a hard link): the receiver compares, and asks for what it does not find.

HOLES stands for BLOCKs of zeros that take no room on the sender's disk, never the last one; only of a file that is
said to be sparse, and only if the receiver takes them.

A BUNDLE (mproxy.transfer.bundle) stands for the FILEs of many small files and directories, and for what follows these:
nothing is waited for, only the connection's window holds it up. `made`, of a directory, says that nothing is in it yet.
A file that was in a bundle may be announced once more by itself. Bundles are answered in order. A FILE is looked at
when the bundles before it are. A PACKED_BUNDLE is one whose entries are compressed, if the receiver takes such.

CODED stands for a BLOCK: its data, `length` bytes of them, are written in a shorter way (mproxy.transfer.coding). The
sender does what the receiver's last HELLO says that it can read. One whose HELLO says that it wants SKETCHes gets them
before the WANT of a file of which the receiver has an older one: what its blocks look like. What was made of CODED
blocks, and is not what their digests say, is asked for once more after the END, by a second WANT, and comes in BLOCKs
and another END.

KEEP to REMOVED (mproxy.transfer.deletion_messages) are for a receiver whose HELLO says that it deletes, when everything
has arrived. Each KEEP is answered by EXTRAs, the last of which says so.

LEFT_OUT and TOTAL come at any time before BYE, if the receiver takes them: what of the source is not sent, and how much
all of it is, once that is known.

A RESULT of the sender in place of END says that the source has changed. A root of zeros in END means that the sender
was asked for only a part of the file. A pipe's blocks come in parts (mproxy.transfer.parts). All numbers are
big-endian. Every length is bounded before anything is allocated.
"""

from __future__ import annotations

import enum
import struct
from collections import namedtuple

from mproxy.transfer import deletion_messages
from mproxy.transfer._rolling import KEY_BYTES, SUM_BYTES
from mproxy.transfer.framing import HEADER as HEADER
from mproxy.transfer.framing import MOST_CONTROL_BYTES as MOST_CONTROL_BYTES
from mproxy.transfer.framing import MOST_RANGES as MOST_RANGES
from mproxy.transfer.framing import MOST_TEXT_BYTES, TYPES, pack, pack_ranges, pack_text, parse_ranges
from mproxy.transfer.framing import MessageType as MessageType
from mproxy.transfer.framing import bad as bad
from mproxy.transfer.plain_messages import Answers as Answers
from mproxy.transfer.plain_messages import Block as Block
from mproxy.transfer.plain_messages import Bundle as Bundle
from mproxy.transfer.plain_messages import End as End
from mproxy.transfer.plain_messages import Holes as Holes
from mproxy.transfer.plain_messages import LeftOut as LeftOut
from mproxy.transfer.plain_messages import Total as Total
from mproxy.transfer.tree import DIGEST_BYTES, LEAF_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Self, TypeAlias

    # What `parse_payload` returns.
    Message: TypeAlias = ("ReceiverHello | File | Want | End | Outcome | Holes | Answers | SketchPart | LeftOut | Total"
                          " | deletion_messages.DeletionMessage | None")

TRANSFER_VERSION = 2

# FILE messages that may be unanswered at a time: by everybody, and as many as we take. With small files both sides have
# work at the same time only if there are several batches of them under way.
AHEAD = 64
MOST_AHEAD = 256

MOST_NAME_BYTES = 4096
MOST_INDEX = 1 << 31
MOST_BUNDLE_ENTRIES = 1024
MOST_SKETCH_BLOCKS = 1 << 18  # of one file: 2 MiB of sums
LEAST_SKETCH_BYTES = 1024  # of a block

# The largest file offset (off_t).
MOST_SIZE = (1 << 63) - 1
UNKNOWN_SIZE = (1 << 64) - 1

# A time in nanoseconds before or after 1970, so up to the year 2262. File systems can have times beyond that.
MOST_TIME_NS = (1 << 63) - 1

# Version; of a receiver: files ahead (0: AHEAD), whether it takes holes, attributes, bundles; abilities.
_HELLO = struct.Struct(">HH???B")
_FILE = struct.Struct(">IBBHqQ16s")  # index, kind, flags, mode, mtime (ns), size, identity; then the names
_WANT = struct.Struct(">II")  # index, number of ranges
BLOCK = struct.Struct(f">II{DIGEST_BYTES}s")  # index, number, digest; then the data
BUNDLE = struct.Struct(">I")  # number of entries; then these
PACKED_BUNDLE = struct.Struct(">II")  # number of entries, bytes of these; then a Zstandard frame of them
CODED = struct.Struct(f">II{DIGEST_BYTES}sB3xI")  # index, number, digest, coding, length; then the data, coded
_SKETCH = struct.Struct(f">II{KEY_BYTES}sI")  # index, bytes of a block, key, blocks of the whole; then sums of some
_HOLES = struct.Struct(">III")  # index, first block, number of blocks
_END = struct.Struct(f">I4xQ{DIGEST_BYTES}s")  # index, size, root
_TOTAL = struct.Struct(">Q")  # bytes
_RESULT = struct.Struct(f">IB?2x{DIGEST_BYTES}s")  # index, code, made, root; then text


SPARSE, BY_TIME = 1, 2  # flags of a FILE

# Abilities in a HELLO, each of its own: of a receiver, that it reads a coding, and of a sender, that it uses it.
PACKED, REBUILT = 1, 2  # as codings of a CODED message: compressed; made of an older file
DELETES = 4  # of a receiver: what the sender does not have
NOTES = 8  # of a receiver: it takes LEFT_OUT and TOTAL
PACKED_BUNDLES = 16  # of a receiver: it takes these
LINKS = 32  # of a receiver: bundles may have links (mproxy.transfer.bundle)


class FileKind(enum.IntEnum):
    FILE = 1  # size known, blocks in any order, can continue after an interruption
    DIRECTORY = 2  # no data
    PIPE = 3  # size unknown, blocks in order
    LINK = 4  # symbolic; no data


class Result(enum.IntEnum):
    DONE = 0  # arrived, hash verified, in its place
    EXISTS = 1  # something of that name exists, and there is no --force
    BAD_NAME = 2  # the receiver does not accept such a name
    NO_SPACE = 3
    NO_PERMISSION = 4
    FAILED = 5  # another error of the receiver's system
    CHANGED = 6  # the source changed while it was sent
    DAMAGED = 7  # the hash does not agree
    REFUSED = 8  # not wanted: a second file for one output, a directory for standard output
    UNREADABLE = 9  # the source cannot be read


# By number: calling or searching an enumeration costs more than the rest of a short message.
_KINDS = {kind.value: kind for kind in FileKind}
_RESULTS = {code.value: code for code in Result}

_LEAST_BYTES = {MessageType.HELLO: _HELLO.size, MessageType.FILE: _FILE.size, MessageType.WANT: _WANT.size,
                MessageType.BLOCK: BLOCK.size, MessageType.END: _END.size, MessageType.RESULT: _RESULT.size,
                MessageType.BYE: 0, MessageType.HOLES: _HOLES.size, MessageType.BUNDLE: BUNDLE.size,
                MessageType.ANSWER: 1, MessageType.SKETCH: _SKETCH.size + SUM_BYTES, MessageType.CODED: CODED.size,
                MessageType.LEFT_OUT: 1, MessageType.TOTAL: _TOTAL.size,
                MessageType.PACKED_BUNDLE: PACKED_BUNDLE.size, **deletion_messages.LEAST_BYTES}
_MOST_BYTES = {MessageType.BLOCK: BLOCK.size + LEAF_BYTES, MessageType.BUNDLE: BUNDLE.size + LEAF_BYTES,
               MessageType.PACKED_BUNDLE: PACKED_BUNDLE.size + LEAF_BYTES,
               MessageType.ANSWER: MOST_BUNDLE_ENTRIES, MessageType.CODED: CODED.size + LEAF_BYTES,
               MessageType.LEFT_OUT: MOST_NAME_BYTES + 1 + MOST_TEXT_BYTES, MessageType.TOTAL: _TOTAL.size}

# What is followed by data that go into a buffer of their own; the message itself ends before them.
WITH_BULK = {MessageType.BLOCK: BLOCK.size, MessageType.BUNDLE: BUNDLE.size, MessageType.CODED: CODED.size,
             MessageType.PACKED_BUNDLE: PACKED_BUNDLE.size}

# As many sums as fit into one SKETCH.
_SUMS_AT_ONCE = (MOST_CONTROL_BYTES - _SKETCH.size) // SUM_BYTES * SUM_BYTES


class ReceiverHello(namedtuple("ReceiverHello", "ahead takes_holes takes_attributes takes_bundles abilities",
                               defaults=(0,))):
    """A HELLO message, of a receiver: how many files may be announced ahead, and whether it takes HOLES, extended
    attributes, and bundles; `abilities`: PACKED, REBUILT, NOTES. Of a sender only these count."""

    __slots__ = ()
    ahead: int
    takes_holes: bool
    takes_attributes: bool
    takes_bundles: bool
    abilities: int

    if TYPE_CHECKING:
        def __new__(cls, ahead: int, takes_holes: bool, takes_attributes: bool, takes_bundles: bool,
                    abilities: int = 0) -> Self: ...


class File(namedtuple("File", "index kind mode mtime_ns size identity name other flags attributes",
                      defaults=(b"", 0, b""))):
    """A FILE message: what the sender has. `identity` tells one state of the source from another; `other` is the target
    of a symbolic link, or the name of a file that is the same. BY_TIME: a file of that size and time is the same."""

    __slots__ = ()
    index: int
    kind: FileKind
    mode: int
    mtime_ns: int
    size: int
    identity: bytes
    name: bytes
    other: bytes
    flags: int
    attributes: bytes

    @property
    def sparse(self) -> bool:
        return bool(self.flags & SPARSE)

    @property
    def has_data(self) -> bool:
        """Whether it consists of more than its name."""
        return self.kind in (FileKind.FILE, FileKind.PIPE)

    if TYPE_CHECKING:
        def __new__(cls, index: int, kind: FileKind, mode: int, mtime_ns: int, size: int, identity: bytes, name: bytes,
                    other: bytes = b"", flags: int = 0, attributes: bytes = b"") -> Self: ...


class Want(namedtuple("Want", "index ranges")):
    """A WANT message; ranges are (first block, number of blocks)."""

    __slots__ = ()
    index: int
    ranges: tuple[tuple[int, int], ...]

    if TYPE_CHECKING:
        def __new__(cls, index: int, ranges: tuple[tuple[int, int], ...]) -> Self: ...


class Coded(namedtuple("Coded", "index number digest coding length")):
    """What a CODED message says of its data: the block's digest, how it is coded, and its own length in bytes."""

    __slots__ = ()
    index: int
    number: int
    digest: bytes
    coding: int
    length: int

    if TYPE_CHECKING:
        def __new__(cls, index: int, number: int, digest: bytes, coding: int, length: int) -> Self: ...


class SketchPart(namedtuple("SketchPart", "index block_bytes key count sums")):
    """A SKETCH message: sums of some blocks of the receiver's older file, in order; `count`: blocks of all of it."""

    __slots__ = ()
    index: int
    block_bytes: int
    key: bytes
    count: int
    sums: bytes

    if TYPE_CHECKING:
        def __new__(cls, index: int, block_bytes: int, key: bytes, count: int, sums: bytes) -> Self: ...


class Outcome(namedtuple("Outcome", "index code root text made", defaults=(False,))):
    """A RESULT message. `made`: the directory was made now, so nothing is in it."""

    __slots__ = ()
    index: int
    code: Result
    root: bytes
    text: str
    made: bool

    if TYPE_CHECKING:
        def __new__(cls, index: int, code: Result, root: bytes, text: str, made: bool = False) -> Self: ...


def pack_hello(ahead: int = 0, takes_holes: bool = False, takes_attributes: bool = False,
               takes_bundles: bool = False, abilities: int = 0) -> bytes:
    return pack(MessageType.HELLO, _HELLO.pack(TRANSFER_VERSION, ahead, takes_holes, takes_attributes, takes_bundles,
                                               abilities))


def pack_file(file: File) -> bytes:
    names = file.name
    if file.attributes:
        names = b"\0".join((file.name, file.other, file.attributes))
    elif file.other:
        names = file.name + b"\0" + file.other
    return pack(MessageType.FILE, _FILE.pack(file.index, file.kind, file.flags, *file[2:6]), names)


def pack_want(index: int, ranges: Collection[tuple[int, int]]) -> bytes:
    return pack(MessageType.WANT, _WANT.pack(index, len(ranges)), pack_ranges(ranges))


def pack_block_header(index: int, number: int, digest: bytes, length: int) -> bytes:
    """All of a BLOCK message but its data."""
    return HEADER.pack(MessageType.BLOCK, BLOCK.size + length) + BLOCK.pack(index, number, digest)


def pack_coded_header(coded: Coded, length: int) -> bytes:
    """All of a CODED message but its data, `length` bytes as they are coded."""
    return HEADER.pack(MessageType.CODED, CODED.size + length) + CODED.pack(*coded)


def pack_sketch(index: int, block_bytes: int, key: bytes, sums: bytes) -> bytes:
    """The SKETCH messages of a file: its blocks' sums, SUM_BYTES for each."""
    count = len(sums) // SUM_BYTES
    head = _SKETCH.pack(index, block_bytes, key, count)
    return b"".join(pack(MessageType.SKETCH, head, sums[at:at + _SUMS_AT_ONCE])
                    for at in range(0, len(sums), _SUMS_AT_ONCE))


def pack_holes(index: int, first: int, count: int) -> bytes:
    return pack(MessageType.HOLES, _HOLES.pack(index, first, count))


def pack_end(index: int, size: int, root: bytes) -> bytes:
    return pack(MessageType.END, _END.pack(index, size, root))


def pack_whole(index: int, digest: bytes, data: bytes | bytearray, root: bytes) -> bytes:
    """The BLOCK and END messages of a file of one block."""
    size = len(data)
    return b"".join((pack_block_header(index, 0, digest, size), data, pack_end(index, size, root)))


def pack_result(index: int, code: Result, root: bytes = bytes(DIGEST_BYTES), text: str = "",
                made: bool = False) -> bytes:
    return pack(MessageType.RESULT, _RESULT.pack(index, code, made, root), pack_text(text))


def pack_bundle(count: int, entries: bytes) -> bytes:
    return pack(MessageType.BUNDLE, BUNDLE.pack(count), entries)


def pack_packed_bundle(count: int, length: int, frame: bytes) -> bytes:
    return pack(MessageType.PACKED_BUNDLE, PACKED_BUNDLE.pack(count, length), frame)


def pack_answer(codes: bytes) -> bytes:
    return pack(MessageType.ANSWER, codes)


def pack_left_out(name: bytes, why: str) -> bytes:
    return pack(MessageType.LEFT_OUT, name[:MOST_NAME_BYTES], b"\0", pack_text(why))


def pack_total(size: int) -> bytes:
    return pack(MessageType.TOTAL, _TOTAL.pack(min(size, MOST_SIZE)))


def pack_bye() -> bytes:
    return pack(MessageType.BYE)


def parse_header(data: bytes | memoryview, at: int = 0) -> tuple[MessageType, int]:
    """(MessageType, bytes of payload) of the message at an offset; PeerError if there can be no such message."""
    number, length = HEADER.unpack_from(data, at)
    kind = TYPES.get(number)
    if kind is None:
        raise bad(f"message of unknown type {number}")
    if not _LEAST_BYTES[kind] <= length <= _MOST_BYTES.get(kind, MOST_CONTROL_BYTES):
        raise bad(f"message of type {number} with {length} bytes")
    return kind, length


def parse_payload(kind: MessageType, payload: bytes | memoryview) -> Message:
    """The contents of a message without bulk; PeerError when it is malformed."""
    payload = bytes(payload)
    return _PARSERS[kind](payload)


def _parse_hello(payload: bytes) -> ReceiverHello:
    version: int
    ahead: int
    version, ahead, takes_holes, takes_attributes, takes_bundles, abilities = _HELLO.unpack(payload[:_HELLO.size])
    if version != TRANSFER_VERSION:
        raise bad(f"the peer speaks version {version} of the transfer protocol, this program speaks version"
                  f" {TRANSFER_VERSION}")
    return ReceiverHello(max(AHEAD, min(ahead, MOST_AHEAD)), takes_holes, takes_attributes, takes_bundles, abilities)


def _parse_file(payload: bytes) -> File:
    index, number, flags, *rest = _FILE.unpack(payload[:_FILE.size])
    name, _, more = payload[_FILE.size:].partition(b"\0")
    other, _, attributes = more.partition(b"\0")
    file = File._make((index, _KINDS.get(number), *rest, name, other, flags, attributes))
    if index > MOST_INDEX or file.kind is None or len(name) > MOST_NAME_BYTES or len(other) > MOST_NAME_BYTES:
        raise bad("a malformed FILE message")
    if flags and file.kind != FileKind.FILE:
        raise bad("a malformed FILE message")
    limit = UNKNOWN_SIZE if file.kind == FileKind.PIPE else MOST_SIZE
    if file.size > limit or (file.kind == FileKind.FILE and -(-file.size // LEAF_BYTES) >= 1 << 32):
        raise bad("a file of an impossible size")
    return file


def _parse_want(payload: bytes) -> Want:
    index, count = _WANT.unpack(payload[:_WANT.size])
    return Want(index, parse_ranges(count, payload[_WANT.size:]))


def _parse_sketch(payload: bytes) -> SketchPart:
    index, block_bytes, key, count = _SKETCH.unpack(payload[:_SKETCH.size])
    part = SketchPart(index, block_bytes, key, count, payload[_SKETCH.size:])
    if len(part.sums) % SUM_BYTES or not LEAST_SKETCH_BYTES <= part.block_bytes <= LEAF_BYTES or (
            not len(part.sums) // SUM_BYTES <= part.count <= MOST_SKETCH_BLOCKS):
        raise bad("a malformed sketch")
    return part


def _parse_holes(payload: bytes) -> Holes:
    if len(payload) != _HOLES.size:
        raise bad("a holes message of the wrong length")
    holes = Holes(*_HOLES.unpack(payload))
    if holes.count == 0:
        raise bad("holes of no blocks")
    return holes


def _parse_end(payload: bytes) -> End:
    if len(payload) != _END.size:
        raise bad("an end message of the wrong length")
    return End(*_END.unpack(payload))


def _parse_result(payload: bytes) -> Outcome:
    index, code, made, root = _RESULT.unpack(payload[:_RESULT.size])
    if code not in _RESULTS or len(payload) > _RESULT.size + MOST_TEXT_BYTES:
        raise bad("a malformed result")
    return Outcome(index, _RESULTS[code], root, payload[_RESULT.size:].decode("utf-8", "replace"), made)


def _parse_left_out(payload: bytes) -> LeftOut:
    name, _, why = payload.partition(b"\0")
    return LeftOut(name, why.decode("utf-8", "replace"))


def _parse_total(payload: bytes) -> Total:
    total = Total(*_TOTAL.unpack(payload))
    if total.size > MOST_SIZE:
        raise bad("a total that is impossible")
    return total


def _parse_bye(payload: bytes) -> None:
    if payload:
        raise bad("a goodbye with a payload")


_PARSERS: dict[MessageType, Callable[[bytes], Message]] = {
    MessageType.HELLO: _parse_hello, MessageType.FILE: _parse_file, MessageType.WANT: _parse_want,
    MessageType.END: _parse_end, MessageType.RESULT: _parse_result, MessageType.BYE: _parse_bye,
    MessageType.HOLES: _parse_holes, MessageType.ANSWER: Answers,
    MessageType.SKETCH: _parse_sketch, MessageType.LEFT_OUT: _parse_left_out, MessageType.TOTAL: _parse_total,
    **deletion_messages.PARSERS}
