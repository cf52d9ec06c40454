"""Overwriting secrets in place."""

cdef extern from "<string.h>" nogil:
    void explicit_bzero(void *data, size_t length)
