"""A source: what is sent under one name, and how it is read."""

from __future__ import annotations

import errno
import hashlib
import os
import select
import stat
from collections.abc import Iterator, Sequence
from functools import cached_property

from mproxy.ground.errors import MproxyError
from mproxy.transfer._disk import Status, status_of
from mproxy.transfer._rolling import SUM_BYTES, Sketch
from mproxy.transfer.attributes import attributes_of
from mproxy.transfer.holes import has_holes, pieces
from mproxy.transfer.messages import BY_TIME, MOST_NAME_BYTES, MOST_TIME_NS, SPARSE, UNKNOWN_SIZE, File, FileKind, bad
from mproxy.transfer.parts import Parts
from mproxy.transfer.tree import DIGEST_BYTES, LEAF_BYTES, ZERO_DIGEST, block_count, block_length, leaf, root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.transfer.arriving import Data
    from mproxy.transfer.messages import Outcome, SketchPart
    ReadBlock = tuple[int, Data, bytes]  # number, data, digest

SMALL_BYTES = 16384  # a file this small is sent together with others
TOGETHER_MS = 5  # what a pipe brings within this time is sent together
UNKNOWN_ROOT = bytes(DIGEST_BYTES)

# If a pipe or a terminal has taken the file's place, it must neither make us wait nor become our terminal.
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

# A file of /proc or /sys has no blocks, and its size is 0 or a page, whatever it holds.
_MADE_UP_BYTES = 1 << 16


class Changed(MproxyError):
    """The source is not what it was when it was announced."""


def _bounded(time_ns: int) -> int:
    return max(-MOST_TIME_NS, min(time_ns, MOST_TIME_NS))


def identity(status: Status | os.stat_result) -> bytes:
    """16 bytes that change as soon as the file is written to, replaced, or given another time."""
    parts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()


class SourceFile:
    """One thing to send: `name` is what the receiver sees, a relative path as bytes; `path` or `fd` is ours.
    `same_as`: the name of a source that is the same file (a hard link); `by_time`: the receiver need not compare the
    contents of a file that has its size and time."""

    # What most of them never have otherwise: there may be a million.
    fd = -1
    count = 1  # as of a run of files
    expected_bytes = 0  # its size when it was found
    same_as = b""
    by_time = with_attributes = False
    size = 0
    sparse = False
    identity = bytes(16)
    outcome: Outcome | None = None  # once it is known
    failed = False  # given up here; the receiver has not answered yet
    _ended = False  # the pipe has ended
    _asked = False  # the receiver has said what it wants
    kept_bytes = 0  # that the receiver already had
    compared = False  # the receiver wants no block but the hash of the whole: it may have the file
    reads = 0  # that workers are doing now
    _leaving = False  # to be closed when they have ended
    sketch: Sketch | None = None  # of the receiver's older file, once it is complete
    asked_again = False  # the receiver has, for what it could not rebuild
    status = Status()  # when it was opened

    def __init__(self, name: bytes, kind: FileKind, path: str | None = None, fd: int = -1, follow: bool = True,
                 expected_bytes: int = 0, same_as: bytes = b"", by_time: bool = False,
                 with_attributes: bool = False) -> None:
        self.name, self.kind, self.path = name, kind, path
        self._announced_as = kind  # whatever the file turned out to be
        self.follows = follow  # a symbolic link at `path` is what was meant
        if expected_bytes:
            self.expected_bytes = expected_bytes
        if same_as:
            self.same_as = same_as
        if by_time or with_attributes:
            self.by_time, self.with_attributes = by_time, with_attributes
        if path is None:
            self.fd = fd

    @cached_property
    def _digests(self) -> dict[int, bytes]:
        """Of the blocks that were handed to the connection."""
        return {}

    @cached_property
    def _parts(self) -> Parts:
        """Of a pipe."""
        return Parts()

    def open(self, index: int) -> File:
        """Its FILE message; OSError, or Changed when something of another kind has taken its place."""
        if self.path is None:
            return File(index, self.kind, 0o666, 0, UNKNOWN_SIZE, os.urandom(16), self.name)
        is_directory = self.kind == FileKind.DIRECTORY
        if len(self.name) > MOST_NAME_BYTES:  # longer than any path at the receiver
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        self._leaving = False
        if self.kind == FileKind.LINK:
            return self._open_link(index, self.path)
        self.fd = os.open(self.path, _OPEN | (os.O_DIRECTORY if is_directory else 0)
                          | (0 if self.follows else os.O_NOFOLLOW))
        status = self.status = status_of(self.fd)
        if not is_directory and not stat.S_ISREG(status.st_mode):
            raise Changed("it is no longer a regular file")
        mode = stat.S_IMODE(status.st_mode) & 0o777
        mtime_ns = _bounded(status.st_mtime_ns)
        if not is_directory and self._is_made_up(status):
            self.kind = FileKind.PIPE
            return File(index, self.kind, mode, mtime_ns, UNKNOWN_SIZE, os.urandom(16), self.name)
        if self.kind == FileKind.FILE:
            self.size = status.st_size
            self.sparse = has_holes(status) and not self.is_small
        self.identity = identity(status)
        return File(index, self.kind, mode, mtime_ns, self.size, self.identity, self.name, self.same_as,
                    SPARSE * self.sparse | BY_TIME * self.by_time,
                    attributes_of(self.fd) if self.with_attributes else b"")

    def _open_link(self, index: int, path: str) -> File:
        status = os.lstat(path)
        if not stat.S_ISLNK(status.st_mode):
            raise Changed("it is no longer a symbolic link")
        self.identity = identity(status)
        return File(index, self.kind, 0, _bounded(status.st_mtime_ns), 0, self.identity, self.name,
                    os.fsencode(os.readlink(path)))

    def _is_made_up(self, status: Status) -> bool:
        """Whether the size does not tell the length: the kernel makes up the contents when they are read (proc(5))."""
        if status.st_blocks or status.st_size > _MADE_UP_BYTES:
            return False
        return len(os.pread(self.fd, status.st_size + 1, 0)) != status.st_size

    def again(self) -> SourceFile:
        """The same, for another connection."""
        return SourceFile(self.name, self._announced_as, self.path, 0 if self.path is None else -1, self.follows,
                          same_as=self.same_as, by_time=self.by_time, with_attributes=self.with_attributes)

    @cached_property
    def _sums(self) -> bytearray:
        """Of the sketch that is arriving."""
        return bytearray()

    @property
    def sketch_bytes(self) -> int:
        """What has come of a sketch."""
        return len(self._sums) if "_sums" in self.__dict__ else 0

    def add_sketch(self, part: SketchPart) -> None:
        """More of the sketch; PeerError if it cannot go on so."""
        self._sums.extend(part.sums)
        missing = part.count * SUM_BYTES - len(self._sums)
        if missing < 0 or self.sketch is not None or (self._asked and not self.compared) or self.kind != FileKind.FILE:
            raise bad("the receiver sent a sketch that makes no sense")
        if missing == 0:
            self.sketch = Sketch(part.block_bytes, part.key, self._sums)

    def forget_sketch(self) -> None:
        """It is not needed any more."""
        self.__dict__.pop("_sums", None)
        self.sketch = None

    @property
    def is_spent(self) -> bool:
        """Whether some of it was read that cannot be read again."""
        return self.path is None and (self.reads > 0 or self._ended or bool(self._digests))

    @property
    def has_data(self) -> bool:
        """Whether it consists of more than its name."""
        return self.kind in (FileKind.FILE, FileKind.PIPE)

    @property
    def is_small(self) -> bool:
        """Whether it is too small for a buffer of its own and for waiting until there is room."""
        return self.kind == FileKind.FILE and self.size <= SMALL_BYTES

    def check_wanted(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Raise PeerError if the receiver asks twice, or for more than there is."""
        again = self._asked and not self.compared and self.sketch is not None and not self.asked_again and bool(ranges)
        if (self._asked and not self.compared and not again) or not self.has_data:
            raise bad("the receiver made a request that makes no sense")
        self.asked_again = again
        # It asks once; or first for the hash, and then for blocks, when its own file turned out to be different.
        self.compared = self.kind == FileKind.FILE and not ranges and not self._asked
        self._asked = True
        # Ranges are in order, so the last one reaches farthest.
        if self.kind == FileKind.FILE and ranges and sum(ranges[-1]) > block_count(self.size):
            raise bad("the receiver requested blocks beyond the end of the file")

    def read_block(self, number: int, buffer: bytearray) -> ReadBlock | None:
        """(number, data, digest), the data in `buffer` (LEAF_BYTES) or not; None after the end of a pipe, whose blocks
        come in parts and so are numbered differently. On a worker's thread."""
        if self.kind == FileKind.PIPE:
            return self._read_pipe()
        data, _begin = self.read_around(number, buffer, 0)
        return number, data, self.digest_of(number, data)

    def read_around(self, number: int, buffer: bytearray, around: int) -> tuple[memoryview, int]:
        """A block with up to `around` bytes of the file before it and behind it, and where among these it begins; in
        `buffer`, if that is large enough. On a worker's thread."""
        at = number * LEAF_BYTES
        begin = min(around, at)
        length = min(begin + block_length(self.size, number) + around, self.size - at + begin)
        text = memoryview(buffer if len(buffer) >= length else bytearray(length))[:length]
        view, at = text, at - begin
        while view:
            got = os.preadv(self.fd, [view], at)
            if got == 0:
                raise Changed("the file became shorter while it was being sent")
            view, at = view[got:], at + got
        return text, begin

    def digest_of(self, number: int, data: Data) -> bytes:
        """Of a block. On a worker's thread."""
        return leaf(data, number, number == block_count(self.size) - 1)

    def _read_pipe(self) -> ReadBlock | None:
        if self._parts.ended:
            return None
        data = self._read_some(self._parts.room)
        number, digest = self._parts.make(data, not data)
        return number, data, digest

    def _read_some(self, most: int) -> bytearray:
        """Read what comes within a moment, at most `most` bytes; nothing at the end."""
        buffer = bytearray(most)
        length = 0
        while length < most and not self._ended:
            if length > 0 and self.path is None and not _has_input(self.fd, TOGETHER_MS):
                break
            try:
                got = os.readv(self.fd, [memoryview(buffer)[length:]])
            except BlockingIOError:
                if self.path is not None:
                    raise  # a file of the kernel that has nothing to read yet, who knows for how long
                _has_input(self.fd, None)  # somebody else set O_NONBLOCK, and may rely on it
                continue
            self._ended = got == 0
            length += got
        del buffer[length:]
        return buffer

    def note(self, number: int, digest: bytes, length: int) -> None:
        """A block was handed to the connection."""
        self._digests[number] = digest
        if self.kind == FileKind.PIPE:
            self.size += length

    def note_holes(self, numbers: range) -> None:
        """It was said that these blocks are zeros."""
        self._digests.update(dict.fromkeys(numbers, ZERO_DIGEST))

    def pieces(self, ranges: Sequence[tuple[int, int]]) -> Iterator[int | range]:
        """Numbers of the blocks to send, in order; a range of those that are holes."""
        if self.sparse:
            return pieces(self.fd, self.size, ranges)
        return (number for first, count in ranges for number in range(first, first + count))

    def check_unchanged(self) -> None:
        """Raise Changed if the file was touched since `open`."""
        if self.kind == FileKind.FILE and not status_of(self.fd).is_unchanged(self.status):
            raise Changed("the file changed while it was being sent")

    def root(self) -> bytes:
        """The hash of the whole if all of it was sent; else zeros."""
        count = block_count(self.size)
        if len(self._digests) != count:
            return UNKNOWN_ROOT
        return root(b"".join(self._digests[number] for number in range(count)))

    def close(self) -> None:
        """Close the descriptor as soon as nobody reads from it: its number may at once be another file's."""
        if self.fd < 0:
            return
        self._leaving = True
        if self.reads == 0:
            if self.fd > 2:
                os.close(self.fd)
            self.fd = -1

    def was_read(self) -> None:
        """A read that `reads` counts has ended."""
        self.reads -= 1
        if self._leaving:
            self.close()


def _has_input(fd: int, timeout_ms: int | None) -> bool:
    """Whether there is something to read, or the end, within that time (None: wait as long as it takes)."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout_ms))
