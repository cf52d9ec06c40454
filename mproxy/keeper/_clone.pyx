"""The clone itself. What it is for: _clone.pxd."""

import os

from libc.errno cimport errno
from libc.signal cimport SIGKILL


cdef extern from "Python.h":
    void PyOS_BeforeFork()
    void PyOS_AfterFork_Parent()
    void PyOS_AfterFork_Child()

cdef extern from "<unistd.h>" nogil:
    int getpid()
    int getppid()
    int setpgid(int pid, int group)
    void _exit(int status)

cdef extern from "<sys/prctl.h>" nogil:
    int PR_SET_PDEATHSIG
    int prctl(int option, ...)

cdef extern from *:
    """
    #include <sched.h>
    #include <signal.h>
    #include <sys/prctl.h>
    #include <sys/syscall.h>
    #include <unistd.h>

    #ifndef PR_GET_TID_ADDRESS
    #define PR_GET_TID_ADDRESS 40
    #endif

    /* Where the C library keeps the number of the only thread: fork(2) has the kernel write the new one there, and so
       must we. NULL: the kernel does not say, or the library keeps something else there. */
    static int *kept_tid(void)
    {
        int *place = NULL;
        if (prctl(PR_GET_TID_ADDRESS, &place, 0, 0, 0) < 0 || place == NULL || *place != (int)syscall(SYS_gettid))
            return NULL;
        return place;
    }

    /* The order of the last two arguments differs between processors, and only one of them is used; on s390 that of
       the first two. */
    static long clone_process(void)
    {
        int *tid = kept_tid();
        long flags = CLONE_FILES | SIGCHLD | (tid != NULL ? CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID : 0);
    #ifdef __s390__
        return syscall(SYS_clone, 0L, flags, 0L, tid, tid);
    #else
        return syscall(SYS_clone, flags, 0L, 0L, tid, tid);
    #endif
    }
    """
    long clone_process() nogil


def clone_worker():
    """Clone this process, which has one thread; returns twice as os.fork does: 0 in the worker, its number here.

    The worker is in a process group of its own, so that what is typed on the terminal comes here alone, and it dies
    with this process.
    """
    cdef int keeper = getpid(), error
    cdef long pid
    PyOS_BeforeFork()
    pid = clone_process()
    if pid == 0:
        prctl(PR_SET_PDEATHSIG, SIGKILL)
        if getppid() != keeper:  # it had died before that
            _exit(1)
        setpgid(0, 0)
        PyOS_AfterFork_Child()
        return 0
    error = errno
    PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(error, os.strerror(error))
    return pid
