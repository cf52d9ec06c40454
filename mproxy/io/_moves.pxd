"""Whether a file took its name by rename: then it is complete, and meant as it is (inotify(7)).

The directory is watched for the name; nothing is read until somebody asks. If the system allows no watch, the answer is
always no.
"""


cdef class Moves:
    cdef bytes directory  # the directory watched
    cdef bytes name       # the name in it; empty: any
    cdef int fd           # of inotify; -1: none

    cdef void watch(self) noexcept
