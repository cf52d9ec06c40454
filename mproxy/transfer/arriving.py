"""What a file is received into: one interface, whatever is there already and wherever it goes."""

from __future__ import annotations

from collections.abc import Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    Data = bytes | bytearray | memoryview


class ArrivingFile:
    """`begin` first; `close`, or `abandon`, at last, in every case. Blocks come from any thread, unless `in_order`."""

    in_order = False
    kept_blocks = 0  # that were there from an earlier attempt

    def begin(self) -> Sequence[tuple[int, int]]:
        """(first block, number of blocks) of all that is missing. FileExistsError when the name is taken."""
        raise NotImplementedError

    def write_block(self, number: int, data: Data, digest: bytes) -> bool:
        """Write a block whose digest must be `digest`; False when it is another."""
        raise NotImplementedError

    def finish(self, size: int, digest: bytes) -> bytes | None:
        """All is there: give it its name; the root. None: it is not the sender's, and nothing is kept."""
        raise NotImplementedError

    def discard(self) -> None:
        """Keep nothing of it for another attempt."""

    def cancel(self) -> None:
        """Make what takes long end soon, with Cancelled. From any thread."""

    def abandon(self) -> None:
        """Close; what has arrived stays for the next attempt, if it has something to go on with."""
        self.close()

    def close(self) -> None:
        """Close the descriptors."""
        raise NotImplementedError
