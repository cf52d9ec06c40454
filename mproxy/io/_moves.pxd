"""Whether a file took its name by rename: then it is whole, and what somebody meant it to be (inotify(7)).

A directory is watched, for the name in it; nothing is read until somebody asks. Where the system allows no watch,
nothing was ever moved in.
"""


cdef class Moves:
    cdef bytes directory  # that is watched
    cdef bytes name       # in it
    cdef int fd           # of inotify, -1: none

    cdef void watch(self) noexcept
