"""The receiver's part in CODED blocks: which it reads, the older files that they are rebuilt from, and what becomes of
a block that was rebuilt wrongly."""

from __future__ import annotations

from mproxy.ground.errors import MproxyError
from mproxy.transfer import messages, zstd
from mproxy.transfer.basis import LEAST_BYTES, SKETCH_BYTES_AHEAD
from mproxy.transfer.coding import decode, whole_piece
from mproxy.transfer.messages import MOST_RANGES, PACKED, REBUILT, FileKind, bad
from mproxy.transfer.tree import LEAF_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.transfer.arrival import Arrival
    from mproxy.transfer.arriving import Data
    from mproxy.transfer.destinations import Destination
    from mproxy.transfer.messages import Coded, File, ReceiverHello
    from mproxy.transport._link import Link


class Rebuilding:
    """Of one sender."""

    def __init__(self, link: Link, destination: Destination) -> None:
        self._link, self._destination = link, destination
        self.abilities = REBUILT * destination.offers_sketches  # as our HELLO says
        self._wants_sketches = False  # the sender does
        self._sketch_bytes = 0  # that it has to keep

    def take_hello(self, hello: ReceiverHello) -> bool:
        """What the sender would like to use. Whether it has to be told once more what we read: only who would compress
        makes us import what that needs."""
        self._wants_sketches = bool(hello.abilities & self.abilities & REBUILT)
        if not hello.abilities & PACKED & ~self.abilities:
            return False
        try:
            zstd.load()
        except MproxyError:
            return False
        self.abilities |= PACKED
        return True

    def check(self, arriving: Arrival, block: Coded) -> int:
        """The length of a block; PeerError unless there can be such a one. A few bytes may become a whole block, so
        each is worth the work once."""
        arriving.coded_blocks += 1
        if not block.coding or block.coding & ~self.abilities or block.length > LEAF_BYTES or (
                block.coding & REBUILT and arriving.basis is None) or (
                arriving.file.kind == FileKind.FILE and arriving.coded_blocks > arriving.blocks):
            raise bad("a block in a coding that was not agreed on")
        return block.length

    def is_likely_changed(self, file: File) -> bool:
        """Whether a file of that size is here which has another time, so that looking for what has changed does not
        wait until both sides have read and hashed all of it. If nothing has, little is sent all the same. On a worker's
        thread."""
        return self._may_rebuild(file) and not file.other and self._destination.has_other_time(file)

    def _may_rebuild(self, file: File) -> bool:
        return self._wants_sketches and file.kind == FileKind.FILE and file.size >= LEAST_BYTES

    def open_basis(self, arriving: Arrival) -> None:
        """Look whether there is an older file that it can be rebuilt from. On a worker's thread."""
        basis = self._destination.open_basis(arriving.file) if self._may_rebuild(arriving.file) else None
        if basis is None:
            return
        try:
            basis.look(self._destination.spread, lambda: arriving.settled)
        except OSError:
            basis.close()  # then it is sent whole
        except BaseException:
            basis.close()
            raise
        else:
            arriving.basis = basis

    def send_sketch(self, arriving: Arrival) -> None:
        """Tell the sender what the older file looks like, if there is one and the sender has room for that."""
        basis = arriving.basis
        if basis is None:
            return
        if not basis.sums or self._sketch_bytes + basis.sketch_bytes > SKETCH_BYTES_AHEAD:
            self.close_basis(arriving)
            return
        self._sketch_bytes += basis.sketch_bytes
        arriving.is_sketched = True
        self._link.send(messages.pack_sketch(arriving.file.index, basis.block_bytes, basis.key, basis.sums))
        basis.sums = b""

    def close_basis(self, arriving: Arrival) -> None:
        """It is not needed any more."""
        basis, arriving.basis = arriving.basis, None
        if basis is not None:
            self._sketch_bytes -= basis.sketch_bytes * arriving.is_sketched
            basis.close()

    def ask_again(self, arriving: Arrival) -> None:
        """Ask for what was rebuilt wrongly."""
        ranges: list[tuple[int, int]] = []
        for number in sorted(arriving.wrong):
            if ranges and (sum(ranges[-1]) == number or len(ranges) == MOST_RANGES):
                ranges[-1] = ranges[-1][0], number + 1 - ranges[-1][0]
            else:
                ranges.append((number, 1))
        arriving.wrong.clear()
        arriving.end, arriving.asked_again = None, True
        self._link.send(messages.pack_want(arriving.file.index, ranges))


def write_coded(arriving: Arrival, block: Coded, data: Data) -> bool:
    """Whether the block was good, as far as is known; PeerError for what no sender writes. On a worker's thread."""
    target, basis = arriving.target, arriving.basis
    assert target is not None  # blocks are asked for when it is open
    offset = whole_piece(block, data)
    if offset is not None and basis is not None and target.copy_block(block.number, basis.fd, offset, block.digest):
        return True
    decoded = decode(block, data, basis.fd if basis is not None else -1)
    return decoded is not None and target.write_block(block.number, decoded, block.digest, bool(block.coding & REBUILT))


def note_wrong(arriving: Arrival, block: Coded) -> bool:
    """Whether a block that is not what its digest says can be asked for once more: sums have met, or the older file has
    changed meanwhile."""
    if not block.coding & REBUILT or arriving.asked_again:
        return False
    arriving.wrong.add(block.number)
    return True
