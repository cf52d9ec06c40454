"""The sending side of a transfer: announces files, reads, hashes and sends what is wanted, and learns how it went.

Life of a block: wanted -> read and hashed on a worker's thread (READ_AHEAD of them at once) -> sent in order. The
loop's thread copies it into the connection's ring when there is room; that is all the back-pressure there is.
"""

from __future__ import annotations

import errno
import hashlib
import os
import select
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from mproxy.ground.errors import MproxyError
from mproxy.transfer import messages
from mproxy.transfer._disk import Status, read_all, status_of
from mproxy.transfer.conversation import Conversation
from mproxy.transfer.messages import (
    AHEAD,
    MOST_NAME_BYTES,
    MOST_TIME_NS,
    UNKNOWN_SIZE,
    File,
    FileKind,
    MessageType,
    Outcome,
    Result,
    Want,
    bad,
)
from mproxy.transfer.parts import Parts
from mproxy.transfer.tree import DIGEST_BYTES, LEAF_BYTES, block_count, block_length, leaf, root
from mproxy.transfer.workers import Kind, Together, tried

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.transfer.arriving import Data
    from mproxy.transfer.messages import Block, Message
    from mproxy.transfer.workers import Tried, Workers
    from mproxy.transport._datagram_endpoint import Link
    from mproxy.transport.keying import Keying
    ReadBlock = tuple[int, Data, bytes]  # number, data, digest
    ReadWhole = tuple[bytearray, bytes]  # data, digest

READ_AHEAD = 6  # blocks being read, hashed, or waiting to be sent
SMALL_BYTES = 16384  # a file this small is sent together with others
SMALL_AHEAD = 256  # of these, instead of READ_AHEAD
TOGETHER_MS = 5  # what a pipe brings within this time is sent together
_UNKNOWN_ROOT = bytes(DIGEST_BYTES)

# If a pipe or a terminal has taken the file's place, it must neither make us wait nor become our terminal.
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

# A file of /proc or /sys has no blocks, and its size is 0 or a page, whatever it holds.
_MADE_UP_BYTES = 1 << 16

_TOO_MANY_OPEN = (errno.EMFILE, errno.ENFILE)


class Changed(MproxyError):
    """The source is not what it was when it was announced."""


def identity(status: Status) -> bytes:
    """16 bytes that change as soon as the file is written to, replaced, or given another time."""
    parts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()


class SourceFile:
    """One thing to send: `name` is what the receiver sees, a relative path as bytes; `path` or `fd` is ours."""

    def __init__(self, name: bytes, kind: FileKind, path: str | None = None, fd: int = -1, follow: bool = True,
                 expected_bytes: int = 0) -> None:
        self.name, self.kind, self.path = name, kind, path
        self.fd = fd
        self.expected_bytes = expected_bytes  # its size when it was found
        self.size = 0
        self.identity = bytes(16)
        self.status = Status()  # when it was opened
        self.outcome: Outcome | None = None  # once it is known
        self.failed = False  # given up here; the receiver has not answered yet
        self._announced_as = kind  # whatever the file turned out to be
        self._follow = follow  # a symbolic link at `path` is what was meant
        self._digests: dict[int, bytes] = {}
        self._parts = Parts()  # of a pipe
        self._ended = False  # the pipe has ended
        self._asked = False  # the receiver has said what it wants
        self.kept_bytes = 0  # that the receiver already had
        self.compared = False  # the receiver wants no block but the hash of the whole: it may have the file
        self.reads = 0  # that workers are doing now
        self._leaving = False  # to be closed when they have ended

    def open(self, index: int) -> File:
        """Its FILE message; OSError, or Changed when something of another kind has taken its place."""
        if self.path is None:
            return File(index, self.kind, 0o666, 0, UNKNOWN_SIZE, os.urandom(16), self.name)
        is_directory = self.kind == FileKind.DIRECTORY
        if len(self.name) > MOST_NAME_BYTES:  # longer than any path at the receiver
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        self._leaving = False
        self.fd = os.open(self.path, _OPEN | (os.O_DIRECTORY if is_directory else 0)
                          | (0 if self._follow else os.O_NOFOLLOW))
        status = self.status = status_of(self.fd)
        if not is_directory and not stat.S_ISREG(status.st_mode):
            raise Changed("it is no longer a regular file")
        mode = stat.S_IMODE(status.st_mode) & 0o777
        mtime_ns = max(-MOST_TIME_NS, min(status.st_mtime_ns, MOST_TIME_NS))
        if not is_directory and self._is_made_up(status):
            self.kind = FileKind.PIPE
            return File(index, self.kind, mode, mtime_ns, UNKNOWN_SIZE, os.urandom(16), self.name)
        if self.kind == FileKind.FILE:
            self.size = status.st_size
        self.identity = identity(status)
        return File(index, self.kind, mode, mtime_ns, self.size, self.identity, self.name)

    def _is_made_up(self, status: Status) -> bool:
        """Whether the size does not tell the length: the kernel makes up the contents when they are read (proc(5))."""
        if status.st_blocks or status.st_size > _MADE_UP_BYTES:
            return False
        return len(os.pread(self.fd, status.st_size + 1, 0)) != status.st_size

    def again(self) -> SourceFile:
        """The same, for another connection."""
        return SourceFile(self.name, self._announced_as, self.path, 0 if self.path is None else -1, self._follow)

    @property
    def is_spent(self) -> bool:
        """Whether some of it was read that cannot be read again."""
        return self.path is None and (self.reads > 0 or self._ended or bool(self._digests))

    @property
    def is_small(self) -> bool:
        """Whether it is too small for a buffer of its own and for waiting until there is room."""
        return self.kind == FileKind.FILE and self.size <= SMALL_BYTES

    def check_wanted(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Raise PeerError if the receiver asks twice, or for more than there is."""
        if (self._asked and not self.compared) or self.kind == FileKind.DIRECTORY:
            raise bad("the receiver made a request that makes no sense")
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
        data = memoryview(buffer)[:block_length(self.size, number)]
        view, at = data, number * LEAF_BYTES
        while view:
            got = os.preadv(self.fd, [view], at)
            if got == 0:
                raise Changed("the file became shorter while it was being sent")
            view, at = view[got:], at + got
        return number, data, leaf(data, number, number == block_count(self.size) - 1)

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

    def check_unchanged(self) -> None:
        """Raise Changed if the file was touched since `open`."""
        if self.kind == FileKind.FILE and not status_of(self.fd).is_unchanged(self.status):
            raise Changed("the file changed while it was being sent")

    def root(self) -> bytes:
        """The hash of the whole if all of it was sent; else zeros."""
        count = block_count(self.size)
        if len(self._digests) != count:
            return _UNKNOWN_ROOT
        return root(b"".join(self._digests[number] for number in range(count)))

    def close(self) -> None:
        """Close the descriptor as soon as nobody reads from it: its number may at once be another file's."""
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


class SendObserver:
    """Told by a FileSender."""

    def on_open(self, sender: FileSender) -> None:
        """The receiver is there, with the keys."""

    def on_file(self, source: SourceFile) -> None:
        """The outcome of a file is known."""

    def on_over(self, sender: FileSender, error: str | None, code: int, local: bool) -> None:
        """The connection is over; `error` None: all has arrived; `local`: this side found the reason."""


class _Reading:
    """A block, or a small file, that is being read or waits to be sent."""

    __slots__ = ("block", "buffer", "done", "error", "index", "source", "whole")

    def __init__(self, source: SourceFile, index: int) -> None:
        self.source = source
        self.index = index
        self.buffer: bytearray | None = None    # free again once its data is in the connection's ring
        self.done = False                       # it was read
        self.block: ReadBlock | None = None     # None, and no `whole`: behind the end
        self.whole: ReadWhole | None = None     # of a small file: all of it
        self.error: Exception | None = None     # or what went wrong


def _read_all(some: list[_Reading]) -> list[Tried[ReadWhole]]:
    """Read small files. On a worker's thread."""
    contents = read_all([(reading.source.fd, reading.source.status) for reading in some])
    return [tried(_read_whole, reading.source, data) for reading, data in zip(some, contents, strict=True)]


def _read_whole(source: SourceFile, data: bytearray | None) -> ReadWhole:
    """`data` None: it could not be read together with others."""
    if data is None:
        data = bytearray(source.size)
        source.read_block(0, data)
        source.check_unchanged()
    return data, leaf(data, 0, True)


class FileSender(Conversation):
    """Sends sources over a Link."""

    def __init__(self, link: Link, workers: Workers, observer: SendObserver, keying: Keying | None = None) -> None:
        super().__init__(link, keying)
        self._sources: list[SourceFile] = []
        self._workers = workers
        self._observer = observer
        self._most_ahead = AHEAD  # files that may be announced and not settled
        self._announced = 0
        self._announcing = False
        self._settled = 0
        self._said_bye = False
        self._together = Together(workers)
        self._small = Kind(_read_all, self._was_read_whole)
        self._wanted: deque[tuple[int, Iterator[int]]] = deque()  # index, block numbers
        self._reading: deque[_Reading] = deque()  # in the order of sending
        self._spare: list[bytearray] = []  # buffers for blocks, kept because new ones would have to be cleared
        self._leaving: bytearray | None = None  # the buffer whose block is being copied into the connection's ring
        self.sent_bytes = 0  # of files
        self.kept_bytes = 0  # that the receiver had already

    def start(self, sources: list[SourceFile]) -> None:
        """Say hello and announce: it leaves with the first packet that may carry it, sealed if there are keys."""
        self._sources = sources
        self.link.send(messages.pack_hello())
        self._announce()

    # ---- of Conversation

    def on_open(self) -> None:
        self._observer.on_open(self)

    def _take_messages(self) -> None:
        with self._together:
            super()._take_messages()

    def on_message(self, kind: MessageType, message: Message) -> None:
        """An answer of the receiver."""
        if isinstance(message, Want):
            source = self._source_of(message.index)
            source.check_wanted(message.ranges)
            numbers = range(block_count(source.size)) if source.compared else _numbers(message.ranges)
            self._wanted.append((message.index, iter(numbers)))
            if source.kind == FileKind.FILE:
                self.kept_bytes -= source.kept_bytes
                source.kept_bytes = source.size - sum(
                    min(count * LEAF_BYTES, source.size - first * LEAF_BYTES) for first, count in message.ranges)
                self.kept_bytes += source.kept_bytes
            self._read()
        elif isinstance(message, Outcome):
            self._settle(message)
        elif kind == MessageType.BYE:
            self.link.finish()
        elif kind == MessageType.HELLO and isinstance(message, int):
            self._most_ahead = message
            self._announce()
        else:
            raise bad("the receiver sent a message that only a sender may send")

    def block_buffer(self, _block: Block, _length: int) -> bytearray | None:
        raise bad("the receiver sent a message that only a sender may send")

    def on_block(self, block: Block, data: memoryview) -> None:
        """Never called: `block_buffer` offers no buffer."""

    def on_sent(self, _link: Link) -> None:
        self._send()

    def on_over(self, code: int, reason: str, local: bool) -> None:
        for source in self._sources:
            source.close()
        done = code == 0 and self._settled == len(self._sources)
        self._observer.on_over(self, None if done else reason or "the receiver closed the connection", code, local)

    # ---- inner

    def _source_of(self, index: int) -> SourceFile:
        if index >= self._announced or self._sources[index].outcome is not None:
            raise bad("the receiver referred to a file that is not being transferred")
        return self._sources[index]

    def _announce(self) -> None:
        """Announce sources, as far ahead as may be. One that cannot be read is settled at once."""
        if self._announcing:
            return
        self._announcing = True
        while self._announced < len(self._sources) and self._announced - self._settled < self._most_ahead:
            index, source = self._announced, self._sources[self._announced]
            try:
                message = source.open(index)
            except (OSError, Changed) as error:
                source.close()
                if getattr(error, "errno", None) in _TOO_MANY_OPEN and self._announced > self._settled:
                    break  # tried again when another one has ended
                self._announced += 1
                self._settle(messages.Outcome(index, Result.FAILED, _UNKNOWN_ROOT, f"cannot read: {_why(error)}"))
                continue
            self._announced += 1
            self.link.send(messages.pack_file(message))
        self._announcing = False
        if self._settled == len(self._sources) and not self._said_bye:
            self._said_bye = True
            self.link.send(messages.pack_bye())

    def _settle(self, outcome: Outcome) -> None:
        source = self._source_of(outcome.index)
        source.outcome = outcome
        source.close()
        self._settled += 1
        self._observer.on_file(source)
        self._announce()

    def _read(self) -> None:
        """Keep the workers busy."""
        while self._wanted:
            index, numbers = self._wanted[0]
            source = self._sources[index]
            if len(self._reading) >= (SMALL_AHEAD if source.is_small else READ_AHEAD):
                return
            if source.outcome is not None or source.failed:
                self._wanted.popleft()
                continue
            if source.kind == FileKind.PIPE and self._reading:
                return  # in order, one at a time
            number = next(numbers, None)
            reading = _Reading(source, index)
            self._reading.append(reading)
            if number is not None and source.is_small:
                self._wanted.popleft()
                source.reads += 1
                self._together.add(self._small, reading)
                continue
            if number is None:  # behind the last block: END
                self._wanted.popleft()
                reading.done = True
                if self._reading[0] is reading:
                    self._send()
                continue
            source.reads += 1
            buffer = reading.buffer = self._spare.pop() if self._spare else bytearray(LEAF_BYTES)
            self._workers.submit(partial(source.read_block, number, buffer), partial(self._was_read, reading))

    def _was_read(self, reading: _Reading, block: ReadBlock | None, error: Exception | None) -> None:
        reading.block = block
        self._end_reading(reading, error)

    def _was_read_whole(self, reading: _Reading, whole: ReadWhole | None, error: Exception | None) -> None:
        reading.whole = whole
        self._end_reading(reading, error)

    def _end_reading(self, reading: _Reading, error: Exception | None) -> None:
        reading.done, reading.error = True, error
        reading.source.was_read()
        if not self.over:
            self._send()

    def _send(self) -> None:
        """Send what was read, in order, while the connection has room."""
        while self._reading and self._reading[0].done and self._may_send():
            if self._leaving is not None:
                self._spare.append(self._leaving)
            reading = self._reading.popleft()
            self._leaving = reading.buffer
            if reading.source.outcome is None and not reading.source.failed:
                self._send_one(reading.source, reading)
        self._read()

    def _may_send(self) -> bool:
        """Whether the connection has room; for small files, whether not too many of them wait."""
        return self.link.unsent < (SMALL_AHEAD if self._leaving is None and self._reading[0].source.is_small else 1)

    def _send_one(self, source: SourceFile, reading: _Reading) -> None:
        index = reading.index
        try:
            if reading.error is not None:
                raise reading.error
            if reading.whole is not None:
                self._send_whole(source, index, *reading.whole)
                return
            if reading.block is None:
                if self._wanted and self._wanted[0][0] == index:
                    self._wanted.popleft()  # a pipe's end
                source.check_unchanged()
                self.link.send(messages.pack_end(index, source.size, source.root()))
                return
        except (OSError, MproxyError) as error:
            code = Result.CHANGED if isinstance(error, Changed) else Result.FAILED
            text = _why(error)
            source.failed = True  # settled by the receiver's answer
            self.link.send(messages.pack_result(index, code, text=text))
            return
        number, data, digest = reading.block
        source.note(number, digest, len(data))
        if source.compared:
            return
        self.sent_bytes += len(data)
        self.link.send(messages.pack_block_header(index, number, digest, len(data)))
        if data:
            self.link.send(data)

    def _send_whole(self, source: SourceFile, index: int, data: bytearray, digest: bytes) -> None:
        source.note(0, digest, len(data))
        if source.compared:
            self.link.send(messages.pack_end(index, source.size, source.root()))
            return
        self.sent_bytes += len(data)
        self.link.send(messages.pack_whole(index, digest, data, source.root()))


def _why(error: Exception) -> str:
    """What went wrong with a file, for people."""
    if not isinstance(error, OSError):
        return str(error)
    return "it is now a symbolic link" if error.errno == errno.ELOOP else error.strerror or str(error)


def _has_input(fd: int, timeout_ms: int | None) -> bool:
    """Whether there is something to read, or the end, within that time (None: wait as long as it takes)."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout_ms))


def _numbers(ranges: Iterable[tuple[int, int]]) -> Iterator[int]:
    for first, count in ranges:
        yield from range(first, first + count)


def name_of(path: str) -> str:
    """What the receiver calls a file, a directory or standard input (`-`) of a command line."""
    if path == "-":
        return "stdin"
    return os.path.basename(os.path.abspath(path)) or "root"


def find_sources(paths: Iterable[str], on_left_out: Callable[[str, OSError | None], object]) -> list[SourceFile]:
    """Sources of the files and directories named on a command line; MproxyError for what cannot be sent.
    `on_left_out(path, error)` is told of what is neither a file nor a directory (error None), and of what cannot be
    read or has vanished meanwhile (an OSError)."""
    sources = []
    for path in paths:
        base = os.fsencode(name_of(path))
        if path == "-":
            sources.append(SourceFile(base, FileKind.PIPE, fd=0))
            continue
        try:
            status = os.stat(path)
        except OSError as error:
            raise MproxyError(f"cannot send {path}: {error.strerror}") from None
        if stat.S_ISDIR(status.st_mode):
            sources += _walk(path, base, on_left_out)
        elif stat.S_ISREG(status.st_mode):
            sources.append(SourceFile(base, FileKind.FILE, path, expected_bytes=status.st_size))
        else:
            raise MproxyError(f"cannot send {path}: neither a file nor a directory; to send a pipe, use '-' (standard"
                              " input)")
    return sources


def _walk(top: str, base: bytes, on_left_out: Callable[[str, OSError | None], object]) -> list[SourceFile]:
    """Everything in a directory but symbolic links, devices and the like."""
    found = [SourceFile(base, FileKind.DIRECTORY, top)]
    for directory, names, files in os.walk(top, onerror=lambda error: on_left_out(error.filename, error)):
        below = os.path.relpath(directory, top)
        prefix = base if below == "." else base + b"/" + os.fsencode(below)
        names.sort()
        for name in names + sorted(files):
            path = os.path.join(directory, name)
            try:
                status = os.lstat(path)
            except OSError as error:
                on_left_out(path, error)
                continue
            inner = prefix + b"/" + os.fsencode(name)
            if stat.S_ISDIR(status.st_mode):
                found.append(SourceFile(inner, FileKind.DIRECTORY, path, follow=False))
            elif stat.S_ISREG(status.st_mode):
                found.append(SourceFile(inner, FileKind.FILE, path, follow=False, expected_bytes=status.st_size))
            else:
                on_left_out(path, None)
    return found
