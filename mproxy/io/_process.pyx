"""What a process says to the system about itself."""

import os

from libc.errno cimport errno
from libc.signal cimport SIGKILL


cdef extern from "<sys/mman.h>" nogil:
    int MADV_DONTNEED
    int madvise(void *start, size_t size, int advice)

cdef extern from "<sys/prctl.h>" nogil:
    int PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP, PR_SET_PDEATHSIG
    int prctl(int option, unsigned long value, ...)


def forbid_dumps():
    """No core file, and no other process of this user may attach and read memory (prctl(2), PR_SET_DUMPABLE)."""
    if prctl(PR_SET_DUMPABLE, 0, <unsigned long>0, <unsigned long>0, <unsigned long>0) < 0:
        raise OSError(errno, os.strerror(errno))


def forbid_new_rights():
    """From now on neither this thread nor what it starts gets more rights by starting a program, whatever that
    program's owner and capabilities are (prctl(2), PR_SET_NO_NEW_PRIVS; capabilities(7), bounding set)."""
    cdef unsigned long capability = 0
    if prctl(PR_SET_NO_NEW_PRIVS, 1, <unsigned long>0, <unsigned long>0, <unsigned long>0) < 0:
        raise OSError(errno, os.strerror(errno))
    # Up to the last one that this kernel has; where root may not even do this, the first call has to suffice.
    while prctl(PR_CAPBSET_DROP, capability, <unsigned long>0, <unsigned long>0, <unsigned long>0) == 0:
        capability += 1


def drop_pages(size_t start, size_t size):
    """Take `size` bytes from address `start` on out of this process's memory. They must be a file's, and not changed:
    whoever touches them next has them from there (madvise(2), MADV_DONTNEED). Where it fails they stay."""
    madvise(<void *>start, size, MADV_DONTNEED)


def die_with_parent(int parent):
    """This process is killed when `parent`, which has made it, ends; at once if it has ended already."""
    prctl(PR_SET_PDEATHSIG, SIGKILL, <unsigned long>0, <unsigned long>0, <unsigned long>0)
    if os.getppid() != parent:
        os._exit(1)
