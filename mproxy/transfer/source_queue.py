"""What is to be sent, found while it is being sent: a tree may hold millions of files, and memory only some thousands.

A Search looks for sources on a thread of its own, until AHEAD of them wait to be taken. A SourceQueue hands them to
one FileSender after the other, as many as there are connections; what one of them
took and could not finish is put back.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from mproxy.transfer.file_run import FileRun
from mproxy.transfer.messages import FileKind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.transfer.source_file import SourceFile
    from mproxy.transfer.walk import OnLeftOut
    Source = SourceFile | FileRun

AHEAD = 4096  # sources, each of a run by itself, and things left out, that were found and not taken yet
AT_ONCE = 256  # handed over together
TELL_S = 0.002  # after which fewer are, if somebody waits for them


class _Closed(Exception):
    """Nobody wants more."""


class Search:
    """Looks for what `make_walk(on_left_out)` finds. `call_soon`: as of the loop, from any thread."""

    def __init__(self, make_walk: Callable[[OnLeftOut], Iterable[Source]],
                 call_soon: Callable[[Callable[[], None]], object]) -> None:
        self.on_found: Callable[[], object] = _ignore  # on the loop's thread: there is something to be taken
        self.found_bytes: int | None = 0  # of files, so far; None: nobody can know, as of a pipe
        self.ended = False  # everything was found, though perhaps not taken
        self._call_soon = call_soon
        self._changed = threading.Condition()  # guards the rest
        self._found: deque[list[Source]] = deque()
        self._left_out: list[tuple[str, str | OSError]] = []
        self._waiting = 0  # of both
        self._is_wanted = False  # somebody waits for the next one
        self._told = False
        self._closed = False
        self._walk = make_walk(self._leave_out)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._look()
        except _Closed:
            pass
        with self._changed:
            self.ended = True
            self._tell()

    def _look(self) -> None:
        some: list[Source] = []
        count = 0
        told_at = time.monotonic()
        try:
            for source in self._walk:
                some.append(source)
                count += source.count
                if count >= AT_ONCE or (self._is_wanted and time.monotonic() - told_at > TELL_S):
                    self._hand_over(some)
                    some, count, told_at = [], 0, time.monotonic()
        except _Closed:
            raise
        except Exception as error:  # the rest is not sent, which has to be said
            self._leave_out(os.curdir, OSError(errno.EIO, f"the search has failed: {type(error).__name__}: {error}"))
        self._hand_over(some)

    def _hand_over(self, some: list[Source]) -> None:
        with self._changed:
            self._wait_for_room()
            self._is_wanted = False
            self._waiting += _count(some)
            if some:
                self._found.append(some)
            for source in some:
                if source.kind is FileKind.PIPE:
                    self.found_bytes = None
                elif self.found_bytes is not None:
                    self.found_bytes += source.expected_bytes
            self._tell()

    def _leave_out(self, path: str, why: str | OSError) -> None:
        with self._changed:
            self._wait_for_room()
            self._waiting += 1
            self._left_out.append((path, why))
            self._tell()

    def _wait_for_room(self) -> None:
        self._changed.wait_for(lambda: self._closed or self._waiting < AHEAD)
        if self._closed:
            raise _Closed

    def _tell(self) -> None:
        self._changed.notify_all()
        if not self._told:
            self._told = True
            self._call_soon(self._on_told)

    def _on_told(self) -> None:
        self._told = False
        self.on_found()

    def wait(self) -> None:
        """Until everything was found, or as much as there is room for. Not on the loop's thread."""
        with self._changed:
            self._changed.wait_for(lambda: self.ended or self._waiting >= AHEAD)

    def fetch(self) -> list[Source]:
        """The next ones that were found; none: there will be a call of `on_found`, unless it has ended."""
        with self._changed:
            if self._found:
                some = self._found.popleft()
                self._waiting -= _count(some)
                self._changed.notify_all()
                return some
            self._is_wanted = True
        return []

    def fetch_left_out(self) -> list[tuple[str, str | OSError]]:
        """(path, why) of what was left out since the last call."""
        with self._changed:
            some, self._left_out = self._left_out, []
            self._waiting -= len(some)
            self._changed.notify_all()
        return some

    @property
    def all_taken(self) -> bool:
        """Whether everything was found and fetched."""
        with self._changed:
            return self.ended and not self._found

    def close(self) -> None:
        """Look for no more."""
        with self._changed:
            self._closed = True
            self._found.clear()
            self._waiting = 0
            self._changed.notify_all()


class SourceQueue:
    """In the order in which they are to be sent: `found`, then what `search` finds; further names of files last."""

    def __init__(self, found: Iterable[Source] = (), search: Search | None = None) -> None:
        self.on_more: Callable[[], object] = _ignore  # there is more to take, or the end was found
        self.on_left_out: OnLeftOut = _ignore  # told of what was left out
        self._ready: deque[Source] = deque()
        self._second_names: deque[SourceFile] = deque()
        self._search = self._began = search
        self._renamed: tuple[int, bytes] | None = None
        self._counted_bytes: int | None = None
        self._add(found)
        if search is not None:
            search.on_found = self._on_found

    def _on_found(self) -> None:
        self.tell_left_out()
        self.on_more()

    def tell_left_out(self) -> None:
        """Tell what was left out until now; otherwise it is told when more was found."""
        if self._began is not None:
            for path, why in self._began.fetch_left_out():
                self.on_left_out(path, why)

    @property
    def total_bytes(self) -> int | None:
        """Of all files; None: not known yet, or never, as of a pipe."""
        return self._began.found_bytes if self._began is not None and self._began.ended else self._counted_bytes

    @property
    def found_bytes(self) -> int | None:
        """Of the files that were found until now."""
        return self._began.found_bytes if self._began is not None else None

    def note_counted(self, total: int | None) -> None:
        """So many bytes there are: the search goes on only as what it finds is taken, so it is late to know."""
        self._counted_bytes = total
        self.on_more()

    def rename(self, length: int, name: bytes) -> None:
        """Have everything that is found called `name` in place of the first `length` bytes of its name."""
        self._renamed = length, name

    def _add(self, some: Iterable[Source]) -> None:
        for source in some:
            if not isinstance(source, FileRun) and source.same_as:
                self._second_names.append(source)
            else:
                self._ready.append(source)

    def _look(self) -> None:
        """Have something in `_ready`, if there is anything now."""
        while self._search is not None and not self._ready:
            some = self._search.fetch()
            if self._renamed is not None:
                length, name = self._renamed
                for source in some:
                    source.name = name + source.name[length:]
                    if source.same_as:
                        source.same_as = name + source.same_as[length:]
            self._add(some)
            if not some:
                if self._search.all_taken:
                    self._search = None
                    self.tell_left_out()  # before anybody takes this for the end
                return

    def take(self, others_arrived: bool) -> SourceFile | None:
        """The next one; None: there is none now. `others_arrived`: what was taken before is settled, so further names
        of it can go."""
        self._look()
        if self._ready:
            first = self._ready.popleft()
            if not isinstance(first, FileRun):
                return first
            first, *others = first.sources()
            self._ready.extendleft(reversed(others))
            return first
        if self._second_names and self._search is None and others_arrived:
            return self._second_names.popleft()
        return None

    def take_run(self) -> FileRun | None:
        """The next ones, if they are a run; else `take` has the next one."""
        self._look()
        if self._ready and isinstance(self._ready[0], FileRun):
            run = self._ready[0]
            self._ready.popleft()
            return run
        return None

    @property
    def ended(self) -> bool:
        """Whether everything was taken."""
        self._look()
        return self._search is None and not self._ready and not self._second_names

    def put_back(self, some: Iterable[SourceFile]) -> None:
        """These go first, in their order: they were taken for a connection that has ended."""
        again = list(some)
        self._ready.extendleft(source for source in reversed(again) if not source.same_as)
        self._second_names.extendleft(source for source in reversed(again) if source.same_as)


def _count(some: Iterable[Source]) -> int:
    """How many files and directories they are."""
    return sum(source.count for source in some)


def _ignore(*_what: object) -> None:
    """Nobody waits for it."""
