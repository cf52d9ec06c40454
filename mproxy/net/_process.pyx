"""What a process says to the system about itself."""

import os

from libc.errno cimport errno


cdef extern from "<sys/prctl.h>" nogil:
    int PR_SET_DUMPABLE
    int prctl(int option, unsigned long value, ...)


def forbid_dumps():
    """No core file, and no other process of this user may attach and read memory (prctl(2), PR_SET_DUMPABLE)."""
    if prctl(PR_SET_DUMPABLE, 0, <unsigned long>0, <unsigned long>0, <unsigned long>0) < 0:
        raise OSError(errno, os.strerror(errno))
