"""Accepts applications for an endpoint, and tells its observer when that has to pause."""

from libc.stdint cimport uint32_t

from mproxy.endpoint._endpoint cimport Endpoint
from mproxy.io._loop cimport Loop, Source


cdef class AppListener:
    cdef Loop loop            # runs the accepting
    cdef Source source        # the listening socket
    cdef Endpoint endpoint    # gets the applications
    cdef bytes target         # what the streams ask for; empty: the default daemon
    cdef uint32_t unprepared  # connections already waiting when the options that they inherit were set
    cdef bint paused          # not accepting, for want of descriptors or memory

    cdef void accept_all(self) noexcept
    cdef void pause(self, int error) noexcept
