"""Files of one block, written and finished in one go. On a worker's thread."""

from __future__ import annotations

from mproxy.transfer.partial import finish_together
from mproxy.transfer.workers import tried

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.transfer.arrival import Arrival
    from mproxy.transfer.arriving import ArrivingFile
    from mproxy.transfer.messages import Block, End
    from mproxy.transfer.workers import Tried
    # A file, what it is received into, its only block, that block's data and the END message.
    Finishing = tuple[Arrival, ArrivingFile, Block, memoryview, End]
    # Whether its only block was good; the root of the whole, None if that is not the sender's.
    Written = tuple[bool, bytes | None]


def finish_whole(target: ArrivingFile, block: Block, data: memoryview, end: End) -> Written:
    """Write the only block of a file and finish it. On a worker's thread."""
    good = target.write_block(block.number, data, block.digest)
    return good, target.finish(end.size, end.root) if good else None


def finish_all(some: list[Finishing]) -> list[Tried[Written]]:
    """As finish_whole, of small files."""
    roots = finish_together([(target, data, block.digest, end) for _arriving, target, block, data, end in some])
    return [((True, root), None) if root is not None else tried(finish_whole, *one[1:])
            for one, root in zip(some, roots, strict=True)]
