"""The older file that a changed one is rebuilt from: its sums go to the sender, pieces of it into the new file."""

from __future__ import annotations

import math
import os
import stat
from functools import cached_property, partial

from mproxy.transfer._disk import read_at
from mproxy.transfer._rolling import KEY_BYTES, SUM_BYTES, sums_of
from mproxy.transfer.holes import next_data
from mproxy.transfer.messages import LEAST_SKETCH_BYTES, MOST_SKETCH_BLOCKS
from mproxy.transfer.partial import Cancelled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mproxy.transfer.partial import Spread

LEAST_BYTES = 1 << 16  # of the old file and of the new one: less is sent sooner than compared
MOST_BLOCK_BYTES = 1 << 17
SKETCH_BYTES_AHEAD = 32 << 20  # of all files of a sender at a time; one for which there is no room is sent whole
_AT_ONCE_BYTES = 4 << 20  # that a thread sums up in one go
_READ_BYTES = 1 << 19  # and reads: what is summed up next is still in the processor's cache

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def block_bytes_for(size: int) -> int:
    """How long the blocks of a file of `size` bytes are: as many blocks as bytes in one, about, as each block costs
    sums, and each change a block."""
    return min(MOST_BLOCK_BYTES, max(LEAST_SKETCH_BYTES, math.isqrt(size) + 7 & ~7))


class Basis:
    """The file of a descriptor, which it takes over, in its first `size` bytes."""

    def __init__(self, fd: int, size: int) -> None:
        self.fd, self._size = fd, size
        self.block_bytes = block_bytes_for(size)
        self.key = os.urandom(KEY_BYTES)
        self.sums = b""  # once `look` has been called

    @property
    def sketch_bytes(self) -> int:
        """What its sums take, here and at the sender."""
        return min(self._size // self.block_bytes, MOST_SKETCH_BLOCKS) * SUM_BYTES

    def look(self, spread: Spread, is_over: Callable[[], bool]) -> None:
        """Sum it up. OSError; Cancelled as soon as `is_over`. On a worker's thread."""
        step = _AT_ONCE_BYTES // self.block_bytes
        count = self.sketch_bytes // SUM_BYTES
        found = spread(partial(self._sums_in, is_over), [
            range(first, min(first + step, count)) for first in range(0, count, step)])
        self.sums = b"".join(sums for _first, sums in sorted(found))

    def _sums_in(self, is_over: Callable[[], bool], blocks: range) -> tuple[int, bytes]:
        if is_over():
            raise Cancelled("no longer wanted")
        length, at = len(blocks) * self.block_bytes, blocks.start * self.block_bytes
        if next_data(self.fd, at, self._size) >= at + length:
            return blocks.start, self._zero_sums * len(blocks)
        step = max(1, _READ_BYTES // self.block_bytes)
        buffer = memoryview(bytearray(min(step, len(blocks)) * self.block_bytes))
        sums = []
        for first in range(blocks.start, blocks.stop, step):
            data = buffer[:min(step, blocks.stop - first) * self.block_bytes]
            read_at(self.fd, data, first * self.block_bytes)
            sums.append(sums_of(data, self.block_bytes, self.key))
        return blocks.start, b"".join(sums)

    @cached_property
    def _zero_sums(self) -> bytes:
        """Of a block in a hole."""
        return sums_of(bytes(self.block_bytes), self.block_bytes, self.key)

    def close(self) -> None:
        """Close the descriptor."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


def open_basis(directory: int, name: bytes) -> Basis | None:
    """The file `name` in the directory of a descriptor; None if it cannot serve."""
    try:
        fd = os.open(name, _OPEN, dir_fd=directory)
    except OSError:
        return None
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_size < LEAST_BYTES:
        os.close(fd)
        return None
    return Basis(fd, status.st_size)
