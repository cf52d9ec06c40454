"""Room on a disk; why not by the C library: _disk.pxd."""

import os

from libc.errno cimport EINTR, EINVAL, ENOSYS, EOPNOTSUPP, errno
from libc.stdint cimport int64_t


cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE 1
    #endif
    #include <fcntl.h>
    """
    int fallocate(int fd, int mode, int64_t offset, int64_t length) nogil


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
