"""What a keeper has in memory of the programs that it consists of.

Where memory is short the kernel ends the process that has most, and counts what is mapped of files, too: libraries and
the interpreter. A keeper has touched more of them at its start than its worker does later, and would be taken before a
worker with little to do; with a keeper everything ends, with a worker nothing does. It waits, and needs none of it.
"""

from __future__ import annotations

import contextlib

from mproxy.io._process import drop_pages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class ProgramText:
    """Code and constants of this process. What is where is looked up at once: later its table of descriptors is a
    worker's, too, who would close what is open for a moment."""

    def __init__(self) -> None:
        self._places: list[tuple[int, int]] = []  # (address, bytes)
        with contextlib.suppress(OSError), open("/proc/self/smaps", encoding="utf-8", errors="surrogateescape") as file:
            self._find(file)

    def _find(self, lines: Iterable[str]) -> None:
        """Mappings of files that are not written to, and of which nothing differs from the file: of each a line with
        its place first, then one each with what it has (proc_pid_smaps(5))."""
        place = ""
        for line in lines:
            if not line[0].isupper():
                where, rights, _offset, _device, inode, *_path = line.split(None, 5)
                place = where if rights in ("r-xp", "r--p") and inode != "0" else ""
            elif place and line.startswith("Anonymous:") and line.split()[1] == "0":
                start, end = (int(word, 16) for word in place.split("-"))
                self._places.append((start, end - start))

    def let_go(self) -> None:
        """Have none of it in memory; what runs next comes back by itself."""
        for start, size in self._places:
            drop_pages(start, size)
