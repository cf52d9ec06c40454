"""Small files, made many in one go. How and why: _making.pxd."""

from libc.errno cimport EBADMSG, EINTR, EIO, errno
from libc.stdint cimport INT64_MIN, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memchr, memcmp, memcpy, memset

from mproxy.ground._clock cimport timespec
from mproxy.transfer._hash cimport DIGEST_SIZE, root_of_leaf


cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE 1
    #endif
    #include <endian.h>
    #include <errno.h>
    #include <fcntl.h>
    #include <stdio.h>
    #include <string.h>
    #include <sys/stat.h>
    #include <unistd.h>
    #ifndef O_TMPFILE
    #define O_TMPFILE (020000000 | O_DIRECTORY)
    #endif
    /* The first way needs a privilege (CAP_DAC_READ_SEARCH), the second /proc. */
    static int name_unnamed(int fd, int directory, const char *name) {
        char own[32];
        if (linkat(fd, "", directory, name, AT_EMPTY_PATH) == 0)
            return 0;
        if (errno == EEXIST)
            return -1;
        snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
        return linkat(AT_FDCWD, own, directory, name, AT_SYMLINK_FOLLOW);
    }
    """
    ctypedef unsigned int mode_t
    struct stat_t "stat":
        mode_t st_mode
    int O_RDWR, O_CLOEXEC, O_TMPFILE
    const uint8_t *memrchr(const uint8_t *text, int sought, size_t length) nogil
    int openat(int directory, const char *name, int flags, ...) nogil
    int close(int fd) nogil
    int fstat(int fd, stat_t *status) nogil
    ssize_t pread(int fd, void *data, size_t length, int64_t at) nogil
    ssize_t pwrite(int fd, const void *data, size_t length, int64_t at) nogil
    int fdatasync(int fd) nogil
    int fchmod(int fd, mode_t mode) nogil
    int futimens(int fd, const timespec *times) nogil
    int name_unnamed(int fd, int directory, const char *name) nogil
    uint16_t be16toh(uint16_t value) nogil
    uint32_t be32toh(uint32_t value) nogil
    uint64_t be64toh(uint64_t value) nogil

cdef enum:
    MOST = 16384      # bytes of a small file
    AT_ONCE = 64      # files that are open at a time
    ENTRY = 50        # bytes of an entry of a bundle beside name and contents
    MOST_PATH = 4096  # bytes of a name that a bundle may bring
    MOST_PART = 255   # bytes of a component of it
    BY_TIME = 2       # flags of an entry
    WITH_DATA = 4
    FILE = 1          # kind of an entry


cdef struct Made:
    int directory, fd, error
    const char *name
    const uint8_t *data
    size_t length
    mode_t mode
    timespec times[2]
    uint8_t root[DIGEST_SIZE]


def make_files(const uint8_t[::1] data not None, wanted not None):
    """Make files, [(directory's descriptor, name, where in `data` it begins, its bytes, mode, time in ns, root), ...],
    each whole and on the disk before it has its name. Returns for each 0, or why it was not made: an errno; EBADMSG if
    the data have another root."""
    cdef Py_ssize_t count = len(wanted), i
    cdef Py_ssize_t at, length, some, done = 0
    cdef int64_t mtime_ns
    cdef Made *files = <Made *>calloc(<size_t>count + 1, sizeof(Made))
    try:
        if files == NULL:
            raise MemoryError
        for i in range(count):
            directory, name, at, length, mode, mtime_ns, root = wanted[i]
            if at < 0 or not 0 <= length <= MOST or at + length > data.shape[0] or len(root) != DIGEST_SIZE:
                raise ValueError("a small file outside its data")
            memcpy(files[i].root, <const uint8_t *>root, DIGEST_SIZE)
            files[i].directory, files[i].name, files[i].mode = directory, name, mode
            files[i].length = <size_t>length
            if length:
                files[i].data = &data[at]
            # Towards the past, so that nanoseconds are never negative.
            files[i].times[0].tv_sec, files[i].times[0].tv_nsec = divmod(mtime_ns, 1_000_000_000)
            files[i].times[1] = files[i].times[0]
        with nogil:
            while done < count:
                some = min(count - done, <Py_ssize_t>AT_ONCE)
                make_some(&files[done], some)
                done += some
        return [files[i].error for i in range(count)]
    finally:
        free(files)


def find_group(const uint8_t[::1] data not None, Py_ssize_t at, Py_ssize_t most):
    """How many entries of a bundle from there on, at most `most`, are files with their contents and lie in one
    directory; where they end; the bytes of their contents; and that directory. None of them: the next one is something
    else, in no directory, or nothing that there can be."""
    cdef PlainEntry first, one
    cdef Py_ssize_t count = 0
    cdef size_t used = <size_t>at, size = 0, length = <size_t>data.shape[0]
    if at < 0 or used >= length:
        return 0, at, 0, b""
    with nogil:
        while count < most and get_plain(&data[0] + used, length - used, &one):
            if count == 0:
                first = one
            elif one.above_length != first.above_length or memcmp(one.name, first.name, one.above_length) != 0:
                break
            used += one.bytes
            size += one.size
            count += 1
    return count, <Py_ssize_t>used, size, first.name[:first.above_length] if count else b""


cdef struct PlainEntry:
    int flags
    mode_t mode
    int64_t mtime_ns
    size_t size, name_length, above_length, bytes
    const uint8_t *root
    const uint8_t *name
    const uint8_t *data


cdef bint get_plain(const uint8_t *at, size_t room, PlainEntry *entry) noexcept nogil:
    """Whether an entry begins there of a file in a directory, its contents with it."""
    cdef uint16_t mode, length
    cdef uint32_t size
    cdef uint64_t mtime_ns
    cdef const uint8_t *slash
    if room < ENTRY or at[0] != FILE or (at[1] != WITH_DATA and at[1] != WITH_DATA | BY_TIME):
        return False
    memcpy(&mode, at + 2, 2)
    memcpy(&mtime_ns, at + 4, 8)
    memcpy(&size, at + 12, 4)
    memcpy(&length, at + 16, 2)
    entry.flags, entry.mode, entry.mtime_ns = at[1], be16toh(mode), <int64_t>be64toh(mtime_ns)
    entry.size, entry.name_length = be32toh(size), be16toh(length)
    entry.bytes = ENTRY + entry.name_length + entry.size
    if entry.size > MOST or entry.name_length > MOST_PATH or entry.mtime_ns == INT64_MIN or entry.bytes > room:
        return False
    entry.root, entry.name = at + 18, at + ENTRY
    entry.data = entry.name + entry.name_length
    slash = memrchr(entry.name, b"/", entry.name_length)
    entry.above_length = <size_t>(slash - entry.name) if slash != NULL else 0
    return entry.above_length > 0


def make_group(const uint8_t[::1] data not None, Py_ssize_t at, Py_ssize_t count, int directory, mode_t mask, bint dots,
               tuple reserved not None):
    """Make the files of a group that `find_group` has found there, in the directory of a descriptor, as `make_files`
    does; with the sender's modes, of these the bits of `mask`. `dots`: whether a name may begin with a dot; `reserved`:
    how none that does may end (two of them). Returns for each what `make_files` does; EBADMSG also for a name that is
    not accepted."""
    cdef NameRules names
    cdef PlainEntry entry
    cdef Made *files = <Made *>calloc(AT_ONCE, sizeof(Made))
    cdef char *parts = <char *>malloc(AT_ONCE * (MOST_PART + 1))
    cdef int *errors = <int *>calloc(<size_t>count + 1, sizeof(int))
    cdef size_t used = <size_t>at, length = <size_t>data.shape[0]
    cdef Py_ssize_t done = 0, some = 0, i
    cdef bint is_whole = True
    try:
        if files == NULL or parts == NULL or errors == NULL:
            raise MemoryError
        names.dots = dots
        names.first, names.second = reserved
        names.first_length, names.second_length = <size_t>len(reserved[0]), <size_t>len(reserved[1])
        with nogil:
            while done < count and is_whole:
                some = min(count - done, <Py_ssize_t>AT_ONCE)
                memset(files, 0, AT_ONCE * sizeof(Made))
                for i in range(some):
                    is_whole = used < length and get_plain(&data[0] + used, length - used, &entry)
                    if not is_whole:
                        break
                    used += entry.bytes
                    take_entry(&files[i], &entry, directory, mask, &names, parts + i * (MOST_PART + 1))
                if is_whole:
                    make_some(files, some)
                    for i in range(some):
                        errors[done + i] = files[i].error
                    done += some
        if not is_whole:
            raise ValueError("a group of small files outside its data")
        return [errors[i] for i in range(count)]
    finally:
        free(files)
        free(parts)
        free(errors)


cdef struct NameRules:
    bint dots
    const char *first
    const char *second
    size_t first_length, second_length


cdef void take_entry(Made *one, const PlainEntry *entry, int directory, mode_t mask, const NameRules *names,
                     char *part) noexcept nogil:
    """Have what an entry says made, under its own name, which goes to `part`."""
    cdef size_t length = entry.name_length - entry.above_length - 1
    cdef const uint8_t *name = entry.name + entry.above_length + 1
    cdef int64_t second = 1_000_000_000
    if not is_accepted(name, length, names):
        one.error = EBADMSG
        return
    memcpy(part, name, length)
    part[length] = 0
    memcpy(one.root, entry.root, DIGEST_SIZE)
    one.directory, one.name, one.mode = directory, part, entry.mode & mask
    one.data, one.length = entry.data, entry.size
    one.times[0].tv_nsec = entry.mtime_ns % second  # as in C: never negative below
    one.times[0].tv_sec = entry.mtime_ns // second
    if one.times[0].tv_nsec < 0:
        one.times[0].tv_nsec += second
        one.times[0].tv_sec -= 1
    one.times[1] = one.times[0]


cdef bint is_accepted(const uint8_t *part, size_t length, const NameRules *names) noexcept nogil:
    """As check_part of transfer/file_names: a component of a path that leads nowhere else, and is not ours."""
    if length == 0 or length > MOST_PART or memchr(part, 0, length) != NULL:
        return False
    if part[0] != b".":
        return True
    if not names.dots or length == 1 or (length == 2 and part[1] == b"."):
        return False
    return not (ends_with(part, length, names.first, names.first_length)
                or ends_with(part, length, names.second, names.second_length))


cdef bint ends_with(const uint8_t *text, size_t length, const char *end, size_t end_length) noexcept nogil:
    return length >= end_length and memcmp(text + length - end_length, end, end_length) == 0


cdef void make_some(Made *files, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(count):
        write_one(&files[i])
    for i in range(count):
        name_one(&files[i])


cdef void write_one(Made *one) noexcept nogil:
    cdef uint8_t root[DIGEST_SIZE]
    one.fd = -1
    if one.error:
        return
    root_of_leaf(one.data if one.length else root, one.length, root)
    if memcmp(root, one.root, DIGEST_SIZE) != 0:
        one.error = EBADMSG
        return
    one.fd = openat(one.directory, b".", O_TMPFILE | O_RDWR | O_CLOEXEC, one.mode)
    if one.fd < 0:
        one.error = errno
    elif one.length and pwrite(one.fd, one.data, one.length, 0) != <ssize_t>one.length:
        one.error = errno or EIO


cdef void name_one(Made *one) noexcept nogil:
    cdef uint8_t there[MOST + 1]
    cdef int result
    if one.fd < 0:
        return
    if one.error == 0:
        result = fdatasync(one.fd)
        while result < 0 and errno == EINTR:
            result = fdatasync(one.fd)
        if result < 0 or give_mode(one) < 0 or futimens(one.fd, one.times) < 0:
            one.error = errno
        elif pread(one.fd, there, one.length + 1, 0) != <ssize_t>one.length or (
                one.length and memcmp(there, one.data, one.length) != 0):
            one.error = EIO
        elif name_unnamed(one.fd, one.directory, one.name) < 0:
            one.error = errno
    close(one.fd)


cdef int give_mode(const Made *one) noexcept nogil:
    """As fchmod. Nearly always it was made with its mode, which is cheap to see; an ACL of its directory, or our umask,
    may have changed it."""
    cdef stat_t status
    if fstat(one.fd, &status) == 0 and status.st_mode & 0o7777 == one.mode:
        return 0
    return fchmod(one.fd, one.mode)
