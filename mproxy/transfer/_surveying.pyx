"""Directories as a search needs them. How and why: _surveying.pxd."""

import os

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EBADF, errno
from libc.stdint cimport int64_t, uint16_t
from libc.stdlib cimport calloc, free
from libc.string cimport strcmp, strlen


cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE 1
    #endif
    #include <dirent.h>
    #include <fcntl.h>
    #include <sys/stat.h>
    #include <unistd.h>
    #include <errno.h>
    /* readdir(3) tells an error from the end by errno alone. */
    static struct dirent *read_next(DIR *stream) {
        errno = 0;
        return readdir(stream);
    }
    static int duplicate_directory(int fd) {
        return fcntl(fd, F_DUPFD_CLOEXEC, 0);
    }
    """
    ctypedef unsigned int mode_t
    struct stat_t "stat":
        unsigned long long st_dev, st_ino, st_nlink
        mode_t st_mode
        int64_t st_size
    struct dirent_t "dirent":
        const char *d_name
    ctypedef struct DIR:
        pass
    int AT_SYMLINK_NOFOLLOW
    bint S_ISREG(mode_t mode) nogil
    int duplicate_directory(int fd) nogil
    DIR *fdopendir(int fd) nogil
    dirent_t *read_next(DIR *stream) nogil
    int closedir(DIR *stream) nogil
    int close(int fd) nogil
    int fstatat(int directory, const char *name, stat_t *status, int flags) nogil

cdef enum:
    MOST = 16384       # bytes of a small file
    ROOM = 1 << 18     # bytes of a run, as a bundle has them
    ENTRY = 50         # bytes of an entry of a bundle beside name and contents


cdef class Listing:
    """The names in the directory of a descriptor, which stays the caller's, as the file system has them."""

    cdef DIR *stream

    def __init__(self, int fd):
        cdef int own = duplicate_directory(fd)
        if own >= 0:
            self.stream = fdopendir(own)
        if self.stream == NULL:
            error = errno
            if own >= 0:
                close(own)
            raise OSError(error, os.strerror(error))

    def __dealloc__(self):
        if self.stream != NULL:
            closedir(self.stream)

    def close(self):
        """No more is wanted."""
        if self.stream != NULL:
            closedir(self.stream)
            self.stream = NULL

    def take(self, Py_ssize_t most):
        """The next names, at most so many; fewer: there are no more. OSError."""
        cdef list names = []
        cdef dirent_t *found
        cdef const char *name
        if self.stream == NULL:
            raise OSError(EBADF, os.strerror(EBADF))
        while len(names) < most:
            found = read_next(self.stream)
            if found == NULL:
                if errno:
                    raise OSError(errno, os.strerror(errno))
                break
            name = found.d_name
            if strcmp(name, b".") != 0 and strcmp(name, b"..") != 0:
                names.append(<bytes>name)
        return names


def sort_out(int directory, list names not None, bint follow, Py_ssize_t most, size_t above):
    """What these names in a directory are: [(first, behind the last, bytes), ...], {number: what it is}, sizes.

    The first are runs of small files that have one name each: at most `most` of them, and as many as fill a bundle,
    where `above` bytes go before each name; their sizes are two bytes each, in the order of this machine, at the
    numbers of the names. Of everything else it says (mode, size, number of names, device, inode), or the errno where
    that cannot be found out. `follow`: of what a symbolic link leads to. Releases the GIL."""
    cdef Py_ssize_t count = len(names), i
    cdef Looked *all_looked = <Looked *>calloc(<size_t>count + 1, sizeof(Looked))
    cdef uint16_t *sizes = <uint16_t *>calloc(<size_t>count + 1, sizeof(uint16_t))
    cdef Looked *one
    cdef int flags = 0 if follow else AT_SYMLINK_NOFOLLOW
    cdef Py_ssize_t first = 0
    cdef int64_t total = 0
    cdef size_t used = 0, needed
    cdef list runs = []
    cdef dict others = {}
    try:
        if all_looked == NULL or sizes == NULL:
            raise MemoryError
        for i in range(count):
            all_looked[i].name = names[i]
        with nogil:
            for i in range(count):
                one = &all_looked[i]
                if fstatat(directory, one.name, &one.found, flags) < 0:
                    one.error = errno
                elif S_ISREG(one.found.st_mode) and one.found.st_size <= MOST and one.found.st_nlink == 1:
                    one.is_small = True
                    sizes[i] = <uint16_t>one.found.st_size
        for i in range(count):
            one = &all_looked[i]
            needed = ENTRY + above + strlen(one.name) + sizes[i]
            if first < i and (not one.is_small or i - first == most or used + needed > ROOM):
                runs.append((first, i, total))
                first, used, total = i, 0, 0
            if one.is_small:
                used += needed
                total += sizes[i]
            else:
                first = i + 1
                others[i] = one.error or (one.found.st_mode, one.found.st_size, one.found.st_nlink, one.found.st_dev,
                                          one.found.st_ino)
        if first < count:
            runs.append((first, count, total))
        return runs, others, PyBytes_FromStringAndSize(<char *>sizes, count * <Py_ssize_t>sizeof(uint16_t))
    finally:
        free(all_looked)
        free(sizes)


cdef struct Looked:
    const char *name
    int error
    bint is_small
    stat_t found
