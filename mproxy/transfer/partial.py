"""An arriving file: its temporary name, which parts of it are there, and how it gets its real name.

    .NAME.mproxy-part     the data, at its place in the file
    .NAME.mproxy-state    the identity of its source, and a digest for every block, zeros while that is missing; a pipe
                          or a file of a single block, which cannot be continued, has none

Nothing on the disk is trusted. What the state claims of an earlier attempt is read and hashed before the rest is asked
for, and all of it is read from the disk and hashed before the file gets its name: if others cut, damaged, replaced or
wrote into it, that is found, whenever it happened. So what arrives is not hashed on its way to the disk. The name goes
to the file that was hashed, by its descriptor, and not to whatever has the temporary name by then.

The temporary files are ours alone: a link, a file with a second name or a file of another user that somebody planted
there is neither opened nor removed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import threading
from collections.abc import Callable, Collection, Iterable, Sequence

from mproxy.ground.errors import MproxyError
from mproxy.transfer._disk import (
    copy_range,
    create,
    create_all,
    find,
    is_named,
    link_open,
    read_at,
    remove_named,
    rename_new,
    reserve,
    settle,
    settle_all,
    status_of,
    write_at,
)
from mproxy.transfer.arriving import ArrivingFile, Unlike
from mproxy.transfer.attributes import give_attributes
from mproxy.transfer.file_names import PART, temporary_names
from mproxy.transfer.holes import fill_with_zeros, is_hole, write_with_holes
from mproxy.transfer.messages import MOST_RANGES, FileKind
from mproxy.transfer.parts import Parts
from mproxy.transfer.tree import DIGEST_BYTES, LEAF_BYTES, ZERO_DIGEST, block_count, block_length, leaf, root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol, TypeVar

    from mproxy.transfer._disk import Status
    from mproxy.transfer.arriving import Data
    from mproxy.transfer.messages import End, File

    Item = TypeVar("Item")
    Found = TypeVar("Found")
    # Descriptors of the file and its directory, temporary name, name, data, mode, time in ns.
    Whole = tuple[int, int, bytes, bytes, Data, int, int | None]

    class Spread(Protocol):
        """`Workers.spread`, or `one_by_one`: calls a function for each item, on several threads if there are some."""

        def __call__(self, function: Callable[[Item], Found], items: Sequence[Item]) -> list[Found]: ...

RESERVE_BYTES = 16 << 20  # most ahead of what has arrived: a reservation holds up other threads that write
MOST_PIPE_BLOCKS = 1 << 21  # of a pipe: 64 MiB of digests, 2 TiB in full blocks

_STATE = struct.Struct(">8sQ16s40x")  # magic, size, identity; then the digests
_MAGIC = b"mproxy\0\1"
_MISSING = bytes(DIGEST_BYTES)
_OWN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_AT_ONCE = 16  # blocks that one thread reads and hashes in one go


class Busy(MproxyError):
    """Another transfer is writing the same file, or has just done so."""


class InTheWay(MproxyError):
    """The name belongs to something that is not a file."""


class Damaged(MproxyError):
    """The data on the disk is not what was written there."""


class Cancelled(MproxyError):
    """Nobody waits for it any more."""


def one_by_one(function: Callable[[Item], Found], items: Sequence[Item]) -> list[Found]:
    """What Workers.spread does, on this thread."""
    return [function(item) for item in items]


def spans(count: int) -> list[range]:
    """[range of blocks, ...] for the threads that hash a file of `count` blocks."""
    return [range(first, min(first + _AT_ONCE, count)) for first in range(0, count, _AT_ONCE)]


def read_block(fd: int, buffer: bytearray, number: int, length: int) -> memoryview:
    """Block `number`, at most `length` bytes of it, in `buffer`; shorter where the file ends."""
    view = memoryview(buffer)[:length]
    return view[:read_at(fd, view, number * LEAF_BYTES)]


def check_free(status: Status | None, file: File, force: bool) -> None:
    """Check whether `file` may get a name that now belongs to the file with `status` (None: the name is free).

    FileExistsError if it may not; Busy when the other may be the same file that has just arrived; IsADirectoryError or
    InTheWay for what no file may replace.
    """
    if status is None:
        return
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISLNK(status.st_mode):
        raise InTheWay("a device, pipe or socket of that name is there, which is never replaced")
    if force:
        return
    if file.kind == FileKind.FILE and stat.S_ISREG(status.st_mode) and status.st_size == file.size:
        raise Busy("another transfer has just completed this file")
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


class PartialFile(ArrivingFile):
    """One arriving file in the directory `directory_fd`, which it takes over. `file` is the sender's FILE message.

    Call order: `begin`; `write_block` for each block, never twice at a time for one block (a pipe's blocks in order);
    when all of these are over and the sender has ended, `finish`.
    """

    def __init__(self, directory_fd: int, name: bytes, file: File, *, force: bool = False, umask: int = 0,
                 spread: Spread = one_by_one) -> None:
        self._directory = directory_fd
        self._name = name
        self._part, self._state_name = temporary_names(name)
        self._file = file
        self._force = force
        self._umask = umask
        self._spread = spread
        self._fd = self._state_fd = -1
        self._digests = bytearray()
        self._reserved = 0  # bytes of the file for which room is reserved
        self._reserving = threading.Lock()
        self._arrived = 0  # bytes in this attempt
        self._rebuilt: set[int] = set()  # blocks made from an older file, and not looked at yet
        self._parts = Parts()  # of a pipe
        self._cancelled = False
        self._made: list[bytes] = []  # temporary names that did not exist before
        self._begun = False
        self._is_new = False  # nothing of it was there before, so what is not written is a hole
        self._discarded = False  # what now has the temporary names is not ours
        self.in_order = file.kind == FileKind.PIPE
        self.kept_blocks = 0  # that were there from an earlier attempt

    def begin(self) -> list[tuple[int, int]]:
        self._fd = self._open_own(self._part)
        is_known = self._file.kind == FileKind.FILE and block_count(self._file.size) > 1
        if is_known or self._part not in self._made:
            self._state_fd = self._open_own(self._state_name)
        check_free(find(self._directory, self._name), self._file, self._force)
        if not is_known or self._made or not self._read_state():
            self._start_anew()
            missing = [(0, block_count(self._file.size) if self._file.kind == FileKind.FILE else (1 << 32) - 1)]
        else:
            self.kept_blocks = sum(1 for number in range(len(self._digests) // DIGEST_BYTES) if self._has(number))
            missing = self._missing()
        self._begun = True
        return missing

    def begin_new(self, fd: int) -> None:
        """In place of `begin`, for a small file whose part was made now: its descriptor. Everything is missing."""
        self._fd = fd
        self._made.append(self._part)
        self._digests = bytearray(DIGEST_BYTES)
        self._begun = True

    def _open_own(self, name: bytes) -> int:
        """A descriptor of one of our temporary files, locked."""
        try:
            fd = create(self._directory, name)
            if fd < 0:
                return self._open_found(name)
        except BlockingIOError:
            raise Busy("another transfer is writing this file") from None
        self._made.append(name)
        return fd

    def _open_found(self, name: bytes) -> int:
        """Open what an earlier attempt has left; BlockingIOError when somebody holds it."""
        found = find(self._directory, name)
        try:
            if found is None:
                raise FileNotFoundError
            self._check_own(found, name)
            fd = os.open(name, _OWN, dir_fd=self._directory)
        except FileNotFoundError:
            raise Busy("another transfer of this file has just ended") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last owner may have removed the name before we got the lock.
            if not is_named(fd, self._directory, name):
                raise BlockingIOError
            self._check_own(status_of(fd), name)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _check_own(self, status: Status, name: bytes) -> None:
        """OSError when the temporary file was planted by another user."""
        owners = (os.geteuid(), os.fstat(self._directory).st_uid)  # where a file system has no owners all have the same
        if not stat.S_ISREG(status.st_mode) or status.st_uid not in owners:
            raise PermissionError(errno.EPERM, f"{os.fsdecode(name)} is in the way: mproxy did not create it")
        if status.st_nlink > 1:
            named = find(self._directory, self._name)
            if named is not None and (named.st_dev, named.st_ino) == (status.st_dev, status.st_ino):
                # We were killed between the two steps of giving it its name.
                os.unlink(name, dir_fd=self._directory)
                raise Busy("the partial file already has its final name")
            raise PermissionError(errno.EPERM, f"{os.fsdecode(name)} is in the way: it has a second name (hard link)")

    def _read_state(self) -> bool:
        """Whether an earlier attempt at the same source is there; if so its digests are taken over."""
        size = self._file.size
        length = _STATE.size + block_count(size) * DIGEST_BYTES
        if os.fstat(self._state_fd).st_size != length:
            return False
        data = os.pread(self._state_fd, length, 0)
        if len(data) != length or _STATE.unpack_from(data) != (_MAGIC, size, self._file.identity):
            return False
        if self._file.sparse or os.fstat(self._fd).st_size > size:
            os.ftruncate(self._fd, size)
        self._digests = bytearray(data[_STATE.size:])
        self._forget(self._damaged())
        return True

    def _damaged(self, numbers: Sequence[int] | None = None) -> list[int]:
        """Which of these blocks (None: of all) the state claims although their data on the disk differ."""
        numbers = range(len(self._digests) // DIGEST_BYTES) if numbers is None else numbers
        some = [numbers[at.start:at.stop] for at in spans(len(numbers))]
        return [number for found in self._spread(self._damaged_in, some) for number in found]

    def _damaged_in(self, numbers: Sequence[int]) -> list[int]:
        size, found = self._size(), []
        buffer = bytearray(min(size, LEAF_BYTES))
        count = len(self._digests) // DIGEST_BYTES
        for number in numbers:
            if self._cancelled:
                raise Cancelled("no longer wanted")
            if not self._has(number):
                continue
            if self._digest(number) == ZERO_DIGEST and number < count - 1 and is_hole(self._fd, number, size):
                continue
            length = block_length(size, number)
            data = read_block(self._fd, buffer, number, length)
            if len(data) != length or not self._is_block(number, data, self._digest(number), number == count - 1):
                found.append(number)
        return found

    def _is_block(self, number: int, data: Data, digest: bytes, is_last: bool) -> bool:
        """Whether data have this digest. Only the digest tells which block of a pipe is the last."""
        return leaf(data, number, is_last) == digest or (
            self._file.kind == FileKind.PIPE and leaf(data, number, not is_last) == digest)

    def _size(self) -> int:
        return self._file.size if self._file.kind == FileKind.FILE else self._arrived

    def _forget(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._note(number, _MISSING)

    def _start_anew(self) -> None:
        # A single block tells when it is written, and nobody knows how much of a sparse file there is.
        if self._file.kind == FileKind.FILE and self._file.size > LEAF_BYTES and not self._file.sparse:
            self._check_room()  # first: the digests of an absurd size would fill the memory
        for fd, name in ((self._fd, self._part), (self._state_fd, self._state_name)):
            if fd >= 0 and name not in self._made:
                os.ftruncate(fd, 0)
        self._is_new = True
        if self._file.sparse:
            os.ftruncate(self._fd, self._file.size)
        if self._file.kind == FileKind.FILE:
            self._digests = bytearray(block_count(self._file.size) * DIGEST_BYTES)
        if self._state_fd >= 0 and self._digests:
            os.pwrite(self._state_fd, _STATE.pack(_MAGIC, self._file.size, self._file.identity), 0)
            os.ftruncate(self._state_fd, _STATE.size + len(self._digests))

    def _check_room(self) -> None:
        """Find out now, not after an hour, that the disk is too small."""
        room = os.fstatvfs(self._fd)
        own = os.fstat(self._fd).st_blocks * 512  # of another source, which is about to be discarded
        if self._file.size > room.f_bavail * room.f_frsize + own and room.f_blocks:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _reserve(self) -> None:
        """Reserve room a step ahead of what arrives, never more than has arrived; OSError where there is none."""
        if self._file.kind != FileKind.FILE or self._file.sparse or not self._reserving.acquire(blocking=False):
            return
        try:
            here = self.kept_blocks * LEAF_BYTES + self._arrived
            if here >= self._file.size:
                return
            until = min(self._file.size, here + min(here, RESERVE_BYTES))
            if until - self._reserved >= min(RESERVE_BYTES // 2, self._file.size - self._reserved) > 0:
                done = reserve(self._fd, self._reserved, until - self._reserved)
                self._reserved = until if done else self._file.size
        finally:
            self._reserving.release()

    def _digest(self, number: int) -> bytes:
        return bytes(self._digests[number * DIGEST_BYTES:(number + 1) * DIGEST_BYTES])

    def _has(self, number: int) -> bool:
        return self._digest(number) != _MISSING

    def _missing(self) -> list[tuple[int, int]]:
        """[(first block, number of blocks), ...], at most MOST_RANGES: the last takes what is left."""
        ranges: list[tuple[int, int]] = []
        count, number = block_count(self._file.size), 0
        while number < count:
            first = number
            while number < count and not self._has(number):
                number += 1
            if number > first:
                if len(ranges) == MOST_RANGES - 1:
                    ranges.append((first, count - first))
                    break
                ranges.append((first, number - first))
            number += 1
        return ranges

    def write_block(self, number: int, data: Data, digest: bytes, is_rebuilt: bool = False) -> bool:
        at = number * LEAF_BYTES
        if self._file.kind == FileKind.PIPE:
            if number >= MOST_PIPE_BLOCKS:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            place = self._parts.add(number, data, digest)
            if place is None:
                return False
            at = place
        elif is_rebuilt:
            self._rebuilt.add(number)
        if self._file.sparse and self._is_new:
            write_with_holes(self._fd, data, at)
        else:
            write_at(self._fd, data, at)
        self._arrived += len(data)
        self._note(number, digest)
        self._reserve()
        return True

    def copy_block(self, number: int, fd: int, offset: int, digest: bytes) -> bool:
        length = block_length(self._file.size, number)
        if self._file.sparse or not copy_range(fd, offset, self._fd, number * LEAF_BYTES, length):
            return False
        self._arrived += length
        self._rebuilt.add(number)
        self._note(number, digest)
        self._reserve()
        return True

    def unlike_rebuilt(self) -> set[int]:
        rebuilt, self._rebuilt = self._rebuilt, set()
        found = self._damaged(sorted(rebuilt))
        self._forget(found)
        return set(found)

    def write_holes(self, first: int, count: int) -> None:
        if not self._is_new:
            for number in range(first, first + count):
                if not is_hole(self._fd, number, self._file.size):
                    fill_with_zeros(self._fd, number)
        digests, at = ZERO_DIGEST * count, first * DIGEST_BYTES
        self._digests[at:at + len(digests)] = digests
        if self._state_fd >= 0:
            os.pwrite(self._state_fd, digests, _STATE.size + at)

    def _note(self, number: int, digest: bytes) -> None:
        at = number * DIGEST_BYTES
        self._digests[at:at + DIGEST_BYTES] = digest
        if self._state_fd >= 0 and self._file.kind == FileKind.FILE:
            os.pwrite(self._state_fd, digest, _STATE.size + at)

    def finish(self, size: int, digest: bytes) -> bytes | None:
        """Hash what is on the disk, give it its name and close it; returns the root. None: it is not the sender's root,
        and nothing is kept.

        A `digest` of zeros means that the sender sent only what was missing: each block has a digest of its own.
        Damaged: a block is not what its digest says, whoever changed it; what is right is kept for another attempt.
        """
        complete = all(self._has(number) for number in range(len(self._digests) // DIGEST_BYTES))
        own = root(self._digests)
        if not complete or size != self._size() or (digest != own and not (self.kept_blocks and digest == _MISSING)):
            self.discard()
            return None
        if self._file.attributes:
            give_attributes(self._fd, self._file.attributes)
        self._hash_all(size, settle(self._fd, *self._mode_and_time()))
        if not is_named(self._fd, self._directory, self._part):
            raise Damaged("the partial file at the receiver was moved or replaced: send it again")
        self._give_name()
        self.close()
        return own

    def _mode_and_time(self) -> tuple[int, int | None]:
        has_time = self._file.mtime_ns or self._file.kind == FileKind.FILE  # standard input has none
        return self._file.mode & 0o777 & ~self._umask, self._file.mtime_ns if has_time else None

    def as_whole(self, data: Data, digest: bytes, end: End) -> Whole | None:
        """What `settle_all` needs to write and finish a file of one block; None if that is not what arrived."""
        is_new = self._state_fd < 0 and len(self._digests) == DIGEST_BYTES
        is_right = len(data) == end.size == self._file.size and (
            leaf(data, 0, True) == digest and root(digest) == end.root)
        if not is_new or not is_right or self._file.attributes:
            return None
        return (self._fd, self._directory, self._part, self._name, data, *self._mode_and_time())

    def was_settled(self, closed: bool) -> None:
        """It has its name. `closed`: and the temporary one is removed; else that is left to `leftovers`."""
        if closed:
            self._fd = self._directory = -1
        self._discarded = True

    def _hash_all(self, size: int, before: Status) -> None:
        """Raise Damaged unless the data on the disk is what arrived and nobody has written there since the status
        `before`."""
        for _attempt in range(3):  # some file systems update times a moment later
            damaged = self._damaged()
            status = status_of(self._fd)
            if damaged or status.st_size != size:
                self._forget(damaged)
                if self._rebuilt.issuperset(damaged) and status.st_size == size:
                    self._rebuilt = set()
                    raise Unlike(set(damaged))
                raise Damaged("the data on the receiver's disk is not what was sent: send it again")
            if (status.st_mtime_ns, status.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns):
                return
            before = status
        raise Damaged("another program is writing to the partial file at the receiver: send it again")

    def _give_name(self) -> None:
        """Give the file that was hashed, and no other, its name."""
        certain = self._replace() if self._force else self._name_anew()
        self.discard()
        if not certain and not is_named(self._fd, self._directory, self._name):
            raise Damaged("another program replaced the file at the receiver")

    def _link(self, name: bytes) -> bool:
        """Whether the file that we hold open could be given another name."""
        try:
            link_open(self._fd, self._directory, name)
            return True
        except FileExistsError:
            raise
        except OSError:
            return False  # no hard links here, or no /proc

    def _replace(self) -> bool:
        """Whether it is certain which file has the name now."""
        check_free(find(self._directory, self._name), self._file, True)  # once more: it may have come meanwhile
        fresh = b"." + os.urandom(12).hex().encode() + PART  # a name that nobody can put another file under
        source = fresh if self._link(fresh) else self._part
        try:
            os.rename(source, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except BaseException:
            if source is fresh:
                os.unlink(fresh, dir_fd=self._directory)
            raise
        return source is fresh

    def _name_anew(self) -> bool:
        """Without replacing what has appeared there meanwhile. Returns as _replace."""
        if self._link(self._name):
            return True
        if rename_new(self._directory, self._part, self._name):
            return False
        if find(self._directory, self._name) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        os.rename(self._part, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        return False

    def discard(self) -> None:
        """Remove the partial file and its state."""
        if not self._discarded:
            self._discard((self._part, self._state_name))
            self._discarded = True

    def _discard(self, names: Collection[bytes]) -> None:
        for name, fd in ((self._part, self._fd), (self._state_name, self._state_fd)):
            if fd >= 0 and name in names:
                remove_named(fd, self._directory, name)

    def cancel(self) -> None:
        self._cancelled = True

    def abandon(self) -> None:
        try:
            if not self._begun:
                self._discard(self._made)
            elif self._state_fd < 0 or self.in_order or not (self.kept_blocks or self._arrived):
                self.discard()
        finally:
            self.close()

    def close(self) -> None:
        for fd in (self._fd, self._state_fd, self._directory):
            if fd >= 0:
                os.close(fd)
        self._fd = self._state_fd = self._directory = -1


# ---- small files, many in one go

def begin_together(places: Sequence[tuple[int, bytes, File]], *, force: bool, umask: int,
                   spread: Spread) -> list[PartialFile | None]:
    """A PartialFile that has begun for each of these: (directory's descriptor, name, FILE message) of a file of one
    block. None where something is in the way: it has to begin by itself."""
    wanted = [(directory, temporary_names(name)[0], name) for directory, name, _file in places]
    targets: list[PartialFile | None] = []
    for (_directory, name, file), made in zip(places, create_all(wanted), strict=True):
        target = None
        if made is not None:
            fd, directory = made
            target = PartialFile(directory, name, file, force=force, umask=umask, spread=spread)
            target.begin_new(fd)
        targets.append(target)
    return targets


def finish_together(arrived: Sequence[tuple[ArrivingFile, Data, bytes, End]]) -> list[bytes | None]:
    """Write and finish files, [(target, data, digest, END message), ...], each the only block of its file. Returns the
    root of each. None: it has to be written and finished by itself, as if nothing had been done."""
    wholes = [target.as_whole(data, digest, end) if isinstance(target, PartialFile) else None
              for target, data, digest, end in arrived]
    results = iter(settle_all([whole for whole in wholes if whole is not None]))
    roots: list[bytes | None] = []
    for (target, _data, _digest, end), whole in zip(arrived, wholes, strict=True):
        result = next(results) if whole is not None else 0
        if result and isinstance(target, PartialFile):
            target.was_settled(result == 2)
        roots.append(end.root if result else None)
    return roots
