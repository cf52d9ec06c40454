"""A file that is arriving: its temporary name, what of it is there, and its way to its real name.

    .NAME.mproxy-part     the data, at its place in the file
    .NAME.mproxy-state    which source it is of, and for every block its digest, zeros while it is missing

A block's digest is written after its data, so a killed process leaves nothing that is claimed but not there. After a
crash of the system, when the page cache is lost, that is not so: the state names the boot it is of, and in another
one every block claimed is hashed again.

Names are taken apart: each directory on the way is opened from the one before it and never through a symbolic link, so
that neither a name nor a link that somebody put there leads elsewhere (openat(2), O_NOFOLLOW).
"""

import errno
import os
import stat
import struct

from mproxy.datagram._disk import reserve
from mproxy.datagram.messages import MOST_NAME_BYTES, MOST_RANGES, FileKind
from mproxy.datagram.tree import DIGEST_BYTES, LEAF_BYTES, block_count, block_length, leaf, root
from mproxy.errors import MproxyError

PART, STATE = ".mproxy-part", ".mproxy-state"
RESERVE_BYTES = 16 << 20  # at once: a reservation keeps other threads from writing to the file
LONGEST_COMPONENT = 255 - len(PART) - 1  # NAME_MAX, less what the temporary name adds

_STATE = struct.Struct(">8sQ16s36s4x")  # magic, size, identity, boot id; then the digests
_MAGIC = b"mproxy\0\1"
_MISSING = bytes(DIGEST_BYTES)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class BadName(MproxyError):
    """A name that is not taken."""


def split_name(name):
    """The components of a relative path given as bytes; BadName for what could lead out of its directory."""
    parts = name.split(b"/")
    if not name or len(name) > MOST_NAME_BYTES or b"\0" in name:
        raise BadName("empty, too long, or with a zero byte")
    for part in parts:
        if part in (b"", b".", b".."):
            raise BadName("absolute, or with an empty component, '.' or '..'")
        if len(part) > LONGEST_COMPONENT:
            raise BadName(f"a component longer than {LONGEST_COMPONENT} bytes")
        if part.startswith(b".") and part.endswith((PART.encode(), STATE.encode())):
            raise BadName("a name that mproxy uses itself")
    return parts


def open_directory(base_fd, parts):
    """A descriptor of the directory below `base_fd`, made where missing; BadName through a symbolic link."""
    fd = os.dup(base_fd)
    for part in parts:
        try:
            try:
                below = os.open(part, _DIRECTORY, dir_fd=fd)
            except FileNotFoundError:
                try:
                    os.mkdir(part, 0o777, dir_fd=fd)
                except FileExistsError:
                    pass  # another file of the same directory was quicker
                below = os.open(part, _DIRECTORY, dir_fd=fd)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise BadName(f"{os.fsdecode(part)} is there and is no directory") from None
            raise
        finally:
            os.close(fd)
        fd = below
    return fd


def boot_id():
    """Names this run of the system; None where the system does not tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read(36)
    except OSError:
        return None


class Busy(MproxyError):
    """Another transfer is writing the same file."""


class PartialFile:
    """One arriving file in the directory `directory_fd` (which it takes over). `file` is the sender's FILE message.

    `begin` first: it gives the ranges of blocks that are missing. Then `write_block` for each, from any thread but
    each block once at a time, and beside them `reserve`; when all of that is over `finish`, if the sender has ended;
    `close` at last, in every case.
    """

    def __init__(self, directory_fd, name, file, *, force=False, boot=None):
        self._directory = directory_fd
        self._name = name
        self._part = b"." + name + PART.encode()
        self._state_name = b"." + name + STATE.encode()
        self._file = file
        self._force = force
        self._boot = boot or boot_id() or bytes(36)
        self._fd = self._state_fd = -1
        self._digests = bytearray()
        self.kept_blocks = 0  # that were there from an earlier attempt

    def begin(self):
        """Ranges of missing blocks. FileExistsError when the name is taken and not to be replaced."""
        if not self._force and self._taken():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        self._fd = os.open(self._part, flags, 0o600, dir_fd=self._directory)
        self._state_fd = os.open(self._state_name, flags, 0o600, dir_fd=self._directory)
        for fd in (self._fd, self._state_fd):
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise BadName("what has the temporary name is no file")
            self._lock(fd)
        if self._file.kind == FileKind.PIPE or not self._read_state():
            self._start_anew()
        self.kept_blocks = sum(1 for number in range(len(self._digests) // DIGEST_BYTES) if self._has(number))
        return self._missing()

    def _lock(self, fd):
        import fcntl
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Busy("another transfer is writing it") from None

    def _taken(self):
        try:
            os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)
            return True
        except FileNotFoundError:
            return False

    def _read_state(self):
        """Whether an earlier attempt at the same source is there; then its digests are taken over."""
        size = self._file.size
        count = block_count(size)
        length = _STATE.size + count * DIGEST_BYTES
        if os.fstat(self._state_fd).st_size != length or os.fstat(self._fd).st_size > size:
            return False
        data = os.pread(self._state_fd, length, 0)
        magic, known_size, identity, boot = _STATE.unpack_from(data)
        if len(data) != length or (magic, known_size, identity) != (_MAGIC, size, self._file.identity):
            return False
        self._digests = bytearray(data[_STATE.size:])
        if boot != self._boot:
            self._verify_all()
            os.pwrite(self._state_fd, self._header(), 0)
        return True

    def _verify_all(self):
        """Forget the digests of blocks that a crash of the system has taken."""
        count = block_count(self._file.size)
        for number in range(count):
            if self._has(number):
                data = os.pread(self._fd, block_length(self._file.size, number), number * LEAF_BYTES)
                if leaf(data, number, number == count - 1) != self._digest(number):
                    self._note(number, _MISSING)

    def _header(self):
        return _STATE.pack(_MAGIC, self._file.size, self._file.identity, self._boot)

    def _start_anew(self):
        os.ftruncate(self._fd, 0)
        os.ftruncate(self._state_fd, 0)
        if self._file.kind == FileKind.FILE:
            self._check_room()  # first: the digests of a size that nobody has would fill the memory
            self._digests = bytearray(block_count(self._file.size) * DIGEST_BYTES)
            os.pwrite(self._state_fd, self._header() + self._digests, 0)

    def _check_room(self):
        """Find out now, not after an hour, that the disk is too small."""
        room = os.fstatvfs(self._fd)
        if self._file.size > room.f_bavail * room.f_frsize and room.f_blocks:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def reserve(self):
        """Take the room while the first blocks arrive; OSError where there is none. On a worker's thread."""
        if self._file.kind != FileKind.FILE:
            return
        for at in range(0, self._file.size, RESERVE_BYTES):
            if not reserve(self._fd, at, min(RESERVE_BYTES, self._file.size - at)):
                break

    def _digest(self, number):
        return bytes(self._digests[number * DIGEST_BYTES:(number + 1) * DIGEST_BYTES])

    def _has(self, number):
        return self._digest(number) != _MISSING

    def _missing(self):
        """[(first block, number of blocks), ...], at most MOST_RANGES: the last takes what is left."""
        if self._file.kind == FileKind.PIPE:
            return [(0, (1 << 32) - 1)]
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

    def write_block(self, number, data, digest):
        """Write a block whose digest must be `digest`; False when it is another. From any thread."""
        known = self._file.kind == FileKind.FILE
        is_last = known and number == block_count(self._file.size) - 1
        # Which block of a pipe is the last only its digest tells.
        if leaf(data, number, is_last) != digest and (known or leaf(data, number, True) != digest):
            return False
        view, at = memoryview(data), number * LEAF_BYTES
        while view:
            written = os.pwrite(self._fd, view, at)
            view, at = view[written:], at + written
        self._note(number, digest)
        return True

    def _note(self, number, digest):
        at = number * DIGEST_BYTES
        if len(self._digests) < at + DIGEST_BYTES:
            self._digests.extend(bytes(at + DIGEST_BYTES - len(self._digests)))
        self._digests[at:at + DIGEST_BYTES] = digest
        if self._file.kind == FileKind.FILE:
            os.pwrite(self._state_fd, digest, _STATE.size + at)

    def finish(self, size, digest):
        """Check the whole and move it to its name; the root. None: the hash does not agree, and nothing is kept.

        A `digest` of zeros is of a sender that has sent only what was missing: every block was checked as it came.
        """
        complete = all(self._has(number) for number in range(len(self._digests) // DIGEST_BYTES))
        known = self._file.size if self._file.kind == FileKind.FILE else size
        own = root(self._digests)
        if not complete or size != known or os.fstat(self._fd).st_size != size or digest not in (own, _MISSING):
            self.discard()
            return None
        os.fchmod(self._fd, self._file.mode & 0o777)
        os.utime(self._fd, ns=(self._file.mtime_ns, self._file.mtime_ns))
        os.fdatasync(self._fd)
        if self._force:
            os.rename(self._part, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        else:  # link(2) never replaces what came there meanwhile
            os.link(self._part, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            os.unlink(self._part, dir_fd=self._directory)
        self._unlink(self._state_name)
        return own

    def discard(self):
        """Keep nothing of it."""
        self._unlink(self._part)
        self._unlink(self._state_name)

    def _unlink(self, name):
        try:
            os.unlink(name, dir_fd=self._directory)
        except FileNotFoundError:
            pass

    def close(self):
        """Close the descriptors; what has arrived stays for the next attempt."""
        for fd in (self._fd, self._state_fd, self._directory):
            if fd >= 0:
                os.close(fd)
        self._fd = self._state_fd = self._directory = -1
