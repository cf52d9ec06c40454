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
from mproxy.transfer._small import make_files, read_files
from mproxy.transfer.bundle import AS_FILE, UNREAD, BundleAnswer
from mproxy.transfer.file_links import SecondName
from mproxy.transfer.file_names import check_part
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
    """Stores one bundle below the directory of `destination`. On a worker's thread."""

    def __init__(self, destination: IntoDirectory, data: Data) -> None:
        self._destination, self._data, self._umask = destination, data, destination.umask
        self._above: dict[bytes, int] = {}  # descriptors of the directories that its files lie in
        self._answers: list[BundleAnswer] = []

    def store(self, entries: Sequence[BundleEntry]) -> list[BundleAnswer]:
        """Store them, and say what became of each. Never raises because of a file or a directory."""
        self._answers = [BundleAnswer.ALONE] * len(entries)
        places: list[Place] = []
        compared: list[Place] = []
        try:
            for number, entry in enumerate(entries):
                try:
                    if entry.file.kind is FileKind.DIRECTORY:
                        made = self._destination.make(entry.file)
                        self._answers[number] = BundleAnswer.MADE if made else BundleAnswer.DONE
                    elif entry.file.other:
                        self._answers[number] = self._link(entry)
                    elif entry.at < 0:
                        compared.append((number, *self._place_of(entry.file.name)))
                    else:
                        places.append((number, *self._place_of(entry.file.name)))
                except (OSError, MproxyError):
                    pass  # announced by itself it will be said what is wrong
            self._make(entries, places)
            self._compare(entries, compared)
        finally:
            for directory in self._above.values():
                os.close(directory)
        return self._answers

    def _place_of(self, path: bytes) -> tuple[int, bytes]:
        """(descriptor of its directory, its name there); the descriptor is ours."""
        above, _, name = path.rpartition(b"/")
        directory = self._above.get(above)
        if directory is None or not above:
            *way, name = self._destination.split(path)
            if directory is None:
                directory = self._above[above] = self._destination.open_below(way)
        else:
            check_part(name, self._destination.dots)
        return directory, name

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

    def _make(self, entries: Sequence[BundleEntry], places: list[Place]) -> None:
        errors = make_files(self._data, [
            (directory, name, entries[number].at, entries[number].file.size,
             entries[number].file.mode & 0o777 & ~self._umask, entries[number].file.mtime_ns, entries[number].root)
            for number, directory, name in places])
        again = []
        for (number, _directory, _name), error in zip(places, errors, strict=True):
            if error == 0:
                self._answers[number] = BundleAnswer.DONE
            elif error not in _FINAL:
                again.append(number)
        if again:
            self._make_with_names(entries, again)

    def _make_with_names(self, entries: Sequence[BundleEntry], numbers: Sequence[int]) -> None:
        """Where a file cannot be made without a name, as on FAT and many network file systems."""
        targets = self._destination.open_together([entries[number].file for number in numbers])
        arrived = []
        for number, target in zip(numbers, targets, strict=True):
            if target is not None:
                file, digest, at = entries[number]
                data = self._data[at:at + file.size]
                arrived.append((number, target, (target, data, leaf(data, 0, True), End(0, file.size, digest))))
        roots = finish_together([arrival for _number, _target, arrival in arrived])
        for (number, target, _arrival), digest in zip(arrived, roots, strict=True):
            if digest is not None:
                self._answers[number] = BundleAnswer.DONE
            else:
                target.abandon()

    def _compare(self, entries: Sequence[BundleEntry], places: list[Place]) -> None:
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
