"""Room on a disk and a name that is free; why not by the C library: _disk.pxd."""

import os

from libc.errno cimport EINTR, EINVAL, ENOSYS, EOPNOTSUPP, errno
from libc.stdint cimport int64_t


cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE 1
    #endif
    #include <fcntl.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    static int rename_no_replace(int directory, const char *from, const char *to) {
        return (int)syscall(SYS_renameat2, directory, from, directory, to, 1);  /* RENAME_NOREPLACE */
    }
    """
    int fallocate(int fd, int mode, int64_t offset, int64_t length) nogil
    int rename_no_replace(int directory, const char *source, const char *target) nogil


def reserve(int fd, int64_t offset, int64_t length):
    """Reserve bytes [offset, offset + length) of a file, which grows to hold them; false: the file system cannot.

    OSError when there is no room. Releases the GIL.
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
            raise OSError(errno, os.strerror(errno))


def rename_new(int directory, bytes source, bytes target):
    """Rename within the directory of a descriptor, to a name that is free (renameat2(2), RENAME_NOREPLACE); false: the
    file system cannot. FileExistsError when the name is taken, OSError. Releases the GIL."""
    cdef const char *source_name = source
    cdef const char *target_name = target
    cdef int result
    with nogil:
        result = rename_no_replace(directory, source_name, target_name)
    if result == 0:
        return True
    if errno in (EOPNOTSUPP, ENOSYS, EINVAL):
        return False
    raise OSError(errno, os.strerror(errno))
