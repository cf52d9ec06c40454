"""What a file is received into: one interface, wherever the file goes and whatever is there already."""

from __future__ import annotations

from collections.abc import Sequence

from mproxy.ground.errors import MproxyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    Data = bytes | bytearray | memoryview


class Unlike(MproxyError):
    """Blocks that were made from another file are not what they should be: they are missing."""

    def __init__(self, numbers: set[int]) -> None:
        super().__init__("the older file at the receiver has changed meanwhile: send it again")
        self.numbers = numbers


class ArrivingFile:
    """First `begin`; at the end, always, `close` or `abandon`. Blocks come from any thread, unless `in_order`."""

    in_order = False
    kept_blocks = 0  # that were there from an earlier attempt

    def begin(self) -> Sequence[tuple[int, int]]:
        """(first block, number of blocks) of all that is missing. FileExistsError when the name is taken."""
        raise NotImplementedError

    def write_block(self, number: int, data: Data, digest: bytes, is_rebuilt: bool = False) -> bool:
        """Write a block whose digest must be `digest`. False when it is another; what is read again before the file
        gets its name may leave that to `finish`. `is_rebuilt`: from another file, as with `copy_block`."""
        raise NotImplementedError

    def copy_block(self, _number: int, _fd: int, _offset: int, _digest: bytes) -> bool:
        """Have as a block what another file holds at an offset, and what should have `digest`: whether it does is found
        out by `unlike_rebuilt`, or by `finish`, which raises Unlike. False: it cannot be copied, and nothing has
        changed."""
        return False

    def unlike_rebuilt(self) -> set[int]:
        """The numbers of those made from another file since the last call that are not what they should be, and so are
        missing."""
        return set()

    def write_holes(self, first: int, count: int) -> None:
        """These blocks, none of which is the last, are zeros: nothing is on the sender's disk. Only of a sparse file,
        and not of a destination that takes no holes."""
        raise NotImplementedError

    def finish(self, size: int, digest: bytes) -> bytes | None:
        """All has arrived: give it its name; returns the root. None: that is not the sender's, and nothing is kept."""
        raise NotImplementedError

    def discard(self) -> None:
        """Keep nothing of it for another attempt."""

    def cancel(self) -> None:
        """Have long work end soon, with Cancelled. From any thread."""

    def abandon(self) -> None:
        """Close; what has arrived is kept for the next attempt, if that can continue from it."""
        self.close()

    def close(self) -> None:
        """Close the descriptors."""
        raise NotImplementedError
