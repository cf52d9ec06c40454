"""A file between its FILE and its RESULT, as the receiver knows it."""

from __future__ import annotations

from mproxy.transfer.messages import FileKind, bad
from mproxy.transfer.tree import DIGEST_BYTES, block_count, block_length

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.transfer.arriving import ArrivingFile
    from mproxy.transfer.basis import Basis
    from mproxy.transfer.messages import End, File, Holes, Result

SMALL_BYTES = 16384  # a block this small needs no buffer of a mebibyte; there are never more than MOST_AHEAD of them


class Arrival:
    """`behind`: the number of bundles that have to be stored before it is looked at."""

    def __init__(self, file: File, behind: int = 0) -> None:
        self.file, self.behind = file, behind
        self.target: ArrivingFile | None = None
        self.candidate: ArrivingFile | None = None  # the target while it is being opened
        self.anew = False  # a different file has its name, and is to be replaced
        self.asked = False  # whether blocks were asked for
        self.next_number = 0  # of a pipe's blocks
        self.pending = 0  # jobs that workers are doing for it
        self.failure: tuple[Result, str] | None = None  # (Result, text)
        self.end: End | None = None  # the END message
        self.hole_blocks = 0  # that the sender has named
        self.coded_blocks = 0  # that have come coded
        self.basis: Basis | None = None  # the older file, if it is to be rebuilt from that
        self.is_sketched = False  # its sums were sent
        self.wrong: set[int] = set()  # coded blocks that are not what their digests say
        self.asked_again = False  # for these
        self.looks = 0  # how often another transfer was found writing it
        self.holds = False  # a part of the Allowance
        self.settled = False
        self.blocks = block_count(file.size) if file.kind == FileKind.FILE else 0
        self.is_small = not file.has_data or (file.kind == FileKind.FILE and file.size <= SMALL_BYTES)
        self.is_plain = self.is_small and file.kind == FileKind.FILE and not file.other and not file.attributes
        self.digest_bytes = self.blocks * DIGEST_BYTES  # memory for its digests, needed before any arrives

    # ---- what the sender says of it: PeerError when it must not

    def take_block(self, number: int, length: int) -> None:
        """Block `number`, of so many bytes, comes next."""
        if not self.asked or self.end is not None:
            raise bad("a block of a file that was not requested")
        if self.file.kind == FileKind.PIPE:
            if number not in (self.next_number, self.next_number - 1):
                raise bad("blocks of a pipe out of order")
            self.next_number = number + 1
        elif number >= block_count(self.file.size) or length != block_length(self.file.size, number):
            raise bad("a block outside its file")

    def take_holes(self, holes: Holes, allowed: bool) -> ArrivingFile:
        """Some of its blocks are holes; returns what they are to be made in. `allowed`: we take more."""
        self.hole_blocks += holes.count
        # Between two holes there is data, or the end of a range that was asked for.
        if (not self.asked or self.target is None or self.end is not None or not self.file.sparse or not allowed
                or holes.first + holes.count >= self.blocks or self.hole_blocks >= self.blocks):
            raise bad("holes of a file that was not requested, or that has none there")
        return self.target

    def take_end(self, end: End) -> None:
        """All of it was sent."""
        if self.target is None or self.end is not None:
            raise bad("the end of a file that was not requested")
        self.end = end
