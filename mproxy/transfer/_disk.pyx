"""What arriving files need of the disk. Why not by the os module: _disk.pxd."""

import os

from libc.errno cimport EACCES, EBADF, EEXIST, EINTR, EINVAL, ENOENT, ENOSYS, EOPNOTSUPP, EPERM, EXDEV, errno
from libc.stdint cimport INT64_MAX, int64_t, uint8_t
from libc.stdlib cimport calloc, free

from mproxy.ground._clock cimport timespec


cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE 1
    #endif
    #include <fcntl.h>
    #include <stdio.h>
    #include <string.h>
    #include <sys/file.h>
    #include <sys/stat.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    #define IS_SAME(a, b) ((a)->st_dev == (b)->st_dev && (a)->st_ino == (b)->st_ino)
    static int rename_no_replace(int directory, const char *from, const char *to) {
        return (int)syscall(SYS_renameat2, directory, from, directory, to, 1);  /* RENAME_NOREPLACE */
    }
    static int link_descriptor(int fd, int directory, const char *name) {
        char own[32];
        snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
        return linkat(AT_FDCWD, own, directory, name, AT_SYMLINK_FOLLOW);
    }
    static int duplicate(int fd) {
        return fcntl(fd, F_DUPFD_CLOEXEC, 0);
    }
    """
    ctypedef unsigned int mode_t
    struct stat_t "stat":
        unsigned long long st_dev, st_ino
        mode_t st_mode
        unsigned long long st_nlink
        unsigned int st_uid
        int64_t st_size, st_blocks
        timespec st_mtim, st_ctim
    int AT_SYMLINK_NOFOLLOW, LOCK_EX, LOCK_NB
    int O_RDONLY, O_RDWR, O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_CLOEXEC, O_DIRECTORY
    bint IS_SAME(const stat_t *a, const stat_t *b) nogil
    int openat(int directory, const char *name, int flags, ...) nogil
    int close(int fd) nogil
    int memcmp(const void *a, const void *b, size_t length) nogil
    int duplicate(int fd) nogil
    int flock(int fd, int operation) nogil
    int fstat(int fd, stat_t *status) nogil
    int fstatat(int directory, const char *name, stat_t *status, int flags) nogil
    ssize_t pread(int fd, void *data, size_t length, int64_t at) nogil
    ssize_t pwrite(int fd, const void *data, size_t length, int64_t at) nogil
    ctypedef int64_t loff_t
    ssize_t copy_file_range(int source, loff_t *source_at, int fd, loff_t *at, size_t length, unsigned int flags) nogil
    int fallocate(int fd, int mode, int64_t offset, int64_t length) nogil
    int fdatasync(int fd) nogil
    int fchmod(int fd, mode_t mode) nogil
    int futimens(int fd, const timespec *times) nogil
    int link_descriptor(int fd, int directory, const char *name) nogil
    int unlinkat(int directory, const char *name, int flags) nogil
    int rename_no_replace(int directory, const char *source, const char *target) nogil


cdef class Status:
    """Of a file: what is needed of os.stat_result, under the same names."""

    cdef readonly unsigned long long st_dev, st_ino, st_nlink
    cdef readonly unsigned int st_mode, st_uid
    cdef readonly int64_t st_size, st_blocks, st_mtime_ns, st_ctime_ns

    def is_unchanged(self, Status before not None):
        """Whether it is still the same file, and nobody has written to it or changed its mode, names or times."""
        return (self.st_dev == before.st_dev and self.st_ino == before.st_ino and self.st_size == before.st_size
                and self.st_mtime_ns == before.st_mtime_ns and self.st_ctime_ns == before.st_ctime_ns)


cdef Status as_status(const stat_t *found):
    cdef Status status = Status.__new__(Status)
    status.st_blocks = found.st_blocks
    status.st_dev, status.st_ino, status.st_nlink = found.st_dev, found.st_ino, found.st_nlink
    status.st_mode, status.st_uid, status.st_size = found.st_mode, found.st_uid, found.st_size
    status.st_mtime_ns, status.st_ctime_ns = as_ns(&found.st_mtim), as_ns(&found.st_ctim)
    return status


cdef int64_t as_ns(const timespec *time) noexcept:
    """Nanoseconds since 1970; the nearest there can be for times before 1677 and after 2262."""
    cdef int64_t most_s = 9_223_372_035
    if time.tv_sec > most_s:
        return INT64_MAX
    if time.tv_sec < -most_s:
        return -INT64_MAX
    return <int64_t>time.tv_sec * 1_000_000_000 + time.tv_nsec


cdef int fail() except -1:
    raise OSError(errno, os.strerror(errno))


# ---- names

def open_below(int base, parts):
    """A descriptor of the directory that the names `parts` lead to from `base`; of `base` itself if there are none.
    OSError, its `filename` the part that is missing, a symbolic link, or not a directory."""
    cdef int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC
    cdef int above = base, below
    cdef const char *name
    for part in parts or [b"."]:
        name = part
        with nogil:
            below = openat(above, name, flags)
            while below < 0 and errno == EINTR:
                below = openat(above, name, flags)
        error = errno
        if above != base:
            close(above)
        if below < 0:
            raise OSError(error, os.strerror(error), part)
        above = below
    return above


def find(int directory, bytes name not None):
    """The Status of `name` in a directory (of a symbolic link, not its target); None if it does not exist. OSError."""
    cdef const char *sought = name
    cdef stat_t found
    cdef int result
    with nogil:
        result = fstatat(directory, sought, &found, AT_SYMLINK_NOFOLLOW)
    if result == 0:
        return as_status(&found)
    if errno != ENOENT:
        fail()
    return None


def is_named(int fd, int directory, bytes name not None):
    """Whether an open file has this name in a directory; false where that cannot be found out."""
    cdef const char *own = name
    cdef bint same
    with nogil:
        same = has_name(fd, directory, own)
    return same


cdef bint has_name(int fd, int directory, const char *name) noexcept nogil:
    cdef stat_t held, found
    return (fstat(fd, &held) == 0 and fstatat(directory, name, &found, AT_SYMLINK_NOFOLLOW) == 0
            and IS_SAME(&held, &found))


def create(int directory, bytes name not None):
    """A descriptor of a new file, readable by its owner only, and locked; -1 when the name is taken. OSError;
    BlockingIOError when somebody else got the lock first."""
    cdef const char *own = name
    cdef int flags = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC
    cdef int fd, result = 0
    with nogil:
        fd = openat(directory, own, flags, <mode_t>0o600)
        while fd < 0 and errno == EINTR:
            fd = openat(directory, own, flags, <mode_t>0o600)
        if fd >= 0:
            result = flock(fd, LOCK_EX | LOCK_NB)
    if result < 0:
        error = errno
        close(fd)
        raise OSError(error, os.strerror(error))
    if fd < 0 and errno != EEXIST:
        fail()
    return fd


def link_open(int fd, int directory, bytes name not None):
    """Give an open file another name, in a directory (proc(5), linkat(2)). FileExistsError, OSError."""
    cdef const char *new = name
    cdef int result
    with nogil:
        result = link_descriptor(fd, directory, new)
    if result < 0:
        fail()


def remove_named(int fd, int directory, bytes name not None):
    """Remove a name from a directory, if it is the open file's. OSError."""
    cdef const char *own = name
    cdef int result = 0
    with nogil:
        if has_name(fd, directory, own):
            result = unlinkat(directory, own, 0)
    if result < 0:
        fail()


def rename_new(int directory, bytes source not None, bytes target not None):
    """Rename within the directory of a descriptor, to a name that is free (renameat2(2), RENAME_NOREPLACE); false: the
    file system cannot. FileExistsError when the name is taken, OSError."""
    cdef const char *source_name = source
    cdef const char *target_name = target
    cdef int result
    with nogil:
        result = rename_no_replace(directory, source_name, target_name)
    if result == 0:
        return True
    if errno in (EOPNOTSUPP, ENOSYS, EINVAL):
        return False
    fail()


# ---- contents

def status_of(int fd):
    """The Status of an open file. OSError."""
    cdef stat_t found
    cdef int result
    with nogil:
        result = fstat(fd, &found)
    if result < 0:
        fail()
    return as_status(&found)


def read_at(int fd, uint8_t[::1] buffer not None, int64_t at):
    """Fill `buffer` from offset `at` of a file; returns how many bytes: fewer at its end. OSError."""
    cdef size_t done = 0, length = <size_t>buffer.shape[0]
    cdef ssize_t got = 1
    if length == 0:
        return 0
    with nogil:
        while done < length and got != 0:
            got = pread(fd, &buffer[done], length - done, at + <int64_t>done)
            if got > 0:
                done += <size_t>got
            elif got < 0 and errno != EINTR:
                break
    if got < 0:
        fail()
    return done


def write_at(int fd, const uint8_t[::1] data not None, int64_t at):
    """Write all of `data` at offset `at` of a file. OSError."""
    cdef size_t done = 0, length = <size_t>data.shape[0]
    cdef ssize_t put = 0
    if length == 0:
        return
    with nogil:
        while done < length:
            put = pwrite(fd, &data[done], length - done, at + <int64_t>done)
            if put >= 0:
                done += <size_t>put
            elif errno != EINTR:
                break
    if put < 0:
        fail()


def copy_range(int source, int64_t source_at, int fd, int64_t at, int64_t length):
    """Have bytes of another file, from `source_at` on, at offset `at` of this one (copy_file_range(2)): where the file
    system can, both then share the same room on the disk. False: not all of them are there, or it cannot. OSError."""
    cdef ssize_t moved = 1
    cdef loff_t from_at = source_at, to_at = at
    with nogil:
        while length > 0 and moved != 0:
            moved = copy_file_range(source, &from_at, fd, &to_at, <size_t>length, 0)
            if moved > 0:
                length -= moved
            elif moved < 0 and errno != EINTR:
                break
    if moved < 0 and errno not in (EOPNOTSUPP, ENOSYS, EINVAL, EXDEV, EBADF):
        fail()
    return length == 0


def reserve(int fd, int64_t offset, int64_t length):
    """Reserve bytes [offset, offset + length) of a file, which grows to hold them; false: the file system cannot.

    OSError when there is no room.
    """
    cdef int result
    while True:
        with nogil:
            result = fallocate(fd, 0, offset, length)
        if result == 0:
            return True
        if errno in (EOPNOTSUPP, ENOSYS, EINVAL):
            return False
        if errno != EINTR:
            fail()


def settle(int fd, mode_t mode, mtime_ns):
    """Write the contents of a file out to the disk, then set its mode and, unless None, its time; returns its Status.
    Where the file system does not allow setting these they stay as they are. OSError."""
    cdef timespec times[2]
    cdef bint has_time = mtime_ns is not None
    cdef stat_t found
    cdef int result
    if has_time:
        times[0].tv_sec, times[0].tv_nsec = divmod(mtime_ns, 1_000_000_000)
        times[1] = times[0]
    with nogil:
        result = fdatasync(fd)
        while result < 0 and errno == EINTR:
            result = fdatasync(fd)
        if result == 0:
            result = fchmod(fd, mode)
            if result == 0 and has_time:
                result = futimens(fd, times)
            if result == 0 or errno == EPERM or errno == EACCES:
                result = fstat(fd, &found)
    if result < 0:
        fail()
    return as_status(&found)


# ---- small files, many in one go
#
# They do what the functions above do for one file, as long as nothing out of the ordinary happens. A file with which
# something does is left to those functions, which do it again and find out what it was.

cdef enum:
    MOST_BYTES = 16384  # of a small file


cdef struct Small:
    int directory, fd
    const char *name
    const char *part
    const uint8_t *data
    size_t length
    mode_t mode
    bint has_time
    timespec times[2]
    int result


cdef Small *small_files(Py_ssize_t count) except NULL:
    cdef Small *files = <Small *>calloc(<size_t>count + 1, sizeof(Small))
    if files == NULL:
        raise MemoryError
    return files


def create_all(list wanted not None):
    """Create files as `create` does, [(directory, name, another name that must be free), ...]. Returns for each
    (descriptor, a descriptor of its directory), both for the caller to close; None: not created."""
    cdef Py_ssize_t count = len(wanted), i
    cdef Small *files = small_files(count)
    try:
        for i in range(count):
            directory, part, name = wanted[i]
            files[i].directory, files[i].part, files[i].name = directory, part, name
        with nogil:
            for i in range(count):
                create_small(&files[i])
        return [(files[i].fd, files[i].directory) if files[i].result else None for i in range(count)]
    finally:
        free(files)


cdef void create_small(Small *one) noexcept nogil:
    cdef stat_t found
    cdef int directory = one.directory
    cdef int flags = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC
    if fstatat(directory, one.name, &found, AT_SYMLINK_NOFOLLOW) == 0 or errno != ENOENT:
        return
    one.fd = openat(directory, one.part, flags, <mode_t>0o600)
    if one.fd < 0:
        return
    if flock(one.fd, LOCK_EX | LOCK_NB) == 0:  # who loses it to another sees to what the other has made of the file
        # Once more: it may have come before we had the lock.
        if fstatat(directory, one.name, &found, AT_SYMLINK_NOFOLLOW) < 0 and errno == ENOENT:
            one.directory = duplicate(directory)
            if one.directory >= 0:
                one.result = 1
                return
        if has_name(one.fd, directory, one.part):
            unlinkat(directory, one.part, 0)
    close(one.fd)


def settle_all(list arrived not None):
    """Write new files, as `create_all` made them, and give them their names, [(descriptor, directory, temporary name,
    name, data, mode, time in ns or None), ...]: to the disk, read again and compared, `settle` and `link_open`.

    Returns for each 0: it has no name yet; 1: it has its name; 2: and the temporary name is removed and both
    descriptors are closed.
    """
    cdef Py_ssize_t count = len(arrived), i
    cdef Small *files = small_files(count)
    cdef const uint8_t[::1] data
    try:
        for i in range(count):
            fd, directory, part, name, content, mode, mtime_ns = arrived[i]
            files[i].fd, files[i].directory, files[i].part, files[i].name = fd, directory, part, name
            data = content
            files[i].length = <size_t>data.shape[0]
            if files[i].length:
                files[i].data = &data[0]
            files[i].mode = mode
            files[i].has_time = mtime_ns is not None
            if files[i].has_time:
                files[i].times[0].tv_sec, files[i].times[0].tv_nsec = divmod(mtime_ns, 1_000_000_000)
                files[i].times[1] = files[i].times[0]
        with nogil:
            for i in range(count):
                settle_small(&files[i])
        return [files[i].result for i in range(count)]
    finally:
        free(files)


cdef void settle_small(Small *one) noexcept nogil:
    cdef stat_t before, after
    cdef uint8_t there[MOST_BYTES + 1]
    if one.length > MOST_BYTES or pwrite(one.fd, one.data, one.length, 0) != <ssize_t>one.length:
        return
    if fdatasync(one.fd) < 0 or fchmod(one.fd, one.mode) < 0 or (one.has_time and futimens(one.fd, one.times) < 0):
        return
    if fstat(one.fd, &before) < 0 or pread(one.fd, there, one.length + 1, 0) != <ssize_t>one.length:
        return
    if one.length and memcmp(there, one.data, one.length) != 0:
        return
    if fstat(one.fd, &after) < 0 or not is_same_state(&before, &after) or not has_name(
            one.fd, one.directory, one.part):
        return
    if link_descriptor(one.fd, one.directory, one.name) < 0:
        return
    one.result = 1
    if has_name(one.fd, one.directory, one.part) and unlinkat(one.directory, one.part, 0) < 0:
        return
    close(one.fd)
    close(one.directory)
    one.result = 2


cdef bint is_same_state(const stat_t *a, const stat_t *b) noexcept nogil:
    return (a.st_size == b.st_size and a.st_mtim.tv_sec == b.st_mtim.tv_sec and a.st_mtim.tv_nsec == b.st_mtim.tv_nsec
            and a.st_ctim.tv_sec == b.st_ctim.tv_sec and a.st_ctim.tv_nsec == b.st_ctim.tv_nsec)


def read_all(list wanted not None):
    """The contents of files, [(descriptor, Status when it was opened), ...]: for each a bytearray; None where not all
    can be read or the file is not unchanged."""
    cdef Py_ssize_t count = len(wanted), i
    cdef Small *files = small_files(count)
    cdef stat_t *found = NULL
    cdef uint8_t[::1] room
    cdef Status status
    try:
        found = <stat_t *>calloc(<size_t>count + 1, sizeof(stat_t))
        if found == NULL:
            raise MemoryError
        buffers = []
        for i in range(count):
            fd, status = wanted[i]
            buffer = bytearray(status.st_size)
            buffers.append(buffer)
            files[i].fd, files[i].length = fd, <size_t>status.st_size
            if files[i].length:
                room = buffer
                files[i].data = &room[0]
        room = None
        with nogil:
            for i in range(count):
                files[i].result = (
                    files[i].length == 0 or pread(files[i].fd, <void *>files[i].data, files[i].length, 0)
                    == <ssize_t>files[i].length) and fstat(files[i].fd, &found[i]) == 0
        return [buffers[i] if files[i].result and as_status(&found[i]).is_unchanged(wanted[i][1]) else None
                for i in range(count)]
    finally:
        free(found)
        free(files)
