"""Accepts applications for an endpoint and tells its observer, beyond what the endpoint itself does:

    on_waiting(endpoint)       an application came and there is no carrier
    on_accept_paused(why)      no descriptors or memory: not accepting
    on_accept_resumed()        accepting again
"""

from libc.stdint cimport uint32_t

from mproxy.endpoint._endpoint cimport Endpoint
from mproxy.io._loop cimport Loop, Source


cdef class AppListener:
    cdef Loop loop            # runs the accepting
    cdef Source source        # the listening socket
    cdef Endpoint endpoint    # gets the applications
    cdef bytes target         # what the streams ask for; empty: the default daemon
    cdef uint32_t unprepared  # applications to come that were there before it was set what they inherit
    cdef bint paused          # not accepting for want of descriptors or memory

    cdef void accept_all(self) noexcept
    cdef void pause(self, int error) noexcept
