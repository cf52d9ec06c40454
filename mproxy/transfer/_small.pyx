"""Small files, read many in one go. How and why: _small.pxd."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EOPNOTSUPP, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset, strlen, strncmp

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
    #include <string.h>
    #include <sys/stat.h>
    #include <sys/xattr.h>
    #include <unistd.h>
    #define TIME_NS(time) ((time).tv_sec * 1000000000LL + (time).tv_nsec)
    /* Of a time that an int64_t of nanoseconds holds; others are for those who take more care. */
    #define IS_NEAR(time) ((time).tv_sec > -9000000000LL && (time).tv_sec < 9000000000LL)
    """
    ctypedef unsigned int mode_t
    struct stat_t "stat":
        unsigned long long st_dev, st_ino
        mode_t st_mode
        unsigned long long st_nlink
        int64_t st_size
        timespec st_mtim, st_ctim
    int AT_FDCWD, AT_SYMLINK_NOFOLLOW
    int O_RDONLY, O_NOFOLLOW, O_NONBLOCK, O_NOCTTY, O_CLOEXEC, O_DIRECTORY
    bint S_ISREG(mode_t mode) nogil
    bint S_ISLNK(mode_t mode) nogil
    bint IS_NEAR(timespec time) nogil
    int64_t TIME_NS(timespec time) nogil
    int openat(int directory, const char *name, int flags, ...) nogil
    int close(int fd) nogil
    int fstat(int fd, stat_t *status) nogil
    int fstatat(int directory, const char *name, stat_t *status, int flags) nogil
    ssize_t readlinkat(int directory, const char *name, char *target, size_t length) nogil
    ssize_t flistxattr(int fd, char *names, size_t length) nogil
    ssize_t pread(int fd, void *data, size_t length, int64_t at) nogil
    uint16_t htobe16(uint16_t value) nogil
    uint32_t htobe32(uint32_t value) nogil
    uint64_t htobe64(uint64_t value) nogil

cdef enum:
    MOST = 16384      # bytes of a small file
    ROOM = 1 << 18    # bytes of all that are read in one go, but for the last
    ENTRY = 50        # bytes of an entry of a bundle beside name and contents
    MOST_NAME = 65535
    MOST_PATH = 4096  # bytes of a name that a bundle may bring
    WITH_DATA = 4     # flag of an entry
    FILE = 1          # kind of an entry

MOST_BYTES = MOST
HERE = AT_FDCWD


# ---- reading

cdef struct Read:
    const char *path
    int directory, how
    bint is_there
    size_t at, length
    mode_t mode
    unsigned long long names
    int64_t mtime_ns, size


def read_files(wanted not None):
    """What is at these places, [(directory's descriptor, path, how), ...]: for each (mode, time in ns, size, number of
    names, contents); None: not as it should be. The descriptor counts for relative paths; it may be AT_FDCWD.

    `how`: 0 is a directory, 1 a file, plus 2 if a symbolic link at its end is followed, plus 4 if its contents are not
    needed (then they are empty).
    """
    cdef Py_ssize_t count = len(wanted), i
    cdef Read *files = <Read *>calloc(<size_t>count + 1, sizeof(Read))
    cdef uint8_t *room = <uint8_t *>malloc(ROOM + MOST + 1)
    cdef size_t used = 0
    try:
        if files == NULL or room == NULL:
            raise MemoryError
        for i in range(count):
            files[i].directory, files[i].path, files[i].how = wanted[i]
        with nogil:
            for i in range(count):
                if used <= ROOM:
                    files[i].at = used
                    read_one(&files[i], room + used)
                    used += files[i].length
        return [as_found(&files[i], <char *>room + files[i].at) if files[i].is_there else None for i in range(count)]
    finally:
        free(files)
        free(room)


def pack_files(wanted not None):
    """The entries of a bundle for what is at these places, [(directory's descriptor, path, how, kind, flags, name,
    other), ...], joined; and for each (its size, its root), or None: it is not as it should be, and there is no entry.

    `how`: as of `read_files`; and 8 is a symbolic link, its contents what it says, plus 16 if it must not have extended
    attributes of its owner's. `kind`, `flags`, `name`: of the entry; contents follow where the flags say so. `other`
    follows in their place, unless it is empty, with its length (2) in front. The root is zeros of what is no file and
    of what was not read. Releases the GIL."""
    cdef Py_ssize_t count = len(wanted), i
    cdef Packed *files = <Packed *>calloc(<size_t>count + 1, sizeof(Packed))
    cdef size_t room = ROOM + 2 * MOST + 1, used = 0
    cdef uint8_t *out = NULL
    try:
        if files == NULL:
            raise MemoryError
        for i in range(count):
            (files[i].read.directory, files[i].read.path, files[i].read.how, files[i].kind, files[i].flags, name,
             other) = wanted[i]
            if len(name) > MOST_NAME or len(other) > MOST_NAME:
                raise ValueError("a name that is too long for an entry")
            files[i].name, files[i].name_length = name, <size_t>len(name)
            files[i].other, files[i].other_length = other, <size_t>len(other)
            room += ENTRY + files[i].name_length + 2 + files[i].other_length
        out = <uint8_t *>malloc(room)
        if out == NULL:
            raise MemoryError
        with nogil:
            for i in range(count):
                used += pack_one(&files[i], out + used, room - used)
        return PyBytes_FromStringAndSize(<char *>out, <Py_ssize_t>used), [
            (files[i].read.size, PyBytes_FromStringAndSize(<char *>files[i].root, DIGEST_SIZE))
            if files[i].read.is_there else None for i in range(count)]
    finally:
        free(files)
        free(out)


def pack_run(int directory, list names not None, int how, int flags, bytes above not None):
    """The entries of a bundle for files of these names in the directory of a descriptor, joined; their sizes, two bytes
    each in the order of this machine; their roots, joined; and the numbers of those that are not as they should be, of
    which there is no entry. `how`, `flags`: as of `pack_files`; `above`: what the receiver calls the directory.
    Releases the GIL."""
    cdef Py_ssize_t count = len(names), i
    cdef size_t room = ROOM + 2 * MOST + 1, used = 0, some
    cdef Packed one
    cdef const char **paths = <const char **>calloc(<size_t>count + 1, sizeof(char *))
    cdef uint16_t *sizes = <uint16_t *>calloc(<size_t>count + 1, sizeof(uint16_t))
    cdef uint8_t *roots = <uint8_t *>calloc(<size_t>count + 1, DIGEST_SIZE)
    cdef bint *there = <bint *>calloc(<size_t>count + 1, sizeof(bint))
    cdef uint8_t *out = NULL
    try:
        if paths == NULL or sizes == NULL or roots == NULL or there == NULL:
            raise MemoryError
        for i in range(count):
            paths[i] = names[i]
            room += ENTRY + len(above) + 1 + strlen(paths[i])
        if len(above) > MOST_PATH:
            raise ValueError("a name that is too long for an entry")
        out = <uint8_t *>malloc(room)
        if out == NULL:
            raise MemoryError
        memset(&one, 0, sizeof(Packed))
        one.kind, one.flags, one.read.directory, one.read.how = FILE, flags, directory, how
        one.above, one.above_length = above, <size_t>len(above)
        with nogil:
            for i in range(count):
                one.read.is_there, one.read.length, one.read.size = False, 0, 0
                one.read.path, one.name, one.name_length = paths[i], <const uint8_t *>paths[i], strlen(paths[i])
                some = pack_one(&one, out + used, room - used)
                if some > 0:
                    used += some
                    there[i], sizes[i] = True, <uint16_t>one.read.size
                    if not how & 4:
                        memcpy(roots + i * DIGEST_SIZE, one.root, DIGEST_SIZE)
        return (PyBytes_FromStringAndSize(<char *>out, <Py_ssize_t>used),
                PyBytes_FromStringAndSize(<char *>sizes, count * <Py_ssize_t>sizeof(uint16_t)),
                PyBytes_FromStringAndSize(<char *>roots, count * DIGEST_SIZE),
                [i for i in range(count) if not there[i]])
    finally:
        free(paths)
        free(sizes)
        free(roots)
        free(there)
        free(out)


cdef struct Packed:
    Read read
    int kind, flags
    const uint8_t *above  # unless it is empty: what goes before the name, and a slash
    const uint8_t *name
    const uint8_t *other
    size_t above_length, name_length, other_length
    uint8_t root[DIGEST_SIZE]


cdef size_t pack_one(Packed *one, uint8_t *out, size_t room) noexcept nogil:
    """How many bytes were packed at `out`, where there are `room`."""
    cdef size_t before = one.above_length + 1 if one.above_length else 0
    cdef size_t head = ENTRY + before + one.name_length
    cdef uint16_t mode, length = htobe16(<uint16_t>(before + one.name_length))
    cdef uint32_t size
    cdef uint64_t mtime_ns
    if room < head + MOST + 1 or room < head + 2 + one.other_length:  # the others have grown meanwhile
        return 0
    read_one(&one.read, out + head)
    if not one.read.is_there:
        return 0
    if one.read.how & 1 and not one.read.how & 4:
        root_of_leaf(out + head, one.read.length, one.root)
    mode, size = htobe16(one.read.mode & 0o777), htobe32(<uint32_t>one.read.size)
    mtime_ns = htobe64(<uint64_t>one.read.mtime_ns)
    out[0], out[1] = <uint8_t>one.kind, <uint8_t>one.flags
    memcpy(out + 2, &mode, 2)
    memcpy(out + 4, &mtime_ns, 8)
    memcpy(out + 12, &size, 4)
    memcpy(out + 16, &length, 2)
    memcpy(out + 18, one.root, DIGEST_SIZE)
    if before:
        memcpy(out + ENTRY, one.above, one.above_length)
        out[ENTRY + one.above_length] = b"/"
    memcpy(out + ENTRY + before, one.name, one.name_length)
    if one.other_length:
        length = htobe16(<uint16_t>one.other_length)
        memcpy(out + head, &length, 2)
        memcpy(out + head + 2, one.other, one.other_length)
        return head + 2 + one.other_length
    return head + one.read.length if one.flags & WITH_DATA else head


cdef tuple as_found(const Read *one, const char *data):
    return one.mode, one.mtime_ns, one.size, one.names, data[:one.length]


cdef void read_one(Read *one, uint8_t *room) noexcept nogil:
    cdef stat_t before, after
    cdef ssize_t got = 0
    cdef int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY  # neither a pipe nor a terminal may hold us up
    cdef int fd
    if one.how & 8:
        read_link(one, room)
        return
    if not one.how & 2:
        flags |= O_NOFOLLOW
    if not one.how & 1:
        flags |= O_DIRECTORY
    fd = openat(one.directory, one.path, flags)
    if fd < 0:
        return
    if fstat(fd, &before) == 0 and IS_NEAR(before.st_mtim):
        if not one.how & 1:
            one.is_there = True
        elif S_ISREG(before.st_mode) and before.st_size <= MOST:
            one.is_there, one.size = True, before.st_size
            if not one.how & 4:
                # A byte more than there should be: a file that the kernel makes up has any length.
                got = pread(fd, room, <size_t>before.st_size + 1, 0)
                one.is_there = (
                    got == before.st_size and fstat(fd, &after) == 0 and after.st_size == before.st_size
                    and TIME_NS(after.st_mtim) == TIME_NS(before.st_mtim)
                    and TIME_NS(after.st_ctim) == TIME_NS(before.st_ctim))
    if one.is_there and one.how & 16 and has_attributes(fd):
        one.is_there = False
    if one.is_there:
        one.length = <size_t>got
        one.mode, one.mtime_ns, one.names = before.st_mode, TIME_NS(before.st_mtim), before.st_nlink
    close(fd)


cdef void read_link(Read *one, uint8_t *room) noexcept nogil:
    cdef stat_t found
    cdef ssize_t got = readlinkat(one.directory, one.path, <char *>room, MOST)
    if got <= 0 or got == MOST or fstatat(one.directory, one.path, &found, AT_SYMLINK_NOFOLLOW) < 0:
        return
    if S_ISLNK(found.st_mode) and IS_NEAR(found.st_mtim):
        one.is_there, one.length, one.size, one.mtime_ns = True, <size_t>got, got, TIME_NS(found.st_mtim)


cdef bint has_attributes(int fd) noexcept nogil:
    """Whether there are extended attributes of the owner's, or an ACL; also when nobody knows."""
    cdef char names[1024]
    cdef ssize_t length = flistxattr(fd, names, sizeof(names)), at = 0
    if length < 0:
        return errno != EOPNOTSUPP
    while at < length:
        if strncmp(names + at, b"user.", 5) == 0 or strncmp(names + at, b"system.posix_acl_", 17) == 0:
            return True
        at += <ssize_t>strlen(names + at) + 1
    return False
