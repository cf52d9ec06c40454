"""Where files go: a directory, one file, or a pipe. A destination makes the target of each file that is announced:
PartialFile, PresentFile or PipedFile."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Sequence

from mproxy.ground.errors import PeerError
from mproxy.transfer._disk import find
from mproxy.transfer.arriving import ArrivingFile
from mproxy.transfer.attributes import AttributesError, give_attributes
from mproxy.transfer.basis import open_basis
from mproxy.transfer.file_links import SecondName, is_same, make_link
from mproxy.transfer.file_names import (
    BadName,
    check_link,
    check_part,
    make_directory,
    open_directory,
    split_name,
    temporary_names,
)
from mproxy.transfer.leftovers import remove_abandoned
from mproxy.transfer.messages import BY_TIME, FileKind, Result, bad
from mproxy.transfer.partial import MOST_PIPE_BLOCKS, PartialFile, begin_together, check_free, one_by_one
from mproxy.transfer.parts import Parts
from mproxy.transfer.present import PresentFile, has_state, may_be
from mproxy.transfer.tree import DIGEST_BYTES, block_count, leaf, root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from mproxy.transfer._disk import Status
    from mproxy.transfer.arriving import Data
    from mproxy.transfer.basis import Basis
    from mproxy.transfer.messages import File
    from mproxy.transfer.partial import Spread

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Refusal(PeerError):
    """A file that is not accepted."""

    def __init__(self, code: Result, text: str) -> None:
        super().__init__(None, text)
        self.result = code


def _target(directory: int, name: bytes, file: File, *, force: bool, umask: int, spread: Spread,
            anew: bool) -> ArrivingFile:
    """What `file` is received into, under `name` in the directory of a descriptor, which it takes over. `anew`: the
    existing file is known to be a different one."""
    try:
        found = find(directory, name)
        present = not anew and may_be(found, file) and not (force and has_state(directory, name))
        if not present:
            check_free(found, file, force)
    except BaseException:
        os.close(directory)
        raise
    kind = PresentFile if present else PartialFile
    return kind(directory, name, file, force=force, umask=umask, spread=spread)


class Destination:
    """Where files go. What a method's docstring says about threads holds for all destinations."""

    one_sender = False
    takes_holes = True
    takes_attributes = False
    takes_bundles = False
    offers_sketches = False  # whether senders may know what the files look like that they replace
    deletes = False  # what a sender does not have, if it is told to
    spread: Spread  # for long work

    def place_of(self, file: File) -> object:
        """Two files with the same place are in each other's way; None: no two files are."""
        raise NotImplementedError

    def make(self, file: File) -> bool:
        """Make a directory unless it is there; whether it was made now. On a worker's thread."""
        raise NotImplementedError

    def link(self, file: File) -> None:
        """Make a symbolic link. On a worker's thread."""
        raise NotImplementedError

    def has(self, _file: File) -> bool:
        """Whether a file is here and need not be compared. On a worker's thread."""
        return False

    def open(self, file: File, anew: bool = False) -> ArrivingFile:
        """What a file is received into; `anew`: the existing file is a different one. On a worker's thread."""
        raise NotImplementedError

    def has_other_time(self, _file: File) -> bool:
        """Whether there is a file of that name and size which has another time. On a worker's thread."""
        return False

    def open_basis(self, _file: File) -> Basis | None:
        """The older file of this name, which the sender may replace. On a worker's thread."""
        return None

    def open_together(self, files: Sequence[File]) -> list[PartialFile | None]:
        """What small files are received into, already begun. None for one that has to be opened by itself. On a
        worker's thread."""
        return [None] * len(files)

    def remove_abandoned(self, before_ns: int) -> tuple[int, int]:
        """As in `leftovers`. On a worker's thread."""
        return 0, 0

    def dress(self, directories: Sequence[tuple[File, bool]]) -> None:
        """Give directories, [(File, whether it was made here), ...] from the top down, their times, and those that were
        made here their modes. Never raises: the directories exist. On a worker's thread."""


class IntoDirectory(Destination):
    """Files go below `path`, under the sender's names for them. `dots`: whether a component of a name may begin with a
    dot. Modes are those of the sender less `umask`. `expects(first component)`: whether something of that name was
    asked for."""

    takes_bundles = True

    def __init__(self, path: str, force: bool, *, dots: bool = True, umask: int = 0, spread: Spread = one_by_one,
                 expects: Callable[[bytes], bool] | None = None) -> None:
        self.path, self._force, self.dots, self._expects = path, force, dots, expects
        self.umask = umask
        self.spread = spread

    def place_of(self, file: File) -> object:
        return file.name

    def split(self, name: bytes) -> list[bytes]:
        """The components of a name; BadName if it is not accepted."""
        parts = split_name(name)
        if self._expects is not None and not self._expects(parts[0]):
            raise BadName("nothing of that name was asked for")
        if not self.dots:
            for part in parts:
                check_part(part, False)
        return parts

    def open_below(self, parts: list[bytes]) -> int:
        """A descriptor of the directory that these lead to; BadName if there is none."""
        base = os.open(self.path, _DIRECTORY)
        try:
            return open_directory(base, parts)
        finally:
            os.close(base)

    def make(self, file: File) -> bool:
        base = os.open(self.path, _DIRECTORY)
        try:
            # We need access while it is being filled; `dress` gives it its own mode.
            fd, made = make_directory(base, self.split(file.name), (file.mode & 0o777) | 0o700)
        finally:
            os.close(base)
        os.close(fd)
        return made

    def link(self, file: File) -> None:
        directory, name = self._open_above(file.name)
        try:
            check_link(file.name, file.other)
            if not self.dots and any(part.startswith(b".") and part not in (b".", b"..")
                                      for part in file.other.split(b"/")):
                raise BadName("the symbolic link leads to a name that begins with a dot, which a receiver with --open"
                              " does not accept")
            make_link(directory, name, file, self._force)
        finally:
            os.close(directory)

    def has(self, file: File) -> bool:
        found = self._find(file) if file.flags & BY_TIME else None
        return found is not None and may_be(found, file) and found.st_mtime_ns == file.mtime_ns

    def has_other_time(self, file: File) -> bool:
        found = self._find(file)
        return found is not None and may_be(found, file) and found.st_mtime_ns != file.mtime_ns

    def _find(self, file: File) -> Status | None:
        directory, name = self._open_above(file.name)
        try:
            return find(directory, name)
        finally:
            os.close(directory)

    def open_basis(self, file: File) -> Basis | None:
        directory, name = self._open_above(file.name)
        try:
            return open_basis(directory, name)
        finally:
            os.close(directory)

    def _open_above(self, path: bytes) -> tuple[int, bytes]:
        """(descriptor of the directory that it lies in, its own name)."""
        *way, name = self.split(path)
        return self.open_below(way), name

    def open(self, file: File, anew: bool = False) -> ArrivingFile:
        directory, name = self._open_above(file.name)
        if file.other and not anew:
            second = self._open_second(directory, name, file)
            if second is not None:
                return second
        return _target(directory, name, file, force=self._force, umask=self.umask, spread=self.spread, anew=anew)

    def _open_second(self, directory: int, name: bytes, file: File) -> SecondName | None:
        """As `open`, of a file that is said to be another name of one that is here; None if it cannot be that."""
        try:
            above, first = self._open_above(file.other)
        except (OSError, BadName):
            return None
        found, taken = find(above, first), find(directory, name)
        if not may_be(found, file) or (taken is not None and not is_same(taken, found)):
            os.close(above)
            return None
        present = PresentFile(above, first, file, force=self._force, umask=self.umask, spread=self.spread,
                              gets_names=True)
        return SecondName(present, directory, name)

    def open_together(self, files: Sequence[File]) -> list[PartialFile | None]:
        targets: list[PartialFile | None] = [None] * len(files)
        above: dict[tuple[bytes, ...], int] = {}  # descriptors of the directories they lie in
        places: dict[int, tuple[int, bytes, File]] = {}
        try:
            for number, file in enumerate(files):
                try:
                    *way, name = self.split(file.name)
                    directory = above.get(tuple(way))
                    if directory is None:
                        base = above.get(())
                        if base is None:
                            base = above[()] = os.open(self.path, _DIRECTORY)
                        directory = above[tuple(way)] = open_directory(base, way) if way else base
                except (OSError, BadName):
                    continue  # `open` will say what is wrong
                places[number] = directory, name, file
            begun = begin_together(list(places.values()), force=self._force, umask=self.umask, spread=self.spread)
        finally:
            for directory in above.values():
                os.close(directory)
        for number, target in zip(places, begun, strict=True):
            targets[number] = target
        return targets

    def remove_abandoned(self, before_ns: int) -> tuple[int, int]:
        return remove_abandoned(self.path, before_ns)

    def dress(self, directories: Sequence[tuple[File, bool]]) -> None:
        for file, made in reversed(directories):
            try:
                fd = self.open_below(self.split(file.name))
                try:
                    os.utime(fd, ns=(file.mtime_ns, file.mtime_ns))
                    now = os.fstat(fd).st_mode & 0o7777
                    wanted = now & 0o7000 | file.mode & 0o777 & ~self.umask
                    if made and file.attributes:
                        give_attributes(fd, file.attributes)
                    if made and now != wanted:
                        os.fchmod(fd, wanted)
                finally:
                    os.close(fd)
            except (OSError, BadName, AttributesError):
                pass


class IntoFile(Destination):
    """One file, under a name given here."""

    def __init__(self, path: str, force: bool, *, umask: int = 0, spread: Spread = one_by_one) -> None:
        self.path, self._name = os.path.split(os.path.abspath(path))
        self._force, self._umask = force, umask
        self.spread = spread

    def place_of(self, _file: File) -> object:
        return self._name

    def make(self, _file: File) -> NoReturn:
        raise Refusal(Result.REFUSED, "the receiver accepts only one file; start it with -o DIR for more")

    def link(self, file: File) -> NoReturn:
        self.make(file)

    def open(self, file: File, anew: bool = False) -> ArrivingFile:
        if file.index > 0:
            self.make(file)
        return _target(os.open(self.path, _DIRECTORY), os.fsencode(self._name), file, force=self._force,
                       umask=self._umask, spread=self.spread, anew=anew)

    def open_basis(self, _file: File) -> Basis | None:
        directory = os.open(self.path, _DIRECTORY)
        try:
            return open_basis(directory, os.fsencode(self._name))
        finally:
            os.close(directory)

    def remove_abandoned(self, before_ns: int) -> tuple[int, int]:
        return remove_abandoned(self.path, before_ns, temporary_names(os.fsencode(self._name)))



NOBODY_READS = "nobody reads the receiver's output any more"


class IntoPipe(Destination):
    """Standard output: one file after the other, from one sender at a time."""

    one_sender = True
    takes_holes = False

    def __init__(self, fd: int = 1) -> None:
        self.fd = fd
        self.spread = one_by_one
        self.writing: PipedFile | None = None  # the file whose turn it is

    def place_of(self, _file: File) -> object:
        return None  # there is only one thread

    def make(self, _file: File) -> NoReturn:
        raise Refusal(Result.REFUSED, "the receiver writes to a pipe and cannot accept directories")

    def link(self, _file: File) -> NoReturn:
        raise Refusal(Result.REFUSED, "the receiver writes to a pipe and cannot accept symbolic links")

    def open(self, file: File, anew: bool = False) -> ArrivingFile:
        return PipedFile(self, file)



class PipedFile(ArrivingFile):
    """For a pipe what PartialFile is for a file: blocks in order, and no continuing later. All of it on one thread."""

    in_order = True

    def __init__(self, pipe: IntoPipe, file: File) -> None:
        self._pipe, self._file = pipe, file
        self._digests = bytearray()
        self._size = 0
        self._parts = Parts()

    def begin(self) -> list[tuple[int, int]]:
        """Everything is missing."""
        count = block_count(self._file.size) if self._file.kind == FileKind.FILE else (1 << 32) - 1
        return [(0, count)]

    def write_block(self, number: int, data: Data, digest: bytes, _is_rebuilt: bool = False) -> bool:
        """Write a block; False when it is damaged."""
        if self._file.kind == FileKind.FILE:
            is_last = number == block_count(self._file.size) - 1
            if number * DIGEST_BYTES != len(self._digests) or leaf(data, number, is_last) != digest:
                return False
        elif self._parts.add(number, data, digest) is None:
            return False
        else:
            is_last = self._parts.ended
        if self._pipe.writing not in (None, self) or number >= MOST_PIPE_BLOCKS:
            raise bad("files for a pipe must arrive one after another")
        self._pipe.writing = self
        self._digests[number * DIGEST_BYTES:(number + 1) * DIGEST_BYTES] = digest
        self._size += len(data)
        _write_all(self._pipe.fd, data)
        if is_last:
            self._leave()
        return True

    def _leave(self) -> None:
        if self._pipe.writing is self:
            self._pipe.writing = None

    def finish(self, size: int, digest: bytes) -> bytes | None:
        """The root; None when it is not the sender's."""
        own = root(self._digests)
        return own if size == self._size and digest == own else None

    def close(self) -> None:
        """The descriptor stays open for the next file."""
        self._leave()


def _write_all(fd: int, data: Data) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view):]
        except BrokenPipeError:
            raise Refusal(Result.FAILED, NOBODY_READS) from None
        except BlockingIOError:  # somebody else set O_NONBLOCK, and may rely on it
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()
