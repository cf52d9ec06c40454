"""Memory that processes share: whoever makes it and those it forks afterwards see the same."""

from cpython.exc cimport PyErr_SetFromErrno
from libc.stddef cimport size_t


cdef extern from "<sys/mman.h>" nogil:
    int PROT_READ, PROT_WRITE, MAP_SHARED, MAP_ANONYMOUS, MAP_NORESERVE, MADV_REMOVE
    void *MAP_FAILED
    void *mmap(void *start, size_t length, int protection, int flags, int fd, long offset)
    int munmap(void *start, size_t length)
    int madvise(void *start, size_t length, int advice)


cdef inline void *shared_zeros(size_t length) except NULL:
    """So many bytes, zero at first; pages that nobody writes to cost nothing. OSError."""
    cdef void *memory = mmap(
        NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    if memory == MAP_FAILED:
        PyErr_SetFromErrno(OSError)
    return memory
