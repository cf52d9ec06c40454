"""The sending side of a transfer: announces files, reads, hashes and sends what is wanted, and learns how it went.

Life of a block: wanted -> read and hashed on a worker's thread (READ_AHEAD of them at once) -> sent in order. The
loop's thread copies it into the connection's ring when there is room; that is all the back-pressure there is.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial

from mproxy.ground.errors import MproxyError
from mproxy.transfer import messages
from mproxy.transfer.basis import MOST_BLOCK_BYTES, SKETCH_BYTES_AHEAD
from mproxy.transfer.bundles_out import BundlesOutHost, OutgoingBundles
from mproxy.transfer.coding import pieces_of
from mproxy.transfer.conversation import Conversation
from mproxy.transfer.deletion_messages import Extra, Removed
from mproxy.transfer.deletion_out import OutgoingDeletion
from mproxy.transfer.file_run import FileRun
from mproxy.transfer.messages import (
    AHEAD,
    DELETES,
    LINKS,
    NOTES,
    PACKED,
    PACKED_BUNDLES,
    REBUILT,
    Answers,
    Coded,
    FileKind,
    MessageType,
    Outcome,
    ReceiverHello,
    Result,
    SketchPart,
    Want,
    bad,
)
from mproxy.transfer.reading import Reading, code_block, read_whole_files, why_unread
from mproxy.transfer.source_file import UNKNOWN_ROOT, Changed
from mproxy.transfer.source_queue import SourceQueue
from mproxy.transfer.tree import LEAF_BYTES, block_count, block_length
from mproxy.transfer.workers import Kind, Together

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.transfer.arriving import Data
    from mproxy.transfer.conversation import Bulk
    from mproxy.transfer.deletion_out import Deletion
    from mproxy.transfer.messages import Message
    from mproxy.transfer.reading import CodedBlock, ReadWhole
    from mproxy.transfer.source_file import ReadBlock, SourceFile
    from mproxy.transfer.squeezer import Squeezer
    from mproxy.transfer.throttle import Throttle
    from mproxy.transfer.workers import Workers
    from mproxy.transport._link import Link
    from mproxy.transport.keying import KeyExchange

READ_AHEAD = 6  # blocks being read, hashed, or waiting to be sent
SMALL_AHEAD = 256  # small files, instead of READ_AHEAD
BUNDLES_AHEAD = 2  # that wait for room in the connection's ring

_TOO_MANY_OPEN = (errno.EMFILE, errno.ENFILE)


class SendObserver:
    """Told by a FileSender."""

    def on_open(self, sender: FileSender) -> None:
        """The receiver is there, with the keys."""

    def on_file(self, sender: FileSender, source: SourceFile) -> None:
        """The outcome of a file is known."""

    def on_run(self, sender: FileSender, run: FileRun) -> None:
        """Small files have arrived, all of these."""
        for source in run.arrived():
            self.on_file(sender, source)

    def on_over(self, sender: FileSender, error: str | None, code: int, local: bool) -> None:
        """The connection is over; `error` None: all has arrived; `local`: this side found the reason."""


class FileSender(Conversation, BundlesOutHost):
    """Sends sources over a Link. `delta`: of a file of which the receiver has an older one only what has changed;
    `squeezer`: compressed, where it says so."""

    def __init__(self, link: Link, workers: Workers, observer: SendObserver, keying: KeyExchange | None = None,
                 throttle: Throttle | None = None, delta: bool = False, squeezer: Squeezer | None = None) -> None:
        super().__init__(link, keying)
        self._codings = REBUILT * delta | PACKED * (squeezer is not None)  # that may be used
        # Looking for blocks needs what is around one, too.
        self._buffer_bytes = LEAF_BYTES + 2 * MOST_BLOCK_BYTES * delta
        self._squeezer = squeezer
        self.takes_codings = self._codings  # those of them that the receiver reads, as far as is known
        self._sketch_bytes = 0  # of all sources
        self._out = throttle or link
        self._sources = SourceQueue()
        self._taken: dict[int, SourceFile | FileRun] = {}  # by their (first) index, until they are settled
        self.first: SourceFile | None = None  # what was announced first
        self._count = 0  # of sources that were taken
        self._taken_first_names = 0  # of `_taken`: those that are not another name of a file
        self._workers = workers
        self._observer = observer
        self._most_ahead = AHEAD  # files that may be announced and not settled
        self._announced: set[int] = set()  # by themselves, and not settled
        self._aside: deque[tuple[int, int]] = deque()  # index, and the bundles that go first
        self._bundles: OutgoingBundles | None = None  # once it is known that the receiver takes them
        self._announcing = False
        self._may_send_holes = False
        self._takes_notes: bool | None = None  # whether the receiver wants to know what is said beside the files
        self._notes: list[bytes] = []  # as long as that is not known
        self._told_total = False
        self.takes_attributes = True  # until the receiver says that it does not
        self._deletion: Deletion | None = None
        self._deleting: OutgoingDeletion | None = None  # while it is going on
        self._takes_deletions: bool | None = None  # the receiver does; None: it has not said hello
        self._said_bye = False
        self._together = Together(workers)
        self._small = Kind(read_whole_files, self._was_read_whole)
        self._wanted: deque[tuple[int, SourceFile, Iterator[int | range]]] = deque()  # with its index, block numbers
        self._reading: deque[Reading] = deque()  # in the order of sending
        self._spare: list[bytearray] = []  # buffers for blocks, kept because new ones would have to be cleared
        self._leaving: bytearray | None = None  # the buffer whose block is being copied into the connection's ring
        self.sent_bytes = 0  # of files
        self.kept_bytes = 0  # that the receiver had already
        self.hole_bytes = 0  # that need not be sent
        self.saved_bytes = 0  # that were sent in a shorter way

    @property
    def done_bytes(self) -> int:
        """Bytes of files that have arrived or are on their way."""
        return self.sent_bytes + self.kept_bytes + self.hole_bytes + self.saved_bytes

    @property
    def unsettled(self) -> list[SourceFile]:
        """What was taken of the sources, and has no outcome yet."""
        return [source for one in self._taken.values()
                for source in (one.sources() if isinstance(one, FileRun) else (one,))]

    def start(self, sources: SourceQueue, deletion: Deletion | None = None) -> None:
        """Say hello and announce: it leaves with the first packet that may carry it, sealed if there are keys.
        `deletion`: what comes last."""
        self._sources, self._deletion = sources, deletion
        sources.on_more = self._on_more
        self._out.send(messages.pack_hello(abilities=self._codings))
        self._announce()

    def leave_out(self, name: bytes, why: str) -> None:
        """Tell the receiver, if it understands that, what of the sources is not sent."""
        self._note(messages.pack_left_out(name, why))

    def _note(self, message: bytes) -> None:
        if self._takes_notes is None:
            self._notes.append(message)
        elif self._takes_notes and not self._said_bye:
            self._out.send(message)

    def _on_more(self) -> None:
        if not self.over:
            self._announce()
            self._send()

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
            if source.asked_again:
                self._forget_sketch(source)
                self._want(message.index, source, message.ranges)
                self._send()
                return
            self._want(message.index, source, ((0, block_count(source.size)),) if source.compared else message.ranges)
            if source.kind == FileKind.FILE:
                self.kept_bytes -= source.kept_bytes
                source.kept_bytes = source.size - sum(
                    min(count * LEAF_BYTES, source.size - first * LEAF_BYTES) for first, count in message.ranges)
                self.kept_bytes += source.kept_bytes
            self._send()
        elif isinstance(message, Outcome):
            source = self._source_of(message.index)
            if message.made and source.kind == FileKind.DIRECTORY and self._bundles is not None:
                self._bundles.note_made(source.name)
            self._settle(source, message)
        elif isinstance(message, Answers):
            self._take_answers(message)
        elif isinstance(message, SketchPart):
            self._take_sketch(self._source_of(message.index), message)
        elif isinstance(message, Extra):
            self._deleting_now().take_extra(message)
        elif isinstance(message, Removed):
            self._deleting_now().take_removed(message)
        elif kind == MessageType.BYE:
            self.link.finish()
        elif isinstance(message, ReceiverHello):
            self._most_ahead, self._may_send_holes = message.ahead, message.takes_holes
            self.takes_attributes = message.takes_attributes
            self.takes_codings = self._codings & message.abilities
            self._takes_deletions = bool(message.abilities & DELETES)
            self._takes_notes = bool(message.abilities & NOTES)
            notes, self._notes = self._notes, []
            for note in notes:
                self._note(note)
            if message.takes_bundles and self._bundles is None:
                self._bundles = OutgoingBundles(self, self._workers)
            if self._bundles is not None:
                self._bundles.squeezer = self._squeezer if message.abilities & PACKED_BUNDLES else None
                self._bundles.takes_links = bool(message.abilities & LINKS)
            self._announce()
        else:
            raise bad("the receiver sent a message that only a sender may send")

    def block_buffer(self, _block: Bulk, _length: int) -> bytearray | None:
        raise bad("the receiver sent a message that only a sender may send")

    def on_block(self, block: Bulk, data: memoryview) -> None:
        """Never called: `block_buffer` offers no buffer."""

    def on_sent(self, _link: Link) -> None:
        self._send()

    def on_over(self, code: int, reason: str, local: bool) -> None:
        for source in self._taken.values():
            if not isinstance(source, FileRun):
                source.close()
        if self._deleting is not None:
            self._deleting.close()
        done = code == 0 and self._is_done and (self._deletion is None or self._deletion.is_over)
        self._observer.on_over(self, None if done else reason or "the receiver closed the connection", code, local)

    # ---- inner

    def _source_of(self, index: int) -> SourceFile:
        source = self._taken[index] if index in self._announced else None
        if source is None or isinstance(source, FileRun):
            raise bad("the receiver referred to a file that is not being transferred")
        return source

    @property
    def _is_done(self) -> bool:
        return not self._taken and self._sources.ended

    # ---- announcing

    def _announce(self) -> None:
        """Announce sources, as far ahead as may be."""
        if self._announcing or self.over or self._gave_up:
            return
        self._announcing = True
        if self._bundles is None:
            while self._may_announce() and (self._aside or self._take_aside()):
                if not self._announce_alone(self._aside.popleft()[0]):
                    break
        else:
            self._fill_bundles(self._bundles)
            while self._aside and self._aside[0][1] <= self._bundles.sent and self._may_announce():
                if not self._announce_alone(self._aside.popleft()[0]):
                    break
        self._announcing = False
        total = self._sources.total_bytes
        if total is not None and self._takes_notes and not self._told_total:
            self._told_total = True
            self._out.send(messages.pack_total(total))
        if not self._said_bye and self._is_done and not self._is_deleting():
            self._said_bye = True
            self._out.send(messages.pack_bye())
            if self._out is self.link:  # else it may still wait for its time
                self.link.finish()  # one round trip less than after the receiver's goodbye

    def _is_deleting(self) -> bool:
        """Whether something is still to be deleted, which begins now if it has not; or the receiver's hello, which
        tells whether it can, is waited for."""
        deletion = self._deletion
        if deletion is None or deletion.is_over:
            return False
        if self._takes_deletions is None or self._deleting is not None:
            return True
        if not deletion.may_begin(self._takes_deletions):
            return False
        self._deleting = OutgoingDeletion(deletion, self._workers, self._out.send, self._announce)
        self._deleting.begin()
        return True

    def _deleting_now(self) -> OutgoingDeletion:
        if self._deleting is None:
            raise bad("the receiver speaks of deleting, and nobody has asked for it")
        return self._deleting

    def _take(self) -> tuple[int, SourceFile] | None:
        """The next source, with its index; None if there is none now."""
        if self._is_undecided:
            return None
        source = self._sources.take(self._taken_first_names == 0)
        if source is None:
            return None
        index, self._count = self._count, self._count + 1
        self.first = self.first or source
        self._taken[index] = source
        self._taken_first_names += not source.same_as
        return index, source

    @property
    def _is_undecided(self) -> bool:
        """Whether the answer to the first directory is waited for: it decides whether the rest is sent or asked for."""
        return self.first is not None and self.first.kind is FileKind.DIRECTORY and self.first.outcome is None

    def _take_run(self) -> tuple[int, FileRun] | None:
        """The next ones, with the index of the first, if they are a run and may go in a bundle."""
        run = self._sources.take_run() if self.first is not None and not self._is_undecided else None
        if run is None:
            return None
        index, self._count = self._count, self._count + run.count
        self._taken[index] = run
        self._taken_first_names += run.count
        return index, run

    def _take_aside(self) -> bool:
        """Whether there was one to be announced by itself."""
        taken = self._take()
        if taken is not None:
            self._aside.append((taken[0], 0))
        return taken is not None

    def _may_announce(self) -> bool:
        return len(self._announced) < self._most_ahead

    def _fill_bundles(self, bundles: OutgoingBundles) -> None:
        """Put into bundles what there is room for, and aside what goes in none."""
        bundles.add_wanted()
        while bundles.has_room and len(self._aside) < self._most_ahead:
            run = self._take_run()
            if run is not None:
                bundles.add_run(*run)
                continue
            taken = self._take()
            if taken is None:
                break
            index, source = taken
            if index > 0 and bundles.takes(source):  # by the first one a receiver knows whom it has
                bundles.add(index, source)
            else:
                self._aside.append((index, bundles.begun))
        bundles.hand_over()

    def _announce_alone(self, index: int) -> bool:
        """Announce a source by a FILE of its own. One that cannot be read is settled at once. False: too many files are
        open, and it is tried again when another one has ended."""
        source = self._taken[index]
        assert not isinstance(source, FileRun)  # those that are announced by themselves were taken apart
        try:
            message = source.open(index)
        except (OSError, MproxyError) as error:
            source.close()
            if getattr(error, "errno", None) in _TOO_MANY_OPEN and self._announced:
                self._aside.appendleft((index, 0))
                return False
            why = f"cannot read: {why_unread(error)}"
            self.leave_out(source.name, why)
            self._settle(source, messages.Outcome(index, Result.UNREADABLE, UNKNOWN_ROOT, why))
            return True
        self._announced.add(index)
        self._out.send(messages.pack_file(message))
        return True

    def _take_sketch(self, source: SourceFile, part: SketchPart) -> None:
        if not self.takes_codings & REBUILT:
            raise bad("the receiver sent a sketch that nobody has asked for")
        before = source.sketch_bytes
        source.add_sketch(part)
        self._sketch_bytes += source.sketch_bytes - before
        if self._sketch_bytes > SKETCH_BYTES_AHEAD:
            raise bad("the receiver sent more sketches than a sender has room for")

    def _forget_sketch(self, source: SourceFile) -> None:
        self._sketch_bytes -= source.sketch_bytes
        source.forget_sketch()

    def _settle(self, source: SourceFile, outcome: Outcome) -> None:
        source.outcome = outcome
        if self._sketch_bytes:
            self._forget_sketch(source)
        source.close()
        self._announced.discard(outcome.index)
        del self._taken[outcome.index]
        self._taken_first_names -= not source.same_as
        if self._deletion is not None:
            self._deletion.note(source)
        self._observer.on_file(self, source)
        self._announce()

    # ---- bundles

    def _take_answers(self, answers: Answers) -> None:
        if self._bundles is None:
            raise bad("the receiver answered a bundle that was not sent")
        self._announcing = True  # not after each of them
        try:
            self._bundles.answer(answers)
        finally:
            self._announcing = False
        self._announce()

    def on_bundle_read(self) -> None:
        if not self.over:
            self._send()

    def on_answer(self, source: SourceFile, outcome: Outcome, is_kept: bool) -> None:
        self.kept_bytes += source.size * is_kept
        self._settle(source, outcome)

    def on_run_arrived(self, index: int, run: FileRun, is_kept: bool) -> None:
        self.kept_bytes += run.size * is_kept
        del self._taken[index]
        self._taken_first_names -= run.count
        self._observer.on_run(self, run)

    def take_apart(self, index: int, run: FileRun) -> list[tuple[int, SourceFile]]:
        del self._taken[index]
        singles = list(enumerate(run.sources(), index))
        for _index, source in singles:
            source.size = source.expected_bytes
        self._taken.update(singles)
        return singles

    def on_alone(self, index: int, _source: SourceFile) -> None:
        self._aside.append((index, 0))

    def _send_bundles(self, bundles: OutgoingBundles) -> None:
        while bundles.is_ready and self._out.unsent < BUNDLES_AHEAD:
            message, moved, saved = bundles.take()
            if message:
                if bundles.squeezer is not None:
                    bundles.squeezer.note(len(message) + saved)
                saved = min(saved, moved)  # the rest is of what is said of the files
                self.sent_bytes += moved - saved
                self.saved_bytes += saved
                self._out.send(message)
            self._announce()

    # ---- blocks

    def _want(self, index: int, source: SourceFile, ranges: Sequence[tuple[int, int]]) -> None:
        source.sparse = source.sparse and self._may_send_holes
        self._wanted.append((index, source, source.pieces(ranges)))

    def _read(self) -> None:
        """Keep the workers busy."""
        while self._wanted:
            index, source, numbers = self._wanted[0]
            if len(self._reading) >= (SMALL_AHEAD if source.is_small else READ_AHEAD):
                return
            if source.outcome is not None or source.failed:
                self._wanted.popleft()
                continue
            if source.kind == FileKind.PIPE and self._reading:
                return  # in order, one at a time
            number = next(numbers, None)
            reading = Reading(source, index)
            self._reading.append(reading)
            if number is not None and source.is_small:
                self._wanted.popleft()
                source.reads += 1
                self._together.add(self._small, reading)
                continue
            if number is None:  # behind the last block: END
                self._wanted.popleft()
                reading.done = True
                continue
            if isinstance(number, range):
                reading.holes, reading.done = number, True
                continue
            source.reads += 1
            buffer = reading.buffer = self._spare.pop() if self._spare else bytearray(self._buffer_bytes)
            self._workers.submit(partial(self._read_block, source, number, buffer), partial(self._was_read, reading))

    def _read_block(self, source: SourceFile, number: int,
                    buffer: bytearray) -> tuple[ReadBlock | None, CodedBlock | None]:
        """Read a block, and find a shorter way to write it. On a worker's thread."""
        codings = 0 if source.compared or source.asked_again else self.takes_codings
        squeezer = self._squeezer if codings & PACKED else None
        sketch = source.sketch if codings & REBUILT else None
        if sketch is None:
            block = source.read_block(number, buffer)
            return block, code_block(block[1], None, squeezer) if block is not None and squeezer is not None else None
        text, begin = source.read_around(number, buffer, sketch.block_bytes - 1)
        data = text[begin:begin + block_length(source.size, number)]
        pieces = pieces_of(sketch, text, begin, len(data), number)
        return (number, data, source.digest_of(number, data)), code_block(data, pieces, squeezer)

    def _was_read(self, reading: Reading, found: tuple[ReadBlock | None, CodedBlock | None] | None,
                  error: Exception | None) -> None:
        if found is not None:
            reading.block, reading.coded = found
        self._end_reading(reading, error)

    def _was_read_whole(self, reading: Reading, whole: ReadWhole | None, error: Exception | None) -> None:
        reading.whole = whole
        self._end_reading(reading, error)

    def _end_reading(self, reading: Reading, error: Exception | None) -> None:
        reading.done, reading.error = True, error
        reading.source.was_read()
        if not self.over:
            self._send()

    def _send(self) -> None:
        """Send what was read, in order, while the connection has room, and have more read."""
        if self._bundles is not None:
            self._send_bundles(self._bundles)
        ready = True
        while ready:
            while self._may_send():
                if self._leaving is not None:
                    self._spare.append(self._leaving)
                reading = self._reading.popleft()
                self._leaving = reading.buffer
                if reading.source.outcome is None and not reading.source.failed:
                    self._send_one(reading.source, reading)
            self._read()
            ready = self._may_send()  # there was something to send that need not be read

    def _may_send(self) -> bool:
        """Whether something was read and the connection has room; for small files, whether not too many wait."""
        if not self._reading or not self._reading[0].done:
            return False
        return self._out.unsent < (SMALL_AHEAD if self._leaving is None and self._reading[0].source.is_small else 1)

    def _send_one(self, source: SourceFile, reading: Reading) -> None:
        index = reading.index
        try:
            if reading.error is not None:
                raise reading.error
            if reading.whole is not None:
                self._send_whole(source, index, *reading.whole)
                return
            if reading.holes:
                self._send_holes(source, index, reading.holes)
                return
            if reading.block is None:
                if self._wanted and self._wanted[0][0] == index:
                    self._wanted.popleft()  # a pipe's end
                source.check_unchanged()
                self._out.send(messages.pack_end(index, source.size, source.root()))
                return
        except (OSError, MproxyError) as error:
            code = Result.CHANGED if isinstance(error, Changed) else Result.UNREADABLE
            text = why_unread(error)
            source.failed = True  # settled by the receiver's answer
            self._out.send(messages.pack_result(index, code, text=text))
            return
        number, data, digest = reading.block
        source.note(number, digest, len(data))
        if source.compared:
            return
        if self._squeezer is not None:
            self._squeezer.note(len(data) if reading.coded is None else reading.coded[2])
        if reading.coded is not None:
            self._send_coded(index, reading.block, *reading.coded[:2])
            return
        self.sent_bytes += len(data)
        self._out.send(messages.pack_block_header(index, number, digest, len(data)))
        if data:
            self._out.send(data)

    def _send_coded(self, index: int, block: ReadBlock, coding: int, coded: Data) -> None:
        number, data, digest = block
        self.sent_bytes += len(coded)
        self.saved_bytes += len(data) - len(coded)
        self._out.send(messages.pack_coded_header(Coded(index, number, digest, coding, len(data)), len(coded)))
        self._out.send(coded)

    def _send_holes(self, source: SourceFile, index: int, holes: range) -> None:
        source.note_holes(holes)
        if not source.compared:
            self.hole_bytes += len(holes) * LEAF_BYTES
            self._out.send(messages.pack_holes(index, holes.start, len(holes)))

    def _send_whole(self, source: SourceFile, index: int, data: bytearray, digest: bytes) -> None:
        source.note(0, digest, len(data))
        if source.compared:
            self._out.send(messages.pack_end(index, source.size, source.root()))
            return
        self.sent_bytes += len(data)
        self._out.send(messages.pack_whole(index, digest, data, source.root()))
