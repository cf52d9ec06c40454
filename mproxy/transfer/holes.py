"""Holes: parts of a file that take no room on the disk and read as zeros (lseek(2), SEEK_DATA)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator

from mproxy.transfer._disk import write_at
from mproxy.transfer.tree import LEAF_BYTES, block_count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.transfer._disk import Status
    from mproxy.transfer.arriving import Data

PAGE_BYTES = 4096  # the smallest hole that is kept
_ZEROS = bytes(LEAF_BYTES)


def has_holes(status: Status) -> bool:
    """Whether a file takes less room than it has bytes. A compressed one does, too, and is none the worse for it."""
    return status.st_blocks * 512 < status.st_size


def next_data(fd: int, at: int, size: int) -> int:
    """Where the first data at or behind offset `at` are; `size` if there are none. `at` where nobody knows."""
    try:
        return os.lseek(fd, at, os.SEEK_DATA)
    except OSError as error:
        return size if error.errno == errno.ENXIO else at


def is_hole(fd: int, number: int, size: int) -> bool:
    """Whether there is nothing on the disk of block `number`, which is not the last."""
    return next_data(fd, number * LEAF_BYTES, size) >= (number + 1) * LEAF_BYTES <= os.fstat(fd).st_size


def pieces(fd: int, size: int, ranges: Iterable[tuple[int, int]]) -> Iterator[int | range]:
    """The numbers of the blocks in `ranges`, (first, count); those of a hole, without the last block, as a range."""
    last = block_count(size) - 1
    for first, count in ranges:
        number, end = first, first + count
        while number < end:
            behind = min(next_data(fd, number * LEAF_BYTES, size) // LEAF_BYTES, end, last)
            if behind > number:
                yield range(number, behind)
                number = behind
            else:
                yield number
                number += 1


def write_with_holes(fd: int, data: Data, at: int) -> None:
    """Write `data` where there is nothing yet: all but the pages that are zeros."""
    view = memoryview(data)
    begin = 0
    for here in range(0, len(view), PAGE_BYTES):
        page = view[here:here + PAGE_BYTES]
        if bytes(page) == _ZEROS[:len(page)]:
            write_at(fd, view[begin:here], at + begin)
            begin = here + len(page)
    write_at(fd, view[begin:], at + begin)


def fill_with_zeros(fd: int, number: int) -> None:
    """Have zeros in a block where something else may be."""
    write_at(fd, _ZEROS, number * LEAF_BYTES)
