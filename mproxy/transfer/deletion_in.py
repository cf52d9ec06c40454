"""--delete, at the receiver: finds what the sender does not have, and deletes what it is told to of that.

Only what was found here can be deleted, by its number; no name that a peer has given is. Directories are opened one
after the other, never through a symbolic link, and a link is deleted itself and not what it leads to. What mproxy has
under temporary names stays.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

from mproxy.ground.errors import PeerError
from mproxy.transfer.deletion_messages import (
    ANSWERS,
    CONTINUES,
    LAST,
    Extra,
    Keep,
    Remove,
    Removed,
    pack_extra,
    pack_removed,
)
from mproxy.transfer.deletion_out import KEEPS_AHEAD, MOST_EXTRAS
from mproxy.transfer.destinations import IntoDirectory
from mproxy.transfer.file_names import BadName, is_temporary
from mproxy.transfer.messages import DELETES, MOST_CONTROL_BYTES, bad

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.transfer.deletion_out import Surplus
    from mproxy.transfer.destinations import Destination
    from mproxy.transfer.workers import Workers
    from mproxy.transport._link import Link
    # Told of what would be deleted, and what to call with the answer.
    Ask = Callable[[list[Surplus], Callable[[bool], object]], object]

FULL_BYTES = MOST_CONTROL_BYTES - 8192  # of names in an EXTRA: one more path fits


class IncomingDeletion:
    """Of one sender. `ask(surplus, answer)` decides; `give_up(reason)` ends the connection of a peer that breaks the
    protocol. At the end of the connection: `close`."""

    def __init__(self, link: Link, destination: Destination, workers: Workers, ask: Ask,
                 give_up: Callable[[str], object]) -> None:
        self._link, self._workers, self._ask, self._give_up = link, workers, ask, give_up
        self._destination = destination if isinstance(destination, IntoDirectory) and destination.deletes else None
        self.ability = DELETES * (self._destination is not None)
        self._waiting: deque[Keep] = deque()
        self.busy = False  # a worker is at it
        self._closed = self._listed = self._told = False
        self._extras: list[Surplus] = []
        self._directory = b""  # that is being compared
        self._left: dict[bytes, bool] = {}  # what is in it and was not named yet: whether that is a directory
        self._wanted: list[tuple[int, int]] = []  # ranges of numbers

    def close(self) -> None:
        """The connection has ended."""
        self._closed = True
        self._waiting.clear()

    def takes(self, message: object) -> bool:
        """Whether this message was one for us; PeerError when it must not come."""
        if not isinstance(message, (Keep, Remove)):
            return False
        if self._destination is None or self._told:
            raise bad("the sender would delete what this receiver keeps")
        if isinstance(message, Remove):
            self._take_remove(message)
        elif self._listed or len(self._waiting) >= KEEPS_AHEAD:
            raise bad("the sender named more directories than were asked for")
        else:
            self._listed = bool(message.flags & LAST)
            self._waiting.append(message)
            self._go_on()
        return True

    # ---- what is not at the sender

    def _go_on(self) -> None:
        if self._waiting and not self.busy and not self._closed:
            self.busy = True
            keep = self._waiting.popleft()
            self._workers.submit(partial(self._compare, keep), partial(self._was_compared, bool(keep.flags & LAST)))

    def _was_compared(self, is_last: bool, first: int | None, error: Exception | None) -> None:
        self.busy = False
        if self._closed:
            return
        if first is None:
            if not isinstance(error, PeerError):
                raise error or AssertionError
            self._give_up(str(error))
            return
        for extra in _pack(self._extras, first, ANSWERS | LAST * is_last):
            self._link.send(pack_extra(extra))
        self._go_on()

    def _compare(self, keep: Keep) -> int:
        """Find what else is in these directories; returns the number of the first of it. On a worker's thread."""
        first = len(self._extras)
        is_going_on = bool(keep.flags & CONTINUES)
        for record in keep.names.split(b"\0\0") if keep.names else ():
            directory, *names = record.removesuffix(b"\0").split(b"\0")
            if not directory:
                continue
            if not is_going_on or directory != self._directory:
                self._end_directory()
                self._begin_directory(directory)
            is_going_on = False
            for name in names:
                self._left.pop(name, None)
        if keep.flags & LAST:
            self._end_directory()
        return first

    def _begin_directory(self, directory: bytes) -> None:
        self._directory = directory
        self._left = dict(self._entries(directory))

    def _end_directory(self) -> None:
        for name, is_directory in sorted(self._left.items()):
            waiting = [(self._directory + b"/" + name, is_directory)]
            while waiting:
                path, is_directory = waiting.pop()
                if len(self._extras) >= MOST_EXTRAS:
                    raise bad(f"more than {MOST_EXTRAS} files would be deleted, which is more than is done at once")
                self._extras.append((path, is_directory))
                if is_directory:
                    waiting += sorted(((path + b"/" + inner, is_one) for inner, is_one in self._entries(path)),
                                      reverse=True)  # the last is the next
        self._directory, self._left = b"", {}

    def _entries(self, path: bytes) -> Iterator[tuple[bytes, bool]]:
        """(name, whether it is a directory) of all that is in a directory and not ours; nothing if it cannot be
        listed: then it cannot be deleted either."""
        assert self._destination is not None
        try:
            fd = self._destination.open_below(self._destination.split(path))
        except (OSError, BadName):
            return
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    name = os.fsencode(entry.name)
                    if not is_temporary(name):
                        yield name, entry.is_dir(follow_symlinks=False)
        except OSError:
            return
        finally:
            os.close(fd)

    # ---- deleting

    def _take_remove(self, remove: Remove) -> None:
        if not self._listed or self._waiting or self.busy:
            raise bad("the sender would delete what it does not know yet")
        end = sum(self._wanted[-1]) if self._wanted else 0
        for first, count in remove.ranges:
            if first < end or first + count > len(self._extras):
                raise bad("the sender would delete what was not named")
            end = first + count
            self._wanted.append((first, count))
        if remove.flags & LAST:
            self._told = self.busy = True
            surplus = [self._extras[number] for first, count in self._wanted for number in range(first, first + count)]
            self._ask(surplus, partial(self._answered, surplus))

    def _answered(self, surplus: list[Surplus], yes: bool) -> None:
        if self._closed:
            return
        if yes:
            self._workers.submit(partial(self._remove, surplus), self._was_removed)
        else:
            self._was_removed(Removed(0, 0, ""), None)

    def _remove(self, surplus: list[Surplus]) -> Removed:
        """From the bottom up. On a worker's thread."""
        assert self._destination is not None
        removed = failed = 0
        why = ""
        fd, above = -1, b""
        try:
            for path, is_directory in reversed(surplus):
                if self._closed:
                    break
                head, _, name = path.rpartition(b"/")
                try:
                    if fd < 0 or head != above:
                        if fd >= 0:
                            os.close(fd)
                            fd = -1
                        fd, above = self._destination.open_below(self._destination.split(head)), head
                    if is_directory:
                        os.rmdir(name, dir_fd=fd)
                    else:
                        os.unlink(name, dir_fd=fd)
                    removed += 1
                except FileNotFoundError:
                    removed += 1
                except (OSError, BadName) as error:
                    failed += 1
                    why = why or f"{os.fsdecode(path)}: {getattr(error, 'strerror', None) or error}"
        finally:
            if fd >= 0:
                os.close(fd)
        return Removed(removed, failed, why)

    def _was_removed(self, removed: Removed | None, error: Exception | None) -> None:
        self.busy = False
        if removed is None:
            raise error or AssertionError
        if not self._closed:
            self._link.send(pack_removed(removed))


def _pack(extras: list[Surplus], first: int, flags: int) -> Iterator[Extra]:
    """What was found from number `first` on; the last message has these flags."""
    names: list[bytes] = []
    length = 0
    for number in range(first, len(extras)):
        path, is_directory = extras[number]
        names.append((b"d" if is_directory else b"f") + path)
        length += len(path) + 2
        if length >= FULL_BYTES:
            yield Extra(0, first, b"\0".join(names))
            first, names, length = number + 1, [], 0
    yield Extra(flags, first, b"\0".join(names))
