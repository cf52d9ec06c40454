"""Small files that lie beside each other in a directory, as one: what is found, read, sent and answered together.

A tree has many thousands of them, and nearly all of them arrive without anything to be said. So nothing is made of each
but its name, until something is out of the ordinary with one of them (it has changed, is there already, cannot be
stored), or somebody wants to know of each: then a run is taken apart into the sources that it stands for.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from mproxy.transfer.messages import FileKind, Outcome, Result
from mproxy.transfer.source_file import UNKNOWN_ROOT, SourceFile
from mproxy.transfer.tree import DIGEST_BYTES


class FileRun:
    """`names` in the directory `path`, which the receiver calls `above`; `sizes`: of the files as they were found, and
    once they are read, as they are sent. `follow`, `by_time`, `with_attributes`: as of SourceFile."""

    kind = FileKind.FILE
    same_as = b""

    def __init__(self, path: str, above: bytes, names: list[bytes], sizes: Sequence[int], expected_bytes: int, *,
                 follow: bool = False, by_time: bool = False, with_attributes: bool = False) -> None:
        self.path, self.name, self.names = path, above, names
        self.sizes, self.expected_bytes = sizes, expected_bytes
        self.roots = b""  # of all, once they are read
        self.follows, self.by_time, self.with_attributes = follow, by_time, with_attributes

    @property
    def count(self) -> int:
        """How many files they are."""
        return len(self.names)

    @property
    def size(self) -> int:
        """Bytes of all of them, as they were read."""
        return sum(self.sizes)

    def root_of(self, number: int) -> bytes:
        """The hash of one of them; zeros: it was not read."""
        return self.roots[number * DIGEST_BYTES:(number + 1) * DIGEST_BYTES] or UNKNOWN_ROOT

    def sources(self) -> list[SourceFile]:
        """Each of them by itself."""
        above, name_above = os.path.join(self.path, ""), self.name + b"/"
        return [SourceFile(name_above + name, FileKind.FILE, above + os.fsdecode(name), -1, self.follows, size, b"",
                           self.by_time, self.with_attributes)
                for name, size in zip(self.names, self.sizes, strict=True)]

    def arrived(self) -> list[SourceFile]:
        """Each of them by itself, when all have arrived."""
        sources = self.sources()
        for number, source in enumerate(sources):
            source.size = source.expected_bytes
            source.outcome = Outcome(number, Result.DONE, self.root_of(number), "")
        return sources
