"""Sockets that are to end with a reset, as soon as their applications have what was written to them."""

from mproxy.io._loop cimport Loop, Source


cdef void reset_when_taken(Loop loop, Source *source) noexcept
