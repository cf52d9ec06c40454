"""Finding what to send: the files, directories and links below what a command line names."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence

from mproxy.ground.errors import MproxyError
from mproxy.transfer._surveying import Listing, sort_out
from mproxy.transfer.bundle import BUNDLE_ENTRIES
from mproxy.transfer.file_names import BadName, check_link
from mproxy.transfer.file_run import FileRun
from mproxy.transfer.messages import FileKind
from mproxy.transfer.selection import Selection
from mproxy.transfer.source_file import SourceFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.transfer.selection import Rule

    # Told of a path that is left out, and why.
    OnLeftOut = Callable[[str, str | OSError], object]
    Found = tuple[int, int, int, int, int]  # as of `sort_out`: mode, size, number of names, device, inode
    Place = tuple[str, bytes, Found]  # path, the receiver's name for it, what was found there

SORTED_ENTRIES = 4096  # of a directory; more are sent as they are found, or all their names would be in memory

LINKS = ("omit", "keep", "copy")  # what becomes of symbolic links: left out; sent as links; sent as what they lead to


def name_of(path: str) -> str:
    """What the receiver calls a file, a directory or standard input (`-`) of a command line."""
    if path == "-":
        return "stdin"
    return os.path.basename(os.path.abspath(path)) or "root"


def check_named(paths: Iterable[str]) -> None:
    """MproxyError if one of these, of a command line, cannot be sent."""
    for path in paths:
        if path == "-":
            continue
        try:
            status = os.stat(path)
        except OSError as error:
            raise MproxyError(f"cannot send {path}: {error.strerror}") from None
        if not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)):
            raise MproxyError(f"cannot send {path}: neither a file nor a directory; to send a pipe, use '-' (standard"
                              " input)")


class Walk:
    """Sources of the files and directories named on a command line, and of what `rules` (`selection`) leave of what is
    in these, as they are found: directories before what is in them, and further names of a file after everything
    else. Of what was found nothing is kept but the names of files that have several. `by_time`, `with_attributes`: as
    of SourceFile; `renamed`: what the receiver calls the only one of `paths`.

    `on_left_out(path, why)` is told of what is neither a file nor a directory (a text), and of what cannot be read or
    has vanished meanwhile (an OSError). What is named itself may be a symbolic link to what is meant."""

    def __init__(self, paths: Iterable[str], on_left_out: OnLeftOut, links: str = LINKS[0], rules: Iterable[Rule] = (),
                 by_time: bool = False, with_attributes: bool = False, renamed: str | None = None) -> None:
        self._paths, self._renamed = list(paths), renamed
        self._on_left_out = on_left_out
        self._links = links
        rules = list(rules)
        self._selection = Selection(rules) if rules else None
        self._by_time, self._with_attributes = by_time, with_attributes
        self._first_names: dict[tuple[int, int], bytes] = {}  # of files that have several: (device, inode)
        self._second_names: list[SourceFile] = []

    def __iter__(self) -> Iterator[SourceFile]:
        for found in self.in_runs():
            if isinstance(found, FileRun):
                yield from found.sources()
            else:
                yield found

    def in_runs(self) -> Iterator[SourceFile | FileRun]:
        """The same, most small files in runs."""
        for path in self._paths:
            base = os.fsencode(self._renamed or name_of(path))
            if path == "-":
                yield SourceFile(base, FileKind.PIPE, fd=0)
                continue
            try:
                status = os.stat(path)
            except OSError as error:
                self._on_left_out(path, error)
                continue
            found = status.st_mode, status.st_size, status.st_nlink, status.st_dev, status.st_ino
            if stat.S_ISDIR(status.st_mode):
                yield from self._directory(path, base, found)
            elif (source := self._file(path, base, found, follow=True)) is not None:
                yield source
        yield from self._second_names

    def count(self) -> int | None:
        """Bytes of all files that there are to be found, several names of one each for itself; None: of a pipe nobody
        knows. Keeps nothing but the names of directories, and tells nobody what is left out."""
        total = 0
        for path in self._paths:
            if path == "-":
                return None
            try:
                status = os.stat(path)
            except OSError:
                continue
            waiting = [(path, os.fsencode(self._renamed or name_of(path)), frozenset({(status.st_dev, status.st_ino)}))]
            if not stat.S_ISDIR(status.st_mode):
                total += status.st_size
                continue
            while waiting:
                path, name, above = waiting.pop()
                for entry in self._entries(path, name):
                    if isinstance(entry, FileRun):
                        total += entry.expected_bytes
                        continue
                    inner, inner_name, (mode, size, _names, *itself) = entry
                    place = itself[0], itself[1]
                    if stat.S_ISREG(mode):
                        total += size
                    elif stat.S_ISDIR(mode) and place not in above:
                        waiting.append((inner, inner_name, above | {place} if self._links == "copy" else above))
        return total

    def _file(self, path: str, name: bytes, found: Found, *, follow: bool = False) -> SourceFile | None:
        """A regular file; None: it was there before, and comes at the end under its second name."""
        _mode, size, names, *itself = found
        first = b""
        if names > 1:
            device, inode = itself
            first = self._first_names.setdefault((device, inode), name)
        source = SourceFile(name, FileKind.FILE, path, -1, follow or self._links == "copy", size,
                            b"" if first == name else first, self._by_time, self._with_attributes)
        if source.same_as:
            self._second_names.append(source)
            return None
        return source

    def _directory(self, top: str, name: bytes, found: Found) -> Iterator[SourceFile | FileRun]:
        """A directory and everything in it."""
        yield SourceFile(name, FileKind.DIRECTORY, top, with_attributes=self._with_attributes)
        # Those whose contents are still to be listed, each with all the directories that it lies in.
        waiting = [(top, name, {found[3:]})]
        while waiting:
            path, name, above = waiting.pop()
            below = []
            for entry in self._entries(path, name):
                if isinstance(entry, FileRun):
                    yield entry
                    continue
                inner, inner_name, found = entry
                mode = found[0]
                if stat.S_ISREG(mode):
                    source = self._file(inner, inner_name, found)
                    if source is not None:
                        yield source
                    continue
                if not stat.S_ISDIR(mode):
                    yield from self._other(inner, inner_name, mode)
                    continue
                itself = found[3:]
                if itself in above:
                    self._on_left_out(inner, OSError(errno.ELOOP, "a symbolic link to a directory that it lies in"))
                    continue
                yield SourceFile(inner_name, FileKind.DIRECTORY, inner, follow=self._links == "copy",
                                 with_attributes=self._with_attributes)
                below.append((inner, inner_name, above | {itself} if self._links == "copy" else above))
            waiting += reversed(below)

    def _entries(self, path: str, name: bytes) -> Iterator[Place | FileRun]:
        """What is in a directory: the directories first, each sorted by name; in a very large one in any order."""
        places: list[Place | FileRun] = []
        try:
            directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                listing = Listing(directory)
                some = listing.take(SORTED_ENTRIES)
                if len(some) < SORTED_ENTRIES:
                    places = self._look(directory, path, name, sorted(some))
                    some = []
                while some:
                    yield from self._look(directory, path, name, some)
                    some = listing.take(SORTED_ENTRIES)
            finally:
                os.close(directory)
        except OSError as error:
            self._on_left_out(path, error)
        yield from (place for place in places if _is_directory(place))
        yield from (place for place in places if not _is_directory(place))

    def _look(self, directory: int, path: str, name: bytes, names: list[bytes]) -> list[Place | FileRun]:
        """What these names in a directory are, in their order, as far as it is to be sent. All in one go: handing on
        the GIL for each of them would take longer than looking."""
        follow, name_above = self._links == "copy", name + b"/"
        runs, others, sizes = sort_out(directory, names, follow, BUNDLE_ENTRIES, len(name_above))
        above = os.path.join(path, "")
        sizes_of_all: Sequence[int] = memoryview(sizes).cast("H")
        places: list[tuple[int, Place | FileRun]] = []
        for number, found in others.items():
            inner = above + os.fsdecode(names[number])
            if isinstance(found, int):
                self._on_left_out(inner, OSError(found, os.strerror(found)))
                continue
            place = inner, name_above + names[number], found
            if self._selection is None or self._selection.takes(place[1], stat.S_ISDIR(found[0])):
                places.append((number, place))
        for first, end, total in runs:
            taken, taken_sizes = names[first:end], sizes_of_all[first:end]
            if self._selection is not None:
                numbers = [number for number in range(first, end)
                           if self._selection.takes(name_above + names[number], False)]
                taken, taken_sizes = [names[number] for number in numbers], [sizes_of_all[number] for number in numbers]
                total = sum(taken_sizes)
            if taken:
                places.append((first, FileRun(path, name, taken, taken_sizes, total, follow=follow,
                                              by_time=self._by_time, with_attributes=self._with_attributes)))
        places.sort(key=_first)
        return [place for _number, place in places]

    def _other(self, path: str, name: bytes, mode: int) -> Iterator[SourceFile]:
        """What is neither a file nor a directory."""
        if stat.S_ISLNK(mode):
            yield from self._link(path, name)
        else:
            self._on_left_out(path, "neither a file nor a directory")

    def _link(self, path: str, name: bytes) -> Iterator[SourceFile]:
        if self._links == "omit":
            self._on_left_out(path, "a symbolic link")
            return
        try:
            check_link(name, os.fsencode(os.readlink(path)))
        except BadName as refusal:
            self._on_left_out(path, str(refusal))
        except OSError as error:
            self._on_left_out(path, error)
        else:
            yield SourceFile(name, FileKind.LINK, path)


def _is_directory(place: Place | FileRun) -> bool:
    return not isinstance(place, FileRun) and stat.S_ISDIR(place[2][0])


def _first(numbered: tuple[int, Place | FileRun]) -> int:
    return numbered[0]
