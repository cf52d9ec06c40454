"""Overwriting secrets where they lie."""

cdef extern from "<string.h>" nogil:
    void explicit_bzero(void *data, size_t length)
