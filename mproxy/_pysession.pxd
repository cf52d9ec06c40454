"""The session as Python code drives it: bytes in, bytes out. For simulation, fuzzing and tools; no program uses it."""

from libc.stdint cimport uint32_t

from mproxy._session cimport Session
from mproxy._stream cimport Stream


cdef class PySession:
    cdef readonly Session session  # the session itself, for its getters

    cdef Stream *find(self, uint32_t id) except NULL
