"""What blocks and bundles are received into: a bounded number of buffers for each sender."""

from __future__ import annotations

from mproxy.transfer.arrival import SMALL_BYTES
from mproxy.transfer.messages import MOST_AHEAD
from mproxy.transfer.tree import LEAF_BYTES

BUFFERS = 6  # of a mebibyte each


class BlockBuffers:
    """BUFFERS large ones, which are kept, and MOST_AHEAD small ones."""

    def __init__(self) -> None:
        self._free: list[bytearray | None] = [None] * BUFFERS
        self._small = 0  # how many are busy

    def take(self, length: int) -> bytearray | None:
        """One of that many bytes or more; None while all are busy."""
        if length <= SMALL_BYTES and self._small < MOST_AHEAD:
            self._small += 1
            return bytearray(length)
        if not self._free:
            return None
        return self._free.pop() or bytearray(LEAF_BYTES)

    def give(self, buffer: bytearray) -> None:
        """It is free again."""
        if len(buffer) <= SMALL_BYTES:
            self._small -= 1
        else:
            self._free.append(buffer)


def buffer_of(data: memoryview) -> bytearray:
    """The buffer that a block was received into."""
    buffer = data.obj
    assert isinstance(buffer, bytearray)
    return buffer
