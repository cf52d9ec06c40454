"""A bundle on its way to the disk: the directories in it are made, and the files that are new.

Everything else (a file that is there and not the same, one that may not be made) is left to be announced by itself:
the usual way finds out what is to be done about it, or why it cannot be.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from mproxy.ground.errors import MproxyError
from mproxy.transfer._disk import find
from mproxy.transfer._hash import small_root
from mproxy.transfer._making import make_files, make_group
from mproxy.transfer._small import read_files
from mproxy.transfer.bundle import AS_FILE, UNREAD, BundleAnswer, FileGroup, entries_of
from mproxy.transfer.file_links import SecondName
from mproxy.transfer.file_names import MOST_DEPTH, PART, STATE, BadName, check_part
from mproxy.transfer.messages import BY_TIME, End, FileKind
from mproxy.transfer.partial import finish_together
from mproxy.transfer.present import PresentFile
from mproxy.transfer.tree import leaf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.transfer.arriving import Data
    from mproxy.transfer.bundle import BundleEntry
    from mproxy.transfer.destinations import IntoDirectory
    from mproxy.transfer.messages import File
    # Which entry, descriptor of its directory, its name there.
    Place = tuple[int, int, bytes]
    Found = tuple[int, int, int, int, bytes]  # as of `read_files`

# Why a file was not made that no other way of making it can change. EBADMSG: its data are not what its root says.
_FINAL = (errno.EBADMSG, errno.EEXIST, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


class BundleStore:
    """Stores one bundle below the directory of `destination`: `prepare`, and then `finish`, or `close`. On a worker's
    thread. What was prepared is there for the bundles behind it, so what remains can be done beside them."""

    def __init__(self, destination: IntoDirectory, data: Data) -> None:
        self._destination, self._data, self._umask = destination, data, destination.umask
        self._above: dict[bytes, int] = {}  # descriptors of the directories that its files lie in
        self._answers = bytearray()
        self._groups: list[tuple[int, FileGroup, int]] = []  # number of the first answer, descriptor of the directory

    def prepare(self, parts: Sequence[BundleEntry | FileGroup]) -> None:
        """Make its directories, and everything but groups of files. Never raises because of a file or a directory."""
        entries: dict[int, BundleEntry] = {}  # by the number of their answer
        places: list[Place] = []
        compared: list[Place] = []
        for part in parts:
            number = len(self._answers)
            self._answers += bytes([BundleAnswer.ALONE]) * (part.count if isinstance(part, FileGroup) else 1)
            try:
                if isinstance(part, FileGroup):
                    self._groups.append((number, part, self._open(part.directory)))
                    continue
                entries[number] = part
                if part.file.kind is FileKind.DIRECTORY:
                    made = self._destination.make(part.file)
                    self._answers[number] = BundleAnswer.MADE if made else BundleAnswer.DONE
                elif part.file.other:
                    self._answers[number] = self._link(part)
                elif part.at < 0:
                    compared.append((number, *self._place_of(part.file.name)))
                else:
                    places.append((number, *self._place_of(part.file.name)))
            except (OSError, MproxyError):
                pass  # announced by itself it will be said what is wrong
        self._make(entries, places)
        self._compare(entries, compared)

    @property
    def is_ready(self) -> bool:
        """Whether there is nothing to be done any more but `close`."""
        return not self._groups

    def finish(self) -> None:
        """Make the rest. Never raises because of a file."""
        for number, group, directory in self._groups:
            self._answers[number:number + group.count] = self._make_group(group, directory)
        self.close()

    def close(self) -> None:
        """Let go of its directories."""
        directories, self._above, self._groups = self._above, {}, []
        for directory in directories.values():
            os.close(directory)

    @property
    def answers(self) -> bytes:
        """What became of each entry."""
        return bytes(self._answers)

    def _place_of(self, path: bytes) -> tuple[int, bytes]:
        """(descriptor of its directory, its name there); the descriptor is ours."""
        above, _, name = path.rpartition(b"/")
        if above:
            check_part(name, self._destination.dots)
            return self._open(above), name
        [name] = self._destination.split(path)
        return self._open(above), name

    def _open(self, above: bytes) -> int:
        """A descriptor of a directory that files are made in; it is ours."""
        directory = self._above.get(above)
        if directory is None:
            way = self._destination.split(above) if above else []
            if len(way) >= MOST_DEPTH:
                raise BadName(f"the name is more than {MOST_DEPTH} directories deep")
            directory = self._above[above] = self._destination.open_below(way)
        return directory

    def _make_group(self, group: FileGroup, directory: int) -> bytes:
        """Make files that lie in one directory; what became of each."""
        errors = make_group(self._data, group.at, group.count, directory, 0o777 & ~self._umask, self._destination.dots,
                            (PART, STATE))
        if not any(errors):
            return bytes(group.count)
        answers = bytearray(BundleAnswer.ALONE if error else BundleAnswer.DONE for error in errors)
        again = {number: entry for number, entry in enumerate(entries_of(self._data, group))
                 if errors[number] and errors[number] not in _FINAL}
        for number in self._make_with_names(again):
            answers[number] = BundleAnswer.DONE
        return bytes(answers)

    def _link(self, entry: BundleEntry) -> BundleAnswer:
        """A symbolic link, or a further name of a file that is here."""
        file = entry.file
        if file.kind is FileKind.LINK:
            self._destination.link(file)
            return BundleAnswer.DONE
        target = self._destination.open(file)
        try:
            if isinstance(target, SecondName):
                target.begin()
                if target.finish(file.size, entry.root) == entry.root:
                    return BundleAnswer.DONE
        finally:
            target.close()
        return BundleAnswer.ALONE

    def _make(self, entries: dict[int, BundleEntry], places: list[Place]) -> None:
        errors = make_files(self._data, [
            (directory, name, entries[number].at, entries[number].file.size,
             entries[number].file.mode & 0o777 & ~self._umask, entries[number].file.mtime_ns, entries[number].root)
            for number, directory, name in places])
        again = {}
        for (number, _directory, _name), error in zip(places, errors, strict=True):
            if error == 0:
                self._answers[number] = BundleAnswer.DONE
            elif error not in _FINAL:
                again[number] = entries[number]
        for number in self._make_with_names(again):
            self._answers[number] = BundleAnswer.DONE

    def _make_with_names(self, entries: dict[int, BundleEntry]) -> list[int]:
        """Where a file cannot be made without a name, as on FAT and many network file systems. The numbers of those
        that were made."""
        if not entries:
            return []
        targets = self._destination.open_together([entry.file for entry in entries.values()])
        arrived = []
        for (number, (file, digest, at)), target in zip(entries.items(), targets, strict=True):
            if target is not None:
                data = self._data[at:at + file.size]
                arrived.append((number, target, (target, data, leaf(data, 0, True), End(0, file.size, digest))))
        roots = finish_together([arrival for _number, _target, arrival in arrived])
        made = []
        for (number, target, _arrival), digest in zip(arrived, roots, strict=True):
            if digest is not None:
                made.append(number)
            else:
                target.abandon()
        return made

    def _compare(self, entries: dict[int, BundleEntry], places: list[Place]) -> None:
        """Answer entries without contents."""
        found = read_files([(directory, name, AS_FILE | UNREAD * bool(entries[number].file.flags & BY_TIME))
                            for number, directory, name in places])
        for (number, directory, name), one in zip(places, found, strict=True):
            try:
                self._answers[number] = self._compare_one(entries[number], one) if one is not None else (
                    BundleAnswer.ALONE if find(directory, name) else BundleAnswer.WANTED)
            except (OSError, MproxyError):
                pass

    def _compare_one(self, entry: BundleEntry, found: Found) -> BundleAnswer:
        mode, mtime_ns, size, names, data = found
        file = entry.file
        if file.flags & BY_TIME:
            is_same = size == file.size and mtime_ns == file.mtime_ns
        elif size != file.size or small_root(data) != entry.root:
            is_same = False
        elif names > 1 or mode & 0o7777 != file.mode & 0o777 & ~self._umask or mtime_ns != file.mtime_ns:
            is_same = self._is_same(file, entry.root)  # there is more to do
        else:
            is_same = True
        return BundleAnswer.DONE if is_same else BundleAnswer.ALONE

    def _is_same(self, file: File, digest: bytes) -> bool:
        """Whether the file that is there has this root; if so it gets the sender's mode and time where files are
        replaced."""
        target = self._destination.open(file)
        try:
            if not isinstance(target, PresentFile):
                return False
            target.begin()
            return target.finish(file.size, digest) == digest
        finally:
            target.close()
