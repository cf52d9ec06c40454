"""Finding what to send: the files, directories and links below what a command line names."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator

from mproxy.ground.errors import MproxyError
from mproxy.transfer.file_names import BadName, check_link
from mproxy.transfer.messages import FileKind
from mproxy.transfer.selection import Selection
from mproxy.transfer.source_file import SourceFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.transfer.selection import Rule

    # Told of a path that is left out, and why.
    OnLeftOut = Callable[[str, str | OSError], object]
    Place = tuple[str, bytes, os.stat_result]  # path, the receiver's name for it, status

LINKS = ("omit", "keep", "copy")  # what becomes of symbolic links: left out; sent as links; sent as what they lead to


def name_of(path: str) -> str:
    """What the receiver calls a file, a directory or standard input (`-`) of a command line."""
    if path == "-":
        return "stdin"
    return os.path.basename(os.path.abspath(path)) or "root"


def find_sources(paths: Iterable[str], on_left_out: OnLeftOut, links: str = LINKS[0],
                 rules: Iterable[Rule] = (), by_time: bool = False,
                 with_attributes: bool = False, renamed: str | None = None) -> list[SourceFile]:
    """Sources of the files and directories named on a command line, and of what `rules` (`selection`) leave of what is
    in these; MproxyError for what cannot be sent. `by_time`, `with_attributes`: as of SourceFile; `renamed`: what the
    receiver calls the only one of `paths`.

    `on_left_out(path, why)` is told of what is neither a file nor a directory (a text), and of what cannot be read or
    has vanished meanwhile (an OSError). What is named itself may be a symbolic link to what is meant."""
    walk = Walk(on_left_out, links, Selection(rules), by_time, with_attributes)
    for path in paths:
        base = os.fsencode(renamed or name_of(path))
        if path == "-":
            walk.sources.append(SourceFile(base, FileKind.PIPE, fd=0))
            continue
        status = look_at_source(path)
        if stat.S_ISDIR(status.st_mode):
            walk.add_directory(path, base, status)
        else:
            walk.add_file(path, base, status, follow=True)
    return walk.sources + walk.second_names


def look_at_source(path: str) -> os.stat_result:
    """What the file or directory named `path` is; MproxyError for what cannot be sent."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise MproxyError(f"cannot send {path}: {error.strerror}") from None
    if not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)):
        raise MproxyError(f"cannot send {path}: neither a file nor a directory; to send a pipe, use '-' (standard"
                          " input)")
    return status


class Walk:
    """Collects sources: directories before what is in them, and further names of a file after everything else."""

    def __init__(self, on_left_out: OnLeftOut, links: str, selection: Selection, by_time: bool,
                 with_attributes: bool) -> None:
        self.sources: list[SourceFile] = []
        self.second_names: list[SourceFile] = []
        self._on_left_out = on_left_out
        self._links = links
        self._selection = selection
        self._by_time, self._with_attributes = by_time, with_attributes
        self._first_names: dict[tuple[int, int], bytes] = {}  # of files that have several: (device, inode)

    def add_file(self, path: str, name: bytes, status: os.stat_result, *, follow: bool = False) -> None:
        """A regular file; one that was added before is now added under its second name."""
        first = b""
        if status.st_nlink > 1:
            first = self._first_names.setdefault((status.st_dev, status.st_ino), name)
        source = SourceFile(name, FileKind.FILE, path, follow=follow or self._links == "copy",
                            expected_bytes=status.st_size, same_as=b"" if first == name else first,
                            by_time=self._by_time, with_attributes=self._with_attributes)
        (self.second_names if source.same_as else self.sources).append(source)

    def add_directory(self, top: str, name: bytes, status: os.stat_result) -> None:
        """A directory and everything in it."""
        self.sources.append(SourceFile(name, FileKind.DIRECTORY, top, with_attributes=self._with_attributes))
        # Those whose contents are still to be listed, each with all the directories that it lies in.
        waiting = [(top, name, {(status.st_dev, status.st_ino)})]
        while waiting:
            path, name, above = waiting.pop()
            below = []
            for entry in self._entries(path, name):
                if not stat.S_ISDIR(entry[2].st_mode):
                    self._add(*entry)
                    continue
                inner, inner_name, found = entry
                itself = found.st_dev, found.st_ino
                if itself in above:
                    self._on_left_out(inner, OSError(errno.ELOOP, "a symbolic link to a directory that it lies in"))
                    continue
                self.sources.append(SourceFile(inner_name, FileKind.DIRECTORY, inner, follow=self._links == "copy",
                                               with_attributes=self._with_attributes))
                below.append((inner, inner_name, above | {itself} if self._links == "copy" else above))
            waiting += reversed(below)

    def _entries(self, path: str, name: bytes) -> Iterator[Place]:
        """What is in a directory: the directories first, each sorted by name."""
        look = os.stat if self._links == "copy" else os.lstat
        directories: list[Place] = []
        others: list[Place] = []
        try:
            names = sorted(os.listdir(path))
        except OSError as error:
            self._on_left_out(path, error)
            return
        for inner in names:
            inner_path = os.path.join(path, inner)
            try:
                status = look(inner_path)
            except OSError as error:
                self._on_left_out(inner_path, error)
                continue
            is_directory = stat.S_ISDIR(status.st_mode)
            place = inner_path, name + b"/" + os.fsencode(inner), status
            if self._selection.takes(place[1], is_directory):
                (directories if is_directory else others).append(place)
        yield from directories
        yield from others

    def _add(self, path: str, name: bytes, status: os.stat_result) -> None:
        if stat.S_ISREG(status.st_mode):
            self.add_file(path, name, status)
        elif stat.S_ISLNK(status.st_mode):
            self._add_link(path, name)
        else:
            self._on_left_out(path, "neither a file nor a directory")

    def _add_link(self, path: str, name: bytes) -> None:
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
            self.sources.append(SourceFile(name, FileKind.LINK, path))
