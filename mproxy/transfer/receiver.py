"""The receiving side of a transfer: takes announcements, asks for what is missing, writes and checks what arrives.

A block is received into one of BUFFERS buffers, then hashed and written on a worker's thread. When all buffers are busy
nothing is read from the connection, and its window holds the sender back. Announced files wait for their turn when
this sender, or all senders together, have as much open as they may: `Allowance`.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable

from mproxy.ground.errors import PeerError
from mproxy.transfer import messages
from mproxy.transfer.allowance import ALL_DIGEST_BYTES, Allowance, Share
from mproxy.transfer.arrival import Arrival
from mproxy.transfer.arrived_directories import ArrivedDirectories
from mproxy.transfer.arriving import Unlike
from mproxy.transfer.block_buffers import BUFFERS, BlockBuffers, buffer_of
from mproxy.transfer.bundle import BundleAnswer, FileGroup, entries_of
from mproxy.transfer.bundles_in import BundlesInHost, IncomingBundles
from mproxy.transfer.conversation import Conversation
from mproxy.transfer.deletion_in import IncomingDeletion
from mproxy.transfer.finishing import finish_all, finish_whole
from mproxy.transfer.messages import (
    Block,
    Coded,
    End,
    File,
    FileKind,
    Result,
)
from mproxy.transfer.opening import Opening
from mproxy.transfer.partial import Busy
from mproxy.transfer.present import Differs
from mproxy.transfer.rebuilding import Rebuilding, note_wrong, write_coded
from mproxy.transfer.results import result_of
from mproxy.transfer.tree import DIGEST_BYTES, LEAF_BYTES
from mproxy.transfer.workers import Kind, Together
from mproxy.transport._packet import EndCode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    from mproxy.transfer.arriving import ArrivingFile, Data
    from mproxy.transfer.bundle import BundleEntry
    from mproxy.transfer.bundles_in import StoredBundle
    from mproxy.transfer.conversation import Bulk
    from mproxy.transfer.deletion_out import Surplus
    from mproxy.transfer.destinations import Destination
    from mproxy.transfer.finishing import Finishing, Written
    from mproxy.transfer.messages import Message
    from mproxy.transfer.opening import Opened, Ranges
    from mproxy.transfer.workers import Workers
    from mproxy.transport._link import Link
    from mproxy.transport.keying import KeyExchange
    Found = TypeVar("Found")

MOST_PENDING = messages.MOST_RANGES + BUFFERS  # jobs of one file


class ReceiveObserver:
    """Told of, and asked about, what a FileReceiver receives."""

    def on_open(self, receiver: FileReceiver) -> None:
        """A sender is there, with the keys."""

    def on_first_file(self, receiver: FileReceiver) -> str | None:
        """It has announced something. Returns why that is not accepted; None: it is."""
        return None

    def on_file(self, receiver: FileReceiver, file: File, code: Result, root: bytes, text: str) -> None:
        """The outcome of a file."""

    def on_files(self, receiver: FileReceiver, arrived: Callable[[], list[BundleEntry]]) -> None:
        """Small files have arrived; `arrived()` tells which, which takes longer than making them did."""
        for file, root, _at in arrived():
            self.on_file(receiver, file, Result.DONE, root, "")

    def on_left_out(self, receiver: FileReceiver, name: bytes, why: str) -> None:
        """The sender was to send this, and does not. No name: there is more of it."""

    def on_finished(self, receiver: FileReceiver, error: str | None, code: int) -> None:
        """The connection is over; `error` None: all has arrived."""

    def on_busy(self, receiver: FileReceiver, file: File, looks: int, again: Callable[[], None]) -> bool:
        """Another transfer is writing that file, for the `looks`th time. True: `again` will be called later; False: the
        file fails."""
        return False

    def on_surplus(self, receiver: FileReceiver, surplus: list[Surplus], answer: Callable[[bool], object]) -> None:
        """The sender would have this deleted, which it does not have: call `answer`, now or later."""
        answer(False)

    def on_crowded(self, again: Callable[[], None]) -> None:
        """Too many files are open here: call `again` later."""
        raise NotImplementedError


class FileReceiver(Conversation, BundlesInHost):
    """Receives over a Link into `destination`. `workers` writes; blocks of a pipe go through `in_order`, one thread."""

    def __init__(self, link: Link, destination: Destination, workers: Workers, observer: ReceiveObserver, *,
                 keying: KeyExchange | None = None, in_order: Workers | None = None,
                 allowance: Allowance | None = None) -> None:
        super().__init__(link, keying)
        self._destination = destination
        self._workers = workers
        self._in_order = in_order or workers
        self._observer = observer
        self._share = Share(allowance or Allowance(), self._open_next)
        self._files: dict[int, Arrival] = {}
        self._queue: deque[Arrival] = deque()  # files that are not yet being opened
        self._directory: Arrival | None = None  # that is being made: what is announced after it may lie in it
        self._directories = ArrivedDirectories()
        self._closing: set[Arrival] = set()  # files that workers are still busy with after the end
        self._next_index = 0
        self._buffers = BlockBuffers()
        self._waiting_block = False
        self._whole: tuple[Arrival, Block, memoryview] | None = None  # the only block of a file, whose END comes next
        self._together = Together(workers)  # small files
        self._rebuilding = Rebuilding(link, destination)
        self._opening = Opening(destination, self._rebuilding)
        self._openings = Kind(self._opening.open_all, self._was_opened)
        self._finishing = Kind(finish_all, self._was_written_with_others)
        self._bundles = IncomingBundles(self, destination, workers)
        self._deletion = IncomingDeletion(
            link, destination, workers, lambda surplus, answer: observer.on_surplus(self, surplus, answer),
            lambda reason: self.give_up(EndCode.BAD_PACKET, reason))
        self._said_bye = False
        self.first: tuple[bytes, bytes] | None = None  # (name, identity) of what the sender announced first
        self.announced = False  # the sender has announced something
        self.messages = 0  # from the sender, not counting blocks
        self.received_bytes = 0  # of files
        self.kept_bytes = 0  # that were here already
        self.total_bytes: int | None = None  # of all files, once the sender has said that

    # ---- of Conversation

    def on_open(self) -> None:
        self._observer.on_open(self)
        self._say_hello()

    def _say_hello(self) -> None:
        self.link.send(messages.pack_hello(messages.MOST_AHEAD, self._destination.takes_holes,
                                           self._destination.takes_attributes, self._destination.takes_bundles,
                                           self._rebuilding.abilities | self._deletion.ability | messages.NOTES
                                           | messages.LINKS * self._destination.takes_bundles
                                           | messages.PACKED_BUNDLES * self._takes_packed_bundles))

    @property
    def _takes_packed_bundles(self) -> bool:
        return self._destination.takes_bundles and bool(self._rebuilding.abilities & messages.PACKED)

    def _take_messages(self) -> None:
        with self._together:
            super()._take_messages()

    def on_message(self, kind: messages.MessageType, message: Message) -> None:
        if self._whole is not None and not (isinstance(message, End) and self._whole[0].file.index == message.index):
            self._write_whole()
        self.announced = self.announced or kind != messages.MessageType.HELLO
        self.messages += 1
        if self._said_bye:
            raise messages.bad("the sender sent more after its goodbye")
        if isinstance(message, File):
            self._on_file(message)
        elif isinstance(message, End):
            self._on_end(message)
        elif isinstance(message, messages.Outcome):
            arriving = self._arriving(message.index)
            if arriving is not None:
                arriving.failure = (message.code, message.text or "the sender gave up on this file")
                self._advance(arriving)
        elif isinstance(message, messages.Holes):
            self._on_holes(message)
        elif kind == messages.MessageType.BYE:
            self._on_bye()
        elif isinstance(message, messages.ReceiverHello):
            if self._rebuilding.take_hello(message):
                self._say_hello()
        elif isinstance(message, messages.LeftOut):
            self._observer.on_left_out(self, message.name, message.why)
        elif isinstance(message, messages.Total):
            self.total_bytes = message.size
        elif not self._deletion.takes(message):
            raise messages.bad("the sender sent a message that only a receiver may send")

    def block_buffer(self, block: Bulk, length: int) -> bytearray | None:
        """Where the next block or bundle goes; None while all buffers are busy."""
        self._write_whole()
        if isinstance(block, messages.Bundle):
            if self.first is None or self._said_bye:
                raise messages.bad("a bundle before the first file, or after the goodbye")
            if block.length and not self._takes_packed_bundles:
                raise messages.bad("a compressed bundle, which nobody has offered to take")
            self._bundles.check(block)
        else:
            arriving = self._arriving(block.index)
            if arriving is not None:
                whole = self._rebuilding.check(arriving, block) if isinstance(block, Coded) else length
                arriving.take_block(block.number, whole)
        buffer = self._buffers.take(length)
        self._waiting_block = buffer is None
        return buffer

    def on_block(self, block: Bulk, data: memoryview) -> None:
        if isinstance(block, messages.Bundle):
            self._bundles.add(block, data)
            return
        arriving = self._files.get(block.index)
        self.received_bytes += block.length if isinstance(block, Coded) else len(data)
        if arriving is None or arriving.failure:
            self._release(buffer_of(data))
        elif isinstance(block, Coded):
            self._write_coded(arriving, block, data)
        elif arriving.blocks == 1 and self._whole is None:
            self._whole = arriving, block, data
        else:
            self._write(arriving, block, data)

    def _write(self, arriving: Arrival, block: Block, data: memoryview) -> None:
        target = arriving.target
        assert target is not None  # blocks are asked for when it is open
        self._submit(arriving, lambda: target.write_block(block.number, data, block.digest),
                     lambda good, error: self._was_written(arriving, buffer_of(data), good, error))

    def _write_coded(self, arriving: Arrival, block: Coded, data: memoryview) -> None:
        self._submit(arriving, lambda: write_coded(arriving, block, data),
                     lambda good, error: self._was_coded_written(arriving, block, data, good, error))

    def _was_coded_written(self, arriving: Arrival, block: Coded, data: memoryview, good: bool,
                           error: Exception | None) -> None:
        if isinstance(error, PeerError):
            self.give_up(EndCode.BAD_PACKET, str(error))
        is_excused = error is None and not good and note_wrong(arriving, block)
        self._was_written(arriving, buffer_of(data), good or is_excused, error)

    def _write_whole(self) -> None:
        """Write the block that waits for its END; if that has arrived, the file is finished in the same go: with many
        small files each change of thread costs more than the writing."""
        if self._whole is None:
            return
        (arriving, block, data), self._whole = self._whole, None
        target, end = arriving.target, arriving.end
        if end is None or target is None or arriving.pending or arriving.failure:
            self._write(arriving, block, data)
        elif arriving.is_small and not target.in_order:
            arriving.pending += 1
            self._together.add(self._finishing, (arriving, target, block, data, end))
        else:
            self._submit(arriving, lambda: finish_whole(target, block, data, end), lambda result, error: (
                self._was_written_whole(arriving, buffer_of(data), result, error)))

    def _was_written_with_others(self, finishing: Finishing, result: Written | None, error: Exception | None) -> None:
        arriving, _target, _block, data, _end = finishing
        self._was_written_whole(arriving, buffer_of(data), result, error)

    def _was_written_whole(self, arriving: Arrival, buffer: bytearray, result: Written | None,
                           error: Exception | None) -> None:
        good, digest = result or (False, None)
        if good:
            self._release(buffer)
            self._was_finished(arriving, digest, None)
        else:
            self._was_written(arriving, buffer, good, error)

    def on_over(self, code: int, reason: str, _local: bool) -> None:
        """The connection has ended; what has arrived is kept for another attempt."""
        self._together.hand_over()
        self._bundles.close()
        self._deletion.close()
        unfinished = list(self._files.values())
        self._files = {}
        self._whole = None
        self._queue.clear()
        for arriving in unfinished:
            arriving.settled = True
            if arriving.candidate is not None:
                arriving.candidate.cancel()
            self._closing.add(arriving)
            self._close_soon(arriving)
        done = self._said_bye and code == 0
        self._observer.on_finished(self, None if done else reason or "the sender closed the connection", code)

    @property
    def progress(self) -> int:
        """Bytes of files that have arrived, including the current block's."""
        return self.received_bytes + self.begun_bytes

    @property
    def waits_for_us(self) -> bool:
        """Whether the sender has to wait because our disk is busy."""
        return self._waiting_block or self._bundles.busy or any(
            arriving.pending or arriving.target is None for arriving in self._files.values())

    @property
    def closing(self) -> bool:
        """Whether the connection is over and files of it are still being written."""
        return bool(self._closing)

    def is_receiving(self, file: File) -> bool:
        """Whether the same source is already arriving at the same place."""
        place = self._destination.place_of(file)
        return any((self._destination.place_of(one.file), one.file.identity) == (place, file.identity)
                   for one in self._files.values())

    def is_closing(self, file: File) -> bool:
        """Whether another transfer is about to let go of this file's place."""
        place = self._destination.place_of(file)
        return any(self._destination.place_of(one.file) == place for one in self._closing)

    # ---- what the sender says

    def _arriving(self, index: int) -> Arrival | None:
        """The file; None when it was settled while the message was under way."""
        if index >= self._next_index:
            raise messages.bad("the sender referred to a file that is not being transferred")
        return self._files.get(index)

    def _on_file(self, file: File) -> None:
        if file.index in self._files or len(self._files) >= messages.MOST_AHEAD:
            raise messages.bad("a file announced twice, or too many at once")
        if self.first is None:
            self.first = file.name, file.identity
            refusal = self._observer.on_first_file(self)
            if refusal:
                self.give_up(EndCode.ABORTED, refusal)
                return
        if file.attributes and not self._destination.takes_attributes:
            file = file._replace(attributes=b"")
        self._next_index = max(self._next_index, file.index + 1)  # what went otherwise, or could not be, leaves gaps
        arriving = self._files[file.index] = Arrival(file, self._bundles.received)
        if arriving.digest_bytes > ALL_DIGEST_BYTES:
            self._fail(arriving, Result.NO_SPACE, "a file larger than 8 TiB")
            return
        self._queue.append(arriving)
        self._open_next()

    def _on_end(self, end: End) -> None:
        arriving = self._arriving(end.index)
        if arriving is None:
            return
        arriving.take_end(end)
        if self._whole is not None:
            self._write_whole()
        else:
            self._advance(arriving)

    def _on_holes(self, holes: messages.Holes) -> None:
        arriving = self._arriving(holes.index)
        if arriving is None or arriving.failure:
            return
        target = arriving.take_holes(holes, self._destination.takes_holes and arriving.pending <= MOST_PENDING)
        self._submit(arriving, lambda: target.write_holes(holes.first, holes.count),
                     lambda _result, error: self._was_written(arriving, None, True, error))

    def _on_bye(self) -> None:
        if self._files or self._bundles.busy or self._deletion.busy:
            raise messages.bad("the sender said goodbye before its files were complete")
        self._said_bye = True
        self._workers.submit(lambda: self._destination.dress(self._directories.all), self._were_dressed)

    def _were_dressed(self, _result: None, _error: Exception | None) -> None:
        if not self.over:
            self.link.send(messages.pack_bye())
            self.link.finish()

    # ---- opening

    def _open_next(self) -> None:
        """Open announced files, in order, as many as may be open."""
        while self._queue and self._directory is None and not self.over:
            arriving = self._queue[0]
            if not arriving.settled and (arriving.behind > self._bundles.stored or not self._share.take(arriving)):
                return
            self._queue.popleft()
            if arriving.settled:
                continue
            if arriving.file.kind == FileKind.DIRECTORY:
                self._directory = arriving
            self._begin(arriving)

    def _let_go(self, arriving: Arrival) -> None:
        if arriving is self._directory:
            self._directory = None
        self._rebuilding.close_basis(arriving)
        self._share.give(arriving)
        self._open_next()
        self._bundles.go_on()

    def _begin(self, arriving: Arrival) -> None:
        if arriving.settled:
            return
        arriving.pending += 1
        if arriving.is_plain and not arriving.anew and not arriving.looks:
            self._together.add(self._openings, arriving)
            return
        self._workers.submit(lambda: self._opening.open(arriving),
                             lambda opened, error: self._was_opened(arriving, opened, error), short=arriving.is_small)

    def _was_opened(self, arriving: Arrival, opened: Opened | None, error: Exception | None) -> None:
        arriving.pending -= 1
        ranges: Ranges = ()
        made = False
        if opened is not None:
            arriving.target, ranges, made = opened
        if arriving.settled:
            self._close_soon(arriving)
        elif error is not None:
            self._could_not_open(arriving, error)
        elif arriving.target is None and arriving.file.kind != FileKind.DIRECTORY:
            self.kept_bytes += arriving.file.size
            self._settle(arriving, Result.DONE, bytes(DIGEST_BYTES), "")
        elif arriving.target is None:
            if self._note_directory(arriving.file, made):
                self._settle(arriving, Result.DONE, bytes(DIGEST_BYTES), "", made)
        elif arriving.failure:
            self._advance(arriving)
        else:
            self._ask(arriving, ranges)

    def _ask(self, arriving: Arrival, ranges: Ranges) -> None:
        arriving.asked = bool(ranges)
        if not arriving.anew and arriving.target is not None:
            self.kept_bytes += min(arriving.target.kept_blocks * LEAF_BYTES, arriving.file.size)
        self._rebuilding.send_sketch(arriving)
        self.link.send(messages.pack_want(arriving.file.index, ranges))

    def _could_not_open(self, arriving: Arrival, error: Exception) -> None:
        if isinstance(error, Busy):
            arriving.looks += 1
            if self._observer.on_busy(self, arriving.file, arriving.looks, lambda: self._begin(arriving)):
                return
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            self._observer.on_crowded(lambda: self._begin(arriving))
            return
        self._fail(arriving, *result_of(error))

    def _note_directory(self, file: File, made: bool) -> bool:
        """False: there are too many, and the connection is over."""
        if not self._directories.note(file, made):
            self.give_up(EndCode.BAD_PACKET, "more directories than one sender may create")
        return not self.over

    # ---- bundles

    def may_store(self) -> bool:
        begun = self._bundles.begun
        return self._directory is None and not any(
            arriving.file.kind == FileKind.DIRECTORY and arriving.behind <= begun for arriving in self._queue)

    def on_stored(self, stored: StoredBundle, data: memoryview) -> None:
        at = 0
        for part in stored.parts:
            if isinstance(part, FileGroup):
                self._note_group(part, stored.answers[at:at + part.count], stored.data)
                at += part.count
                continue
            file, digest, begin = part
            answer = stored.answers[at]
            at += 1
            if answer not in (BundleAnswer.DONE, BundleAnswer.MADE):
                continue
            if file.kind is FileKind.DIRECTORY:
                if not self._note_directory(file, answer == BundleAnswer.MADE):
                    return
            elif begin < 0:
                self.kept_bytes += file.size
            else:
                self.received_bytes += file.size
            self._observer.on_file(self, file, Result.DONE, digest, "")
        self.link.send(messages.pack_answer(stored.answers))
        self._release(buffer_of(data))
        self._open_next()

    def _note_group(self, group: FileGroup, answers: bytes, data: Data) -> None:
        def arrived() -> list[BundleEntry]:
            return [entry for entry, answer in zip(entries_of(data, group), answers, strict=True)
                    if answer == BundleAnswer.DONE]

        self.received_bytes += sum(entry.file.size for entry in arrived()) if any(answers) else group.size
        self._observer.on_files(self, arrived)

    def on_bad_bundle(self, error: PeerError) -> None:
        self.give_up(EndCode.BAD_PACKET, str(error))

    # ---- writing and finishing

    def _submit(self, arriving: Arrival, function: Callable[[], Found],
                done: Callable[[Found, Exception | None], object]) -> None:
        arriving.pending += 1
        in_order = arriving.target is not None and arriving.target.in_order
        workers = self._in_order if in_order else self._workers
        workers.submit(function, done, short=arriving.is_small)

    def _was_written(self, arriving: Arrival, buffer: bytearray | None, good: bool, error: Exception | None) -> None:
        if buffer is not None:
            self._release(buffer)
        arriving.pending -= 1
        if error is not None:
            arriving.failure = arriving.failure or result_of(error)
        elif not good:
            arriving.failure = arriving.failure or (Result.DAMAGED, "a block does not match its hash")
        if arriving.settled:
            self._close_soon(arriving)
        else:
            self._advance(arriving)

    def _release(self, buffer: bytearray) -> None:
        self._buffers.give(buffer)
        if self._waiting_block and not self.over:
            free = self._buffers.take(self.block_length)
            if free is not None:
                self._waiting_block = False
                self.take_block(free)

    def _advance(self, arriving: Arrival) -> None:
        """Settle a file as soon as that is possible."""
        if arriving.settled or arriving.pending:
            return
        if arriving.failure:
            code, text = arriving.failure
            if arriving.target is not None and code in (Result.CHANGED, Result.DAMAGED):
                arriving.target.discard()
            self._fail(arriving, code, text)
        elif arriving.end is not None and arriving.target is not None and arriving.wrong:
            self._submit(arriving, arriving.target.unlike_rebuilt,
                         lambda unlike, error: self._were_compared(arriving, unlike, error))
        elif arriving.end is not None and arriving.target is not None:
            target, end = arriving.target, arriving.end
            self._submit(arriving, lambda: target.finish(end.size, end.root),
                         lambda digest, error: self._was_finished(arriving, digest, error))

    def _were_compared(self, arriving: Arrival, unlike: set[int] | None, error: Exception | None) -> None:
        """All that was rebuilt, before what went wrong is asked for: that is done once."""
        arriving.pending -= 1
        if arriving.settled:
            self._close_soon(arriving)
        elif error is not None:
            self._fail(arriving, *result_of(error))
        else:
            arriving.wrong |= unlike or set()
            self._rebuilding.ask_again(arriving)

    def _was_finished(self, arriving: Arrival, digest: bytes | None, error: Exception | None) -> None:
        arriving.pending -= 1
        if arriving.settled:
            self._close_soon(arriving)
        elif isinstance(error, Differs):
            if arriving.target is not None:
                arriving.target.close()
            arriving.target, arriving.end, arriving.anew = None, None, True
            self.kept_bytes -= arriving.file.size
            self._begin(arriving)
        elif isinstance(error, Unlike) and not arriving.asked_again:
            arriving.wrong |= error.numbers
            self._rebuilding.ask_again(arriving)
        elif error is not None:
            self._fail(arriving, *result_of(error))
        elif digest is None:
            self._fail(arriving, Result.DAMAGED, "the hash of the whole file does not match")
        else:
            self._settle(arriving, Result.DONE, digest, "")

    def _fail(self, arriving: Arrival, code: Result, text: str) -> None:
        self._settle(arriving, code, bytes(DIGEST_BYTES), text)

    def _settle(self, arriving: Arrival, code: Result, digest: bytes, text: str, made: bool = False) -> None:
        arriving.settled = True
        del self._files[arriving.file.index]
        if arriving.target is not None:
            arriving.target.abandon()
            arriving.target = None
        self.link.send(messages.pack_result(arriving.file.index, code, digest, text, made))
        self._observer.on_file(self, arriving.file, code, digest, text)
        self._let_go(arriving)

    def _close_soon(self, arriving: Arrival) -> None:
        """After the end: let go of a file once no worker is busy with it."""
        if arriving.pending:
            return
        target, arriving.target = arriving.target, None
        if target is None:
            self._was_closed(arriving)
        else:
            self._submit_close(target, arriving)

    def _submit_close(self, target: ArrivingFile, arriving: Arrival) -> None:
        workers = self._in_order if target.in_order else self._workers
        workers.submit(target.abandon, lambda _result, _error: self._was_closed(arriving))

    def _was_closed(self, arriving: Arrival) -> None:
        self._closing.discard(arriving)
        self._let_go(arriving)
