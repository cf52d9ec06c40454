"""The directories that one sender has announced: they get their times when everything in them has arrived."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.transfer.messages import File

MOST_DIRECTORY_BYTES = 16 << 20  # enough for a million with short names
DIRECTORY_BYTES = 256  # what one takes besides its name


class ArrivedDirectories:
    """`all`: each, and whether it was made here, from the top down."""

    def __init__(self) -> None:
        self.all: list[tuple[File, bool]] = []
        self._bytes = 0

    def note(self, file: File, made: bool) -> bool:
        """One more; False: there are too many."""
        self._bytes += len(file.name) + len(file.attributes) + DIRECTORY_BYTES
        if self._bytes > MOST_DIRECTORY_BYTES:
            return False
        self.all.append((file, made))
        return True
