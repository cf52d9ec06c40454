"""A pipe's blocks come in parts, so that even a few bytes arrive at once.

A part is a BLOCK message of the block it belongs to; its data follow those of the parts before it, and its digest is
that of the block so far. The next block begins when the one before is full. The pipe ends with a part whose digest is
that of a last block; it is usually empty, because the end is known only when there is no more to read.
"""

from __future__ import annotations

from mproxy.transfer.tree import LEAF_BYTES, leaf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.transfer.arriving import Data


class Parts:
    """The block that is arriving, or being sent."""

    def __init__(self) -> None:
        self.number = 0
        self.ended = False  # the last part has arrived
        self._data = bytearray()

    def add(self, number: int, data: Data, digest: bytes) -> int | None:
        """Where in the pipe the data belong, in bytes; None when they are damaged or out of order."""
        if self.ended or not self._begin(number) or len(self._data) + len(data) > LEAF_BYTES:
            return None
        at = number * LEAF_BYTES + len(self._data)
        self._data += data
        if leaf(self._data, number, False) == digest:
            return at if data else None  # parts without data cost us a hash, and nobody needs them but at the end
        self.ended = leaf(self._data, number, True) == digest
        return at if self.ended else None

    def make(self, data: Data, is_last: bool) -> tuple[int, bytes]:
        """(number of the block, digest) of the next part; the last one has no data."""
        if len(self._data) == LEAF_BYTES and not is_last:
            self._begin(self.number + 1)
        self._data += data
        self.ended = is_last
        return self.number, leaf(self._data, self.number, is_last)

    @property
    def room(self) -> int:
        """Bytes that the next part may have."""
        return LEAF_BYTES - len(self._data) % LEAF_BYTES

    def _begin(self, number: int) -> bool:
        """Whether a part of that block may come next."""
        if number == self.number + 1 and len(self._data) == LEAF_BYTES:
            self.number, self._data = number, bytearray()
        return number == self.number
