"""Links that arrive: symbolic ones, and further names of files that are here (hard links)."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from mproxy.transfer._disk import find
from mproxy.transfer.arriving import ArrivingFile
from mproxy.transfer.file_names import PART
from mproxy.transfer.partial import check_free
from mproxy.transfer.present import Differs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.transfer._disk import Status
    from mproxy.transfer.arriving import Data
    from mproxy.transfer.messages import File
    from mproxy.transfer.present import PresentFile


def is_same(status: Status, other: Status | None) -> bool:
    """Whether both are of one file."""
    return other is not None and (status.st_dev, status.st_ino) == (other.st_dev, other.st_ino)


def make_link(directory: int, name: bytes, file: File, force: bool) -> None:
    """Make the symbolic link that `file` announces, unless it is there. OSError, and all that `check_free` raises."""
    found = find(directory, name)
    there = found is not None and stat.S_ISLNK(found.st_mode) and os.readlink(name, dir_fd=directory) == file.other
    if not there:
        check_free(found, file, force)
        if found is None:
            os.symlink(file.other, name, dir_fd=directory)
        else:
            _replace(directory, name, file.other)
    try:
        os.utime(name, ns=(file.mtime_ns, file.mtime_ns), dir_fd=directory, follow_symlinks=False)
    except OSError:
        pass  # it is another user's, or the file system has no times for links


def _replace(directory: int, name: bytes, target: bytes) -> None:
    fresh = b"." + os.urandom(12).hex().encode() + PART
    os.symlink(target, fresh, dir_fd=directory)
    try:
        os.rename(fresh, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        os.unlink(fresh, dir_fd=directory)
        raise


class SecondName(ArrivingFile):
    """Another name, in the directory of a descriptor, for a file that is here and has arrived under its first name: it
    gets it when the contents turn out to be the sender's. It takes over the descriptor, and `present`."""

    def __init__(self, present: PresentFile, directory: int, name: bytes) -> None:
        self._present, self._directory, self._name = present, directory, name
        self.kept_blocks = present.kept_blocks

    def begin(self) -> Sequence[tuple[int, int]]:
        return self._present.begin()

    def write_block(self, _number: int, _data: Data, _digest: bytes, _is_rebuilt: bool = False) -> bool:
        """Never called: no blocks are requested."""
        return False

    def finish(self, size: int, digest: bytes) -> bytes:
        """The root; Differs when the name has to get a file of its own."""
        try:
            found = self._present.finish(size, digest)
        except FileExistsError:
            raise Differs("the file of the other name is a different one") from None
        try:
            self._present.give_name(self._directory, self._name)
        except FileExistsError:
            raise
        except OSError as error:
            raise Differs(error.strerror or "no hard links here") from None
        return found

    def cancel(self) -> None:
        self._present.cancel()

    def close(self) -> None:
        self._present.close()
        if self._directory >= 0:
            os.close(self._directory)
        self._directory = -1
