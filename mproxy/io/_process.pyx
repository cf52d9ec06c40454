"""What a process says to the system about itself."""

import os

from libc.errno cimport errno


cdef extern from "<sys/prctl.h>" nogil:
    int PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP
    int prctl(int option, unsigned long value, ...)


def forbid_dumps():
    """No core file, and no other process of this user may attach and read memory (prctl(2), PR_SET_DUMPABLE)."""
    if prctl(PR_SET_DUMPABLE, 0, <unsigned long>0, <unsigned long>0, <unsigned long>0) < 0:
        raise OSError(errno, os.strerror(errno))


def forbid_new_rights():
    """Neither this thread nor what it begins from now on gets more rights by starting a program, whatever that
    program's owner and capabilities are (prctl(2), PR_SET_NO_NEW_PRIVS; capabilities(7), bounding set)."""
    cdef unsigned long capability = 0
    if prctl(PR_SET_NO_NEW_PRIVS, 1, <unsigned long>0, <unsigned long>0, <unsigned long>0) < 0:
        raise OSError(errno, os.strerror(errno))
    # Up to the last that this kernel has; a root that may not even do this has to be content with the first call.
    while prctl(PR_CAPBSET_DROP, capability, <unsigned long>0, <unsigned long>0, <unsigned long>0) == 0:
        capability += 1
