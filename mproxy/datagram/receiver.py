"""The receiving side of a transfer: takes announcements, asks for what is missing, writes and checks what comes.

A block is received into one of BUFFERS buffers, then hashed and written on a worker's thread. When all buffers are
busy nothing is read from the connection, and its window holds the sender back.
"""

import errno
import os

from mproxy.datagram import messages
from mproxy.datagram.conversation import Conversation
from mproxy.datagram.messages import AHEAD, FileKind, MessageType, Result, bad
from mproxy.datagram.partial import BadName, Busy, PartialFile, open_directory, split_name
from mproxy.datagram.tree import DIGEST_BYTES, LEAF_BYTES, block_count, block_length, leaf, root
from mproxy.errors import PeerError

BUFFERS = 6  # of a mebibyte each, for every sender

_CODES: dict[int | None, Result] = {
    errno.ENOSPC: Result.NO_SPACE, errno.EDQUOT: Result.NO_SPACE, errno.EFBIG: Result.NO_SPACE,
    errno.EACCES: Result.NO_PERMISSION, errno.EPERM: Result.NO_PERMISSION, errno.EROFS: Result.NO_PERMISSION,
    errno.EEXIST: Result.EXISTS}


class Refusal(PeerError):
    """A file that is not taken."""

    def __init__(self, code, text):
        super().__init__(None, text)
        self.result = code


def result_of(error):
    """(Result, text) of an exception."""
    if isinstance(error, Refusal):
        return error.result, str(error)
    if isinstance(error, BadName):
        return Result.BAD_NAME, str(error)
    if isinstance(error, Busy):
        return Result.EXISTS, str(error)
    if isinstance(error, OSError):
        code = _CODES.get(error.errno, Result.FAILED)
        if code == Result.EXISTS:
            return code, "it is there already; --force replaces it"
        return code, error.strerror or str(error)
    return Result.FAILED, str(error)


class IntoDirectory:
    """Files go below `path`, under the names they come with."""

    def __init__(self, path, force):
        self.path, self._force = path, force

    def open(self, file):
        """A PartialFile, or None when there is nothing to be received (a directory). On a worker's thread."""
        parts = split_name(file.name)
        base = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if file.kind == FileKind.DIRECTORY:
                os.close(open_directory(base, parts))
                return None
            directory = open_directory(base, parts[:-1])
        finally:
            os.close(base)
        return PartialFile(directory, parts[-1], file, force=self._force)


class IntoFile:
    """One file, under a name of ours."""

    def __init__(self, path, force):
        self._directory, self._name = os.path.split(os.path.abspath(path))
        self._force = force

    def open(self, file):
        """As of IntoDirectory."""
        if file.kind == FileKind.DIRECTORY or file.index > 0:
            raise Refusal(Result.REFUSED, "the receiver takes one file; with -o DIR it takes many")
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return PartialFile(directory, os.fsencode(self._name), file, force=self._force)


class IntoPipe:
    """Standard output, one file after the other."""

    def __init__(self, fd=1):
        self._fd = fd

    def open(self, file):
        """As of IntoDirectory."""
        if file.kind == FileKind.DIRECTORY:
            raise Refusal(Result.REFUSED, "the receiver writes to a pipe and takes no directories")
        return PipedFile(self._fd, file)


class PipedFile:
    """What PartialFile is, for a pipe: blocks in order, nothing to go on with later."""

    in_order = True
    kept_blocks = 0

    def __init__(self, fd, file):
        self._fd, self._file = fd, file
        self._digests = []
        self._size = 0

    def begin(self):
        """Everything is missing."""
        count = block_count(self._file.size) if self._file.kind == FileKind.FILE else (1 << 32) - 1
        return [(0, count)]

    def write_block(self, number, data, digest):
        """Write a block; False when it is damaged."""
        if number != len(self._digests) or digest not in (leaf(data, number, False), leaf(data, number, True)):
            return False
        self._digests.append(digest)
        self._size += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view):]
        return True

    def reserve(self):
        """A pipe has no room to be taken."""

    def finish(self, size, digest):
        """The root; None when it is another."""
        own = root(b"".join(self._digests))
        return own if size == self._size and digest == own else None

    def discard(self):
        """What was written is written."""

    def close(self):
        """The descriptor stays open for the next file."""


class _Arriving:
    """A file between FILE and RESULT."""

    def __init__(self, file):
        self.file = file
        self.target = None
        self.pending = 0  # blocks being written
        self.failure = None  # (Result, text)
        self.end = None  # the END message
        self.looks = 0  # how often another transfer was found writing it
        self.settled = False


class FileReceiver(Conversation):
    """Receives over a Link into `destination`. Observer: on_file(receiver, file, code, root, text),
    on_finished(receiver, error, code) and on_busy(receiver, file, looks, again): another transfer is writing that file,
    as seen `looks` times; it calls `again` later, or returns False. `workers` writes; blocks of a pipe go through
    `in_order`, one thread."""

    def __init__(self, link, destination, workers, observer, keying=None, in_order=None):
        super().__init__(link, keying)
        self._destination = destination
        self._workers = workers
        self._in_order = in_order or workers
        self._observer = observer
        self._files = {}
        self._next_index = 0
        self._buffers = [None] * BUFFERS
        self._waiting_block = False
        self._said_bye = False
        self.announced = False  # the sender has said what it wants
        self.messages = 0  # from it, blocks not counted
        self.received_bytes = 0  # of files
        self.expected_bytes = 0  # of files whose size is known
        self.kept_bytes = 0  # that were here already

    # ---- of Conversation

    def on_open(self):
        """Say hello."""
        self.link.send(messages.pack_hello())

    def on_message(self, kind, message):
        """What the sender says."""
        self.announced = self.announced or kind != MessageType.HELLO
        self.messages += 1
        if kind == MessageType.FILE:
            self._on_file(message)
        elif kind == MessageType.END:
            arriving = self._arriving(message.index)
            if arriving is not None:
                arriving.end = message
                self._advance(arriving)
        elif kind == MessageType.RESULT:
            arriving = self._arriving(message.index)
            if arriving is not None:
                arriving.failure = (message.code, message.text or "the sender gave the file up")
                self._advance(arriving)
        elif kind == MessageType.BYE:
            if self._files:
                raise bad("the sender says goodbye before its files have ended")
            self._said_bye = True
            self.link.send(messages.pack_bye())
            self.link.finish()
        elif kind == MessageType.WANT:
            raise bad("the sender sends what only a receiver sends")

    def block_buffer(self, block, length):
        """Where the next block goes; None while all buffers are busy."""
        arriving = self._arriving(block.index)
        if arriving is not None:
            file = arriving.file
            if arriving.target is None or arriving.end is not None:
                raise bad("a block of a file that was not asked for")
            if file.kind == FileKind.FILE and (
                    block.number >= block_count(file.size) or length != block_length(file.size, block.number)):
                raise bad("a block that is not of its file")
        if not self._buffers:
            self._waiting_block = True
            return None
        return self._buffers.pop() or bytearray(LEAF_BYTES)

    def on_block(self, block, data):
        """A block has come."""
        arriving = self._files.get(block.index)
        self.received_bytes += len(data)
        if arriving is None or arriving.failure:
            self._release(data.obj)
            return
        arriving.pending += 1
        workers = self._in_order if getattr(arriving.target, "in_order", False) else self._workers
        workers.submit(lambda: arriving.target.write_block(block.number, data, block.digest),
                       lambda good, error: self._was_written(arriving, data.obj, good, error))

    def on_over(self, code, reason, _local):
        """The connection is over; what has arrived stays for another attempt."""
        unfinished = list(self._files.values())
        self._files = {}
        for arriving in unfinished:
            arriving.settled = True
            if arriving.target is not None and not arriving.pending:
                arriving.target.close()
        done = self._said_bye and code == 0
        self._observer.on_finished(self, None if done else reason or "the sender closed the connection", code)

    @property
    def progress(self):
        """Bytes of files that have come, those of the block in hand too."""
        return self.received_bytes + self.begun_bytes

    @property
    def waits_for_us(self):
        """Whether the sender can do nothing now because our disk is busy."""
        return self._waiting_block or any(arriving.pending for arriving in self._files.values())

    # ---- inner

    def _arriving(self, index):
        """The file; None when it was settled while this was on its way."""
        if index >= self._next_index:
            raise bad("the sender speaks of a file that is not on its way")
        return self._files.get(index)

    def _on_file(self, file):
        if file.index < self._next_index or len(self._files) >= AHEAD:
            raise bad("files out of order, or too many at once")
        self._next_index = file.index + 1  # one that the sender could not open leaves a gap
        arriving = self._files[file.index] = _Arriving(file)
        if file.kind == FileKind.FILE:
            self.expected_bytes += file.size
        self._begin(arriving)

    def _begin(self, arriving):
        if not arriving.settled:
            self._workers.submit(lambda: self._open(arriving.file),
                                 lambda opened, error: self._was_opened(arriving, opened, error))

    def is_receiving(self, file):
        """Whether the same source is on its way here under the same name."""
        return any((one.file.name, one.file.identity) == (file.name, file.identity) for one in self._files.values())

    def _open(self, file):
        target = self._destination.open(file)
        if target is None:
            return None, None
        try:
            return target, target.begin()
        except BaseException:
            target.close()
            raise

    def _was_opened(self, arriving, opened, error):
        if arriving.settled:
            if opened and opened[0]:
                opened[0].close()
            return
        if isinstance(error, Busy):
            arriving.looks += 1
            if self._observer.on_busy(self, arriving.file, arriving.looks, lambda: self._begin(arriving)):
                return
        if error is not None:
            arriving.failure = result_of(error)
        elif opened[0] is None:
            self._settle(arriving, Result.DONE, bytes(DIGEST_BYTES), "")
            return
        else:
            arriving.target, ranges = opened
            self.kept_bytes += min(arriving.target.kept_blocks * LEAF_BYTES, arriving.file.size)
            self.link.send(messages.pack_want(arriving.file.index, ranges))
            self._reserve(arriving)
        self._advance(arriving)

    def _reserve(self, arriving):
        arriving.pending += 1
        self._workers.submit(arriving.target.reserve, lambda _, error: self._was_done(arriving, error))

    def _was_written(self, arriving, buffer, good, error):
        self._release(buffer)
        if error is None and not good:
            arriving.failure = arriving.failure or (Result.DAMAGED, "a block does not have its hash")
        self._was_done(arriving, error)

    def _was_done(self, arriving, error):
        arriving.pending -= 1
        if error is not None:
            arriving.failure = arriving.failure or result_of(error)
        if arriving.settled:
            if not arriving.pending and arriving.target is not None:
                arriving.target.close()
        else:
            self._advance(arriving)

    def _release(self, buffer):
        self._buffers.append(buffer)
        if self._waiting_block and not self.over:
            self._waiting_block = False
            self.take_block(self._buffers.pop())

    def _advance(self, arriving):
        """Settle a file as soon as that is possible."""
        if arriving.settled or arriving.pending:
            return
        if arriving.failure:
            code, text = arriving.failure
            if arriving.target is not None and code in (Result.CHANGED, Result.DAMAGED):
                arriving.target.discard()
            self._settle(arriving, code, bytes(DIGEST_BYTES), text)
        elif arriving.end is not None:
            end, arriving.end = arriving.end, None
            arriving.pending = 1
            self._workers.submit(lambda: arriving.target.finish(end.size, end.root),
                                 lambda digest, error: self._was_finished(arriving, digest, error))

    def _was_finished(self, arriving, digest, error):
        arriving.pending = 0
        if arriving.settled:
            arriving.target.close()
        elif error is not None:
            self._settle(arriving, *_with_zeros(result_of(error)))
        elif digest is None:
            self._settle(arriving, Result.DAMAGED, bytes(DIGEST_BYTES), "the hash of the whole does not agree")
        else:
            self._settle(arriving, Result.DONE, digest, "")

    def _settle(self, arriving, code, digest, text):
        arriving.settled = True
        del self._files[arriving.file.index]
        if arriving.target is not None:
            arriving.target.close()
        self.link.send(messages.pack_result(arriving.file.index, code, digest, text))
        self._observer.on_file(self, arriving.file, code, digest, text)


def _with_zeros(result):
    return result[0], bytes(DIGEST_BYTES), result[1]
