"""A file that exists under the name of one that is announced: if it is the same it need not be sent again.

Sizes and times prove nothing: the receiver asks for no block, the sender answers with the hash of its whole file, and
meanwhile the one here is hashed.
"""

from __future__ import annotations

import errno
import os
import stat

from mproxy.ground.errors import MproxyError
from mproxy.transfer._disk import find, is_named, link_open, remove_named, status_of
from mproxy.transfer.arriving import ArrivingFile
from mproxy.transfer.attributes import AttributesError, give_attributes
from mproxy.transfer.file_names import temporary_names
from mproxy.transfer.holes import is_hole
from mproxy.transfer.messages import FileKind
from mproxy.transfer.partial import Cancelled, one_by_one, read_block, spans
from mproxy.transfer.tree import LEAF_BYTES, ZERO_DIGEST, block_count, block_length, leaf, root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.transfer._disk import Status
    from mproxy.transfer.arriving import Data
    from mproxy.transfer.messages import File
    from mproxy.transfer.partial import Spread


class Differs(MproxyError):
    """The existing file is not the one announced, and may be replaced."""


def may_be(status: Status | None, file: File) -> bool:
    """Whether the file with `status` (None: there is none) may be the one announced."""
    return (status is not None and file.kind == FileKind.FILE
            and stat.S_ISREG(status.st_mode) and status.st_size == file.size)


def has_state(directory_fd: int, name: bytes) -> bool:
    """Whether there may be an interrupted transfer to this name."""
    return find(directory_fd, temporary_names(name)[1]) is not None


class PresentFile(ArrivingFile):
    """For an existing file what PartialFile is for one that arrives."""

    def __init__(self, directory_fd: int, name: bytes, file: File, *, force: bool = False, umask: int = 0,
                 spread: Spread = one_by_one, gets_names: bool = False) -> None:
        """`gets_names`: meanwhile it may get more of them (hard links), which changes its st_ctime."""
        self._directory = directory_fd
        self._name = name
        self._file = file
        self._force = force
        self._umask = umask
        self._spread = spread
        self._gets_names = gets_names
        self._fd = -1
        self._cancelled = False
        self.kept_blocks = block_count(file.size)

    def begin(self) -> list[tuple[int, int]]:
        """As far as is known no block is missing."""
        self._fd = os.open(self._name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC,
                           dir_fd=self._directory)
        return []

    def write_block(self, _number: int, _data: Data, _digest: bytes, _is_rebuilt: bool = False) -> bool:
        """Never called: no blocks are requested."""
        return False

    def finish(self, size: int, digest: bytes) -> bytes:
        """The root, if the file is the same; else FileExistsError, or Differs if it may be replaced."""
        before = status_of(self._fd)
        if size == before.st_size == self._file.size and self._root() == digest and self._is_still(before):
            if self._force:
                self._dress()
            self._remove_leftovers()
            return digest
        if self._force:
            raise Differs("the existing file is a different one")
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    def _root(self) -> bytes:
        digests = dict(pair for found in self._spread(self._hash, spans(self.kept_blocks)) for pair in found)
        return root(b"".join(digests[number] for number in range(self.kept_blocks)))

    def _hash(self, numbers: range) -> list[tuple[int, bytes]]:
        buffer = bytearray(min(LEAF_BYTES, self._file.size))
        digests = []
        for number in numbers:
            if self._cancelled:
                raise Cancelled("no longer wanted")
            if number < self.kept_blocks - 1 and self._file.sparse and is_hole(self._fd, number, self._file.size):
                digests.append((number, ZERO_DIGEST))
                continue
            data = read_block(self._fd, buffer, number, block_length(self._file.size, number))
            digests.append((number, leaf(data, number, number == self.kept_blocks - 1)))
        return digests

    def _is_still(self, before: Status) -> bool:
        status = status_of(self._fd)
        return is_named(self._fd, self._directory, self._name) and (
            status.st_mtime_ns, status.st_size) == (before.st_mtime_ns, before.st_size) and (
            status.st_ctime_ns == before.st_ctime_ns or self._gets_names)

    def give_name(self, directory: int, name: bytes) -> None:
        """Give the file, once it was found to be the same, one more name. FileExistsError; OSError where there are no
        hard links."""
        if not is_named(self._fd, directory, name):
            link_open(self._fd, directory, name)

    def _dress(self) -> None:
        try:
            give_attributes(self._fd, self._file.attributes)
            os.fchmod(self._fd, self._file.mode & 0o777 & ~self._umask)
            os.utime(self._fd, ns=(self._file.mtime_ns, self._file.mtime_ns))
        except (PermissionError, AttributesError):
            pass  # it is another user's

    def _remove_leftovers(self) -> None:
        """Remove temporary files of ours, in case we were killed after giving the name and before removing them."""
        part, state = temporary_names(self._name)
        if is_named(self._fd, self._directory, part):
            remove_named(self._fd, self._directory, part)
            try:
                os.unlink(state, dir_fd=self._directory)
            except FileNotFoundError:
                pass

    def cancel(self) -> None:
        self._cancelled = True

    def close(self) -> None:
        for fd in (self._fd, self._directory):
            if fd >= 0:
                os.close(fd)
        self._fd = self._directory = -1
