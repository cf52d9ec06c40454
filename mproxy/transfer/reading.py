"""What a sender has read, or is reading, and how it is made ready to be sent."""

from __future__ import annotations

import errno

from mproxy.transfer._disk import read_all
from mproxy.transfer.coding import LEAST_PACKED_BYTES
from mproxy.transfer.messages import PACKED, REBUILT
from mproxy.transfer.tree import leaf
from mproxy.transfer.workers import tried

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.transfer.arriving import Data
    from mproxy.transfer.source_file import ReadBlock, SourceFile
    from mproxy.transfer.squeezer import Squeezer
    from mproxy.transfer.workers import Tried
    ReadWhole = tuple[bytearray, bytes]  # data, digest
    CodedBlock = tuple[int, Data, int]  # coding, data, and bytes of these before they were compressed


class Reading:
    """A block, or a small file, that is being read or waits to be sent."""

    __slots__ = ("block", "buffer", "coded", "done", "error", "holes", "index", "source", "whole")

    def __init__(self, source: SourceFile, index: int) -> None:
        self.source = source
        self.index = index
        self.buffer: bytearray | None = None    # free again once its data is in the connection's ring
        self.done = False                       # it was read
        self.holes: range | None = None         # or blocks of which there is nothing to read
        self.coded: CodedBlock | None = None    # in place of the block's data
        self.block: ReadBlock | None = None     # None, and no `whole`: behind the end
        self.whole: ReadWhole | None = None     # of a small file: all of it
        self.error: Exception | None = None     # or what went wrong


def read_whole_files(some: list[Reading]) -> list[Tried[ReadWhole]]:
    """Read small files. On a worker's thread."""
    contents = read_all([(reading.source.fd, reading.source.status) for reading in some])
    return [tried(_read_whole, reading.source, data) for reading, data in zip(some, contents, strict=True)]


def _read_whole(source: SourceFile, data: bytearray | None) -> ReadWhole:
    """`data` None: it could not be read together with others."""
    if data is None:
        data = bytearray(source.size)
        source.read_block(0, data)
        source.check_unchanged()
    return data, leaf(data, 0, True)


def code_block(data: Data, pieces: bytes | None, squeezer: Squeezer | None) -> CodedBlock | None:
    """The data of a block in a shorter way, if there is one; `pieces` is one. On a worker's thread."""
    coding = 0
    if pieces is not None:
        coding, data = REBUILT, pieces
    length = len(data)
    if squeezer is not None and length >= LEAST_PACKED_BYTES:
        packed = squeezer.squeeze(data)
        if packed is not None:
            coding, data = coding | PACKED, packed
    return (coding, data, length) if coding else None


def why_unread(error: Exception) -> str:
    """What went wrong with a file, for people."""
    if not isinstance(error, OSError):
        return str(error)
    return "it is now a symbolic link" if error.errno == errno.ELOOP else error.strerror or str(error)
