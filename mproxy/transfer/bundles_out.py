"""The bundles that a sender makes: small files and directories are gathered, read together on a worker's thread, and
sent in order, as long as the connection has room. Nothing is waited for: the answers come whenever they come.

A file goes with its contents where nothing can be yet: in a directory that the receiver has made now, and in those
below it. Elsewhere the receiver first says whether it wants them.
"""

from __future__ import annotations

import os
from collections import deque
from functools import partial

from mproxy.transfer._small import HERE, MOST_BYTES, pack_files
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
from mproxy.transfer.messages import BY_TIME, Answers, FileKind, Outcome, Result, bad, pack_bundle, pack_packed_bundle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.transfer.source_file import SourceFile
    from mproxy.transfer.squeezer import Squeezer
    from mproxy.transfer.workers import Workers
    # Which source, that source, whether its contents are sent.
    Item = tuple[int, SourceFile, bool]

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

    def on_alone(self, index: int, source: SourceFile) -> None:
        """It has to be announced by itself."""
        raise NotImplementedError


class _OutgoingBundle:
    """One bundle, from its first item until its answer."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.roots: list[bytes] = []  # of those that were sent
        self.expected_bytes = 0
        self.message: bytes | None = None  # once they were read
        self.saved_bytes = 0  # of it, as it is compressed
        self.left: list[Item] = []  # what could not be read so
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
        filling = self._filling
        filling.items.append((index, source, with_data))
        filling.expected_bytes += ENTRY_BYTES + len(source.name) + len(source.same_as) + (
            source.expected_bytes * with_data)
        if len(filling.items) >= BUNDLE_ENTRIES or filling.expected_bytes >= BUNDLE_BYTES:
            self.hand_over()

    def hand_over(self) -> None:
        """Have read what was added so far."""
        if not self._filling.items:
            return
        bundle, self._filling = self._filling, _OutgoingBundle()
        self._reading.append(bundle)
        self.made += 1
        self._workers.submit(partial(_read, bundle, self.squeezer), partial(self._was_read, bundle),
                             short=len(bundle.items))

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
        for index, source, _with_data in bundle.left:
            self._host.on_alone(index, source)
        if bundle.items:
            self._unanswered.append(bundle)
            self._unanswered_items += len(bundle.items)
        return message or b"", bundle.moved_bytes, bundle.saved_bytes

    # ---- answers

    def answer(self, answers: Answers) -> None:
        """Take the answer to the oldest bundle that has none; PeerError if that is none."""
        if not self._unanswered:
            raise bad("the receiver answered a bundle that was not sent")
        bundle = self._unanswered.popleft()
        self._unanswered_items -= len(bundle.items)
        if len(answers.codes) != len(bundle.items) or max(answers.codes) > max(BundleAnswer):
            raise bad("the receiver's answer does not fit the bundle")
        for (index, source, with_data), digest, code in zip(bundle.items, bundle.roots, answers.codes, strict=True):
            if code == _WANTED and source.kind is FileKind.FILE and not with_data:
                self._wanted.append((index, source))
            elif code == _ALONE:
                self._host.on_alone(index, source)
            elif code == _DONE or (code == _MADE and source.kind is FileKind.DIRECTORY):
                if code == _MADE:
                    self._fresh.add(source.name)
                self._host.on_answer(source, Outcome(index, Result.DONE, digest, ""), not with_data)
            else:
                raise bad("the receiver's answer does not fit the bundle")


def _read(bundle: _OutgoingBundle, squeezer: Squeezer | None) -> None:
    """Read the sources of a bundle. On a worker's thread; nobody else touches it meanwhile."""
    entries, found = pack_files([_wanted(source, with_data) for _index, source, with_data in bundle.items])
    if None in found:
        bundle.left = [item for item, one in zip(bundle.items, found, strict=True) if one is None]
        bundle.items = [item for item, one in zip(bundle.items, found, strict=True) if one is not None]
    there = [one for one in found if one is not None]
    for (_index, source, with_data), (size, _root) in zip(bundle.items, there, strict=True):
        if source.kind is not FileKind.LINK:
            source.size = size
            bundle.moved_bytes += size * with_data
    bundle.roots = [root for _size, root in there]
    packed = squeezer.squeeze(entries) if squeezer is not None and there else None
    if packed is not None:
        bundle.saved_bytes = len(entries) - len(packed)
        bundle.message = pack_packed_bundle(len(there), len(entries), packed)
    else:
        bundle.message = pack_bundle(len(there), entries) if there else b""


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
