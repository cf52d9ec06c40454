"""--delete, at the sender: what the receiver has in directories that were sent, and the sender does not, is deleted.

When everything has arrived, and only if all of it has, the sender lists its directories once more, and says what is in
them, whether it was sent or not: links that were left out, devices, and what --exclude leaves out, stay there, too. The
receiver answers with what else it has. Patterns apply to that as to what is sent, so that what is excluded there stays,
and what it lies in. The rest is deleted when whoever is asked says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

from mproxy.transfer.deletion_messages import (
    ANSWERS,
    CONTINUES,
    LAST,
    Extra,
    Keep,
    Remove,
    Removed,
    pack_keep,
    pack_remove,
)
from mproxy.transfer.messages import MOST_CONTROL_BYTES, MOST_RANGES, FileKind, Result, bad
from mproxy.transfer.selection import Selection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from mproxy.transfer.selection import Rule
    from mproxy.transfer.source_file import SourceFile
    from mproxy.transfer.workers import Workers
    # A path at the receiver, and whether it is a directory.
    Surplus = tuple[bytes, bool]

KEEPS_AHEAD = 32  # KEEPs that may be unanswered
MOST_EXTRAS = 1 << 20  # files that one sender may have deleted
FULL_BYTES = MOST_CONTROL_BYTES - 8192  # of names in a KEEP: one more path fits
NOT_ALL_FOUND = "something could not be read, so it is not known what is there"
MOST_EXTRA_BYTES = 256 << 20  # of all names that the receiver may tell


class DeletionObserver:
    """Whoever is asked, and told."""

    def on_surplus(self, surplus: Sequence[Surplus], answer: Callable[[bool], object]) -> None:
        """This would be deleted: call `answer`, now or later."""
        raise NotImplementedError

    def on_deleted(self, surplus: Sequence[Surplus], removed: Removed) -> None:
        """It was, as far as `removed` says."""

    def on_not_deleted(self, why: str) -> None:
        """Nothing was, or will be."""


class Deletion:
    """What one delivery deletes, over however many connections. `rules`: of --exclude and --include."""

    def __init__(self, sources: Iterable[SourceFile], rules: Iterable[Rule], observer: DeletionObserver) -> None:
        self._directories: dict[bytes, SourceFile] = {}
        for source in sources:
            self.add(source)
        self.selection = Selection(rules)
        self.observer = observer
        self.is_over = False
        self._spoilt = ""  # why nothing must be deleted

    def spoil(self, why: str) -> None:
        """Nothing must be deleted: not everything was found, or has arrived."""
        self._spoilt = self._spoilt or why

    @property
    def directories(self) -> list[SourceFile]:
        """In which something may be deleted, from the top down."""
        return list(self._directories.values())

    def add(self, source: SourceFile) -> None:
        """Of a directory: something may be deleted in it."""
        if source.kind is FileKind.DIRECTORY:
            self._directories.setdefault(source.name, source)

    def note(self, source: SourceFile) -> None:
        """How it went with a source."""
        self.add(source)
        if source.outcome is not None and source.outcome.code != Result.DONE:
            self.spoil("not everything has arrived")

    def may_begin(self, takes_deletions: bool) -> bool:
        """Whether it can be begun; else it is over."""
        if self.is_over:
            return False
        if not takes_deletions:
            self.spoil("the receiver deletes nothing: it is older than this version, or was started without --delete")
        if self._spoilt or not self.directories:
            self.leave()
        return not self.is_over

    def leave(self) -> None:
        """Nothing is deleted."""
        self.is_over = True
        if self._spoilt:
            self.observer.on_not_deleted(self._spoilt)


class OutgoingDeletion:
    """A Deletion over one connection. `send` takes messages, `on_over` is called at the end."""

    def __init__(self, deletion: Deletion, workers: Workers, send: Callable[[bytes], object],
                 on_over: Callable[[], object]) -> None:
        self._deletion, self._workers, self._send, self._on_over = deletion, workers, send, on_over
        self._listing = _keeps(deletion.directories)
        self._asked = 0  # KEEPs that have no answer yet
        self._is_listing = self._listed = False
        self._extras: list[Surplus] = []
        self._extra_bytes = 0
        self._all_known = self._closed = self._asked_to_remove = False
        self._surplus: list[Surplus] = []

    def begin(self) -> None:
        """Say what has to stay."""
        self._go_on()

    def close(self) -> None:
        """The connection has ended."""
        self._closed = True

    def _go_on(self) -> None:
        if not self._is_listing and not self._listed and self._asked < KEEPS_AHEAD:
            self._is_listing = True
            self._workers.submit(lambda: next(self._listing, None), self._was_listed)

    def _was_listed(self, keep: Keep | None, error: Exception | None) -> None:
        self._is_listing = False
        if self._closed:
            return
        if isinstance(error, OSError):
            self._deletion.spoil(f"{os.fsdecode(error.filename or '')}: {error.strerror}")
            self._leave()
        elif error is not None or keep is None:
            raise error or AssertionError
        else:
            self._listed = bool(keep.flags & LAST)
            self._asked += 1
            self._send(pack_keep(keep))
            self._go_on()

    def _leave(self) -> None:
        self._closed = True
        self._deletion.leave()
        self._on_over()

    def take_extra(self, extra: Extra) -> None:
        """What the receiver has beyond that. PeerError for what makes no sense."""
        if self._all_known or self._asked == 0 or extra.first != len(self._extras):
            raise bad("the receiver named files to be deleted that nobody asked for")
        self._extra_bytes += len(extra.names)
        for name in extra.names.split(b"\0") if extra.names else ():
            if name[:1] not in (b"d", b"f") or len(name) < 2:
                raise bad("the receiver named nothing to be deleted")
            self._extras.append((name[1:], name[:1] == b"d"))
        if len(self._extras) > MOST_EXTRAS or self._extra_bytes > MOST_EXTRA_BYTES:
            raise bad("the receiver named more files to be deleted than may be")
        self._asked -= bool(extra.flags & ANSWERS)
        if extra.flags & LAST:
            self._all_known = True
            self._ask()
        else:
            self._go_on()

    def _ask(self) -> None:
        numbers = removable(self._extras, self._deletion.selection)
        self._surplus = [self._extras[number] for number in numbers]
        if self._surplus:
            self._deletion.observer.on_surplus(self._surplus, lambda yes: self._answered(numbers, yes))
        else:
            self._leave()

    def _answered(self, numbers: list[int], yes: bool) -> None:
        if self._closed:
            return
        if not yes:
            self._leave()
            return
        self._asked_to_remove = True
        ranges = _ranges(numbers)
        for begin in range(0, len(ranges), MOST_RANGES):
            some = tuple(ranges[begin:begin + MOST_RANGES])
            self._send(pack_remove(Remove(LAST * (begin + MOST_RANGES >= len(ranges)), some)))

    def take_removed(self, removed: Removed) -> None:
        """How that went."""
        if not self._asked_to_remove or self._closed:
            raise bad("the receiver deleted what nobody asked for")
        self._closed = self._deletion.is_over = True
        self._deletion.observer.on_deleted(self._surplus, removed)
        self._on_over()


def removable(extras: Sequence[Surplus], selection: Selection) -> list[int]:
    """The numbers of what may be deleted: what patterns leave out stays, with what is in it and what it is in. A
    directory comes before what is in it."""
    kept: set[bytes] = set()  # left out, or in something that is
    needed: set[bytes] = set()  # directories that something lies in that stays
    for path, is_directory in extras:
        above = path.rpartition(b"/")[0]
        if above in kept or not selection.takes(path, is_directory):
            kept.add(path)
            while above and above not in needed:
                needed.add(above)
                above = above.rpartition(b"/")[0]
    return [number for number, (path, _is) in enumerate(extras) if path not in kept and path not in needed]


def _ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and sum(ranges[-1]) == number:
            ranges[-1] = ranges[-1][0], ranges[-1][1] + 1
        else:
            ranges.append((number, 1))
    return ranges


def _keeps(directories: Sequence[SourceFile]) -> Iterator[Keep]:
    """What is in directories, in messages; OSError."""
    names = bytearray()
    flags = 0
    for source in directories:
        assert source.path is not None
        head = source.name + b"\0"
        names += head
        for name in os.listdir(os.fsencode(source.path)):
            names += name + b"\0"
            if len(names) >= FULL_BYTES:
                yield Keep(flags, bytes(names) + b"\0")
                names[:], flags = head, CONTINUES
        names += b"\0"
        if len(names) >= FULL_BYTES:
            yield Keep(flags, bytes(names))
            names[:], flags = b"", 0
    yield Keep(flags | LAST, bytes(names))
