"""The bundles that a sender makes: small files and directories are gathered, read together on a worker's thread, and
sent in order, as long as the connection has room. Nothing is waited for: the answers come whenever they come.

A file goes with its contents where nothing can be yet: in a directory that the receiver has made now, and in those
below it. Elsewhere the receiver first says whether it wants them.
"""

from __future__ import annotations

import os
from collections import deque
from functools import partial
from itertools import groupby

from mproxy.transfer._small import HERE, MOST_BYTES, pack_files, pack_run
from mproxy.transfer.attributes import has_attributes
from mproxy.transfer.bundle import (
    AS_DIRECTORY,
    AS_FILE,
    AS_LINK,
    BUNDLE_BYTES,
    BUNDLE_ENTRIES,
    ENTRY_BYTES,
    FOLLOWED,
    UNREAD,
    WITH_DATA,
    WITH_OTHER,
    WITHOUT_ATTRIBUTES,
    BundleAnswer,
)
from mproxy.transfer.file_run import FileRun
from mproxy.transfer.messages import BY_TIME, Answers, FileKind, Outcome, Result, bad, pack_bundle, pack_packed_bundle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.transfer.source_file import SourceFile
    from mproxy.transfer.squeezer import Squeezer
    from mproxy.transfer.workers import Workers
    Item = tuple[int, SourceFile | FileRun, bool]  # which one (of a run the first), that, whether contents are sent
    Single = tuple[int, SourceFile]

MOST_READING = 4  # bundles that are being read, or wait to be sent

# Sources that may be on their way or unanswered: what is kept of them takes memory. 16 MB of files of 1 KB.
MOST_UNANSWERED = 16384

_FILE, _DIRECTORY, _LINK = FileKind.FILE.value, FileKind.DIRECTORY.value, FileKind.LINK.value
_DONE, _MADE, _WANTED, _ALONE = BundleAnswer


class BundlesOutHost:
    """What OutgoingBundles need of the sender."""

    def on_bundle_read(self) -> None:
        """A bundle can be sent."""
        raise NotImplementedError

    def on_answer(self, source: SourceFile, outcome: Outcome, is_kept: bool) -> None:
        """What became of a source that was in a bundle; `is_kept`: the receiver had it already."""
        raise NotImplementedError

    def on_run_arrived(self, index: int, run: FileRun, is_kept: bool) -> None:
        """All files of a run are there; `is_kept`: the receiver had them already."""
        raise NotImplementedError

    def take_apart(self, index: int, run: FileRun) -> list[Single]:
        """The files of a run, each by itself from now on, with its number."""
        raise NotImplementedError

    def on_alone(self, index: int, source: SourceFile) -> None:
        """It has to be announced by itself."""
        raise NotImplementedError


class _OutgoingBundle:
    """One bundle, from its first item until its answer."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.roots: list[bytes] = []  # of those that were sent; of a run none, it has them itself
        self.count = 0  # of entries
        self.expected_bytes = 0
        self.message: bytes | None = None  # once they were read
        self.saved_bytes = 0  # of it, as it is compressed
        self.left: list[Item] = []  # what could not be read so
        self.gaps: dict[int, list[int]] = {}  # index of a run, and the numbers of those of it that could not
        self.moved_bytes = 0


class OutgoingBundles:
    """Of one sender."""

    def __init__(self, host: BundlesOutHost, workers: Workers) -> None:
        self._host, self._workers = host, workers
        self._filling = _OutgoingBundle()
        self._reading: deque[_OutgoingBundle] = deque()  # in the order of sending
        self._unanswered: deque[_OutgoingBundle] = deque()
        self._wanted: deque[tuple[int, SourceFile]] = deque()  # that the receiver has asked for
        self._fresh: set[bytes] = set()  # directories in which the receiver has nothing but what was sent
        self._unanswered_items = 0
        self.made = self.sent = 0  # bundles that were handed to a worker, and to the connection
        self.takes_links = False  # the receiver does, in bundles
        self.squeezer: Squeezer | None = None  # that compresses them, once the receiver takes such

    # ---- what is put into them

    def takes(self, source: SourceFile) -> bool:
        """Whether this may go in a bundle."""
        if source.path is None or (source.same_as and not self.takes_links):
            return False
        if source.kind is FileKind.LINK:
            return self.takes_links
        if source.kind is FileKind.DIRECTORY:  # what is in it comes behind it
            return not (source.with_attributes and has_attributes(source.path))
        return source.kind is FileKind.FILE and source.expected_bytes <= MOST_BYTES

    @property
    def begun(self) -> int:
        """Bundles that were begun: those that a source of its own has to wait for."""
        return self.made + bool(self._filling.items)

    @property
    def has_room(self) -> bool:
        """Whether another source may be added."""
        return len(self._reading) < MOST_READING and self._unanswered_items < MOST_UNANSWERED

    def note_made(self, name: bytes) -> None:
        """The receiver has made this directory now."""
        self._fresh.add(name)

    def add_run(self, index: int, run: FileRun) -> None:
        """Have these sent."""
        filling, with_data = self._filling, self._is_fresh(run.name)
        needed = run.count * (ENTRY_BYTES + len(run.name) + 1) + sum(map(len, run.names)) + (
            run.expected_bytes * with_data)
        if filling.count + run.count > BUNDLE_ENTRIES or filling.expected_bytes + needed > BUNDLE_BYTES:
            self.hand_over()
        self._fill(index, run, with_data, run.count, needed)

    def add(self, index: int, source: SourceFile) -> None:
        """Have it sent."""
        self._put(index, source, not source.same_as and self._is_fresh(source.name.rpartition(b"/")[0]))

    def _is_fresh(self, directory: bytes) -> bool:
        """Whether the receiver has nothing there but what was sent: it was made now, or lies in one that was."""
        way = directory
        while way not in self._fresh:
            if not way:
                return False
            way = way.rpartition(b"/")[0]
        self._fresh.add(directory)
        return True

    def add_wanted(self) -> None:
        """Have sent what the receiver has asked for, as far as there is room."""
        while self._wanted and self.has_room:
            self._put(*self._wanted.popleft(), True)

    def _put(self, index: int, source: SourceFile, with_data: bool) -> None:
        self._fill(index, source, with_data, 1, ENTRY_BYTES + len(source.name) + len(source.same_as) + (
            source.expected_bytes * with_data))

    def _fill(self, index: int, source: SourceFile | FileRun, with_data: bool, count: int, needed: int) -> None:
        filling = self._filling
        filling.items.append((index, source, with_data))
        filling.count += count
        filling.expected_bytes += needed
        if filling.count >= BUNDLE_ENTRIES or filling.expected_bytes >= BUNDLE_BYTES:
            self.hand_over()

    def hand_over(self) -> None:
        """Have read what was added so far."""
        if not self._filling.items:
            return
        bundle, self._filling = self._filling, _OutgoingBundle()
        self._reading.append(bundle)
        self.made += 1
        self._workers.submit(partial(_read, bundle, self.squeezer), partial(self._was_read, bundle),
                             short=bundle.count)

    def _was_read(self, _bundle: _OutgoingBundle, _result: None, error: Exception | None) -> None:
        if error is not None:
            raise error
        self._host.on_bundle_read()

    # ---- sending

    @property
    def is_ready(self) -> bool:
        """Whether the next one can be sent."""
        return bool(self._reading) and self._reading[0].message is not None

    def take(self) -> tuple[bytes, int, int]:
        """(message, bytes of files in it, bytes that compressing it has saved) of the next one; it is empty if nothing
        of it could be read."""
        bundle = self._reading.popleft()
        message, bundle.message = bundle.message, None
        self.sent += 1
        if bundle.gaps:
            self._leave_gaps(bundle)
        for index, source, _with_data in bundle.left:
            assert not isinstance(source, FileRun)
            self._host.on_alone(index, source)
        if bundle.items:
            self._unanswered.append(bundle)
            self._unanswered_items += bundle.count
        return message or b"", bundle.moved_bytes, bundle.saved_bytes

    def _leave_gaps(self, bundle: _OutgoingBundle) -> None:
        """Take apart the runs of which some could not be read."""
        items, roots = bundle.items, bundle.roots
        bundle.items, bundle.roots = [], []
        for item, root in zip(items, roots, strict=True):
            index, run, with_data = item
            gaps = bundle.gaps.get(index)
            if gaps is None or not isinstance(run, FileRun):
                bundle.items.append(item)
                bundle.roots.append(root)
                continue
            for number, (own_index, source) in enumerate(self._host.take_apart(index, run)):
                if number in gaps:
                    bundle.left.append((own_index, source, with_data))
                else:
                    bundle.items.append((own_index, source, with_data))
                    bundle.roots.append(run.root_of(number))

    # ---- answers

    def answer(self, answers: Answers) -> None:
        """Take the answer to the oldest bundle that has none; PeerError if that is none."""
        if not self._unanswered:
            raise bad("the receiver answered a bundle that was not sent")
        bundle = self._unanswered.popleft()
        self._unanswered_items -= bundle.count
        codes = answers.codes
        if len(codes) != bundle.count or max(codes) > max(BundleAnswer):
            raise bad("the receiver's answer does not fit the bundle")
        at = 0
        for (index, source, with_data), root in zip(bundle.items, bundle.roots, strict=True):
            some = codes[at:at + source.count]
            at += source.count
            if not isinstance(source, FileRun):
                self._take_answer(index, source, with_data, root, some[0])
            elif not any(some):
                self._host.on_run_arrived(index, source, not with_data)
            else:
                for number, (own_index, one) in enumerate(self._host.take_apart(index, source)):
                    self._take_answer(own_index, one, with_data, source.root_of(number), some[number])

    def _take_answer(self, index: int, source: SourceFile, with_data: bool, root: bytes, code: int) -> None:
        if code == _WANTED and source.kind is FileKind.FILE and not with_data:
            self._wanted.append((index, source))
        elif code == _ALONE:
            self._host.on_alone(index, source)
        elif code == _DONE or (code == _MADE and source.kind is FileKind.DIRECTORY):
            if code == _MADE:
                self._fresh.add(source.name)
            self._host.on_answer(source, Outcome(index, Result.DONE, root, ""), not with_data)
        else:
            raise bad("the receiver's answer does not fit the bundle")


def _read(bundle: _OutgoingBundle, squeezer: Squeezer | None) -> None:
    """Read the sources of a bundle. On a worker's thread; nobody else touches it meanwhile."""
    parts: list[bytes] = []
    items, bundle.items = bundle.items, []
    for is_run, some in groupby(items, _is_run):
        if is_run:
            for item in some:
                _read_run(bundle, item, parts)
        else:
            _read_singles(bundle, list(some), parts)
    entries = b"".join(parts)
    packed = squeezer.squeeze(entries) if squeezer is not None and bundle.count else None
    if packed is not None:
        bundle.saved_bytes = len(entries) - len(packed)
        bundle.message = pack_packed_bundle(bundle.count, len(entries), packed)
    else:
        bundle.message = pack_bundle(bundle.count, entries) if bundle.count else b""


def _is_run(item: Item) -> bool:
    return isinstance(item[1], FileRun)


def _read_singles(bundle: _OutgoingBundle, items: list[Item], parts: list[bytes]) -> None:
    entries, found = pack_files([_wanted(source, with_data) for _index, source, with_data in items
                                 if not isinstance(source, FileRun)])
    parts.append(entries)
    for item, one in zip(items, found, strict=True):
        _index, source, with_data = item
        if one is None:
            bundle.left.append(item)
            bundle.count -= 1
            continue
        size, root = one
        bundle.items.append(item)
        bundle.roots.append(root)
        if source.kind is not FileKind.LINK and not isinstance(source, FileRun):
            source.size = size
            bundle.moved_bytes += size * with_data


def _read_run(bundle: _OutgoingBundle, item: Item, parts: list[bytes]) -> None:
    index, run, with_data = item
    assert isinstance(run, FileRun)
    bundle.items.append(item)
    bundle.roots.append(b"")
    how = AS_FILE | FOLLOWED * run.follows | WITHOUT_ATTRIBUTES * run.with_attributes | UNREAD * (
        run.by_time and not with_data)
    try:
        directory = os.open(run.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        gaps = list(range(run.count))
    else:
        try:
            entries, sizes, run.roots, gaps = pack_run(directory, run.names, how,
                                                       BY_TIME * run.by_time | WITH_DATA * with_data, run.name)
        finally:
            os.close(directory)
        run.sizes = memoryview(sizes).cast("H")
        parts.append(entries)
        bundle.moved_bytes += run.size * with_data
    if gaps:
        bundle.gaps[index] = gaps
        bundle.count -= len(gaps)


def _wanted(source: SourceFile, with_data: bool) -> tuple[int, bytes, int, int, int, bytes, bytes]:
    """As pack_files takes it."""
    path = os.fsencode(source.path or "")
    if source.kind is FileKind.LINK:
        return HERE, path, AS_LINK, _LINK, WITH_DATA, source.name, b""
    how = FOLLOWED * source.follows | WITHOUT_ATTRIBUTES * source.with_attributes
    if source.kind is FileKind.DIRECTORY:
        return HERE, path, AS_DIRECTORY | how, _DIRECTORY, 0, source.name, b""
    if source.same_as:  # its contents are compared whatever its time is
        return HERE, path, AS_FILE | how, _FILE, WITH_OTHER, source.name, source.same_as
    return (HERE, path, AS_FILE | how | UNREAD * (source.by_time and not with_data), _FILE,
            BY_TIME * source.by_time | WITH_DATA * with_data, source.name, b"")
