"""Accepts applications for an endpoint."""

from mproxy.endpoint._endpoint cimport Endpoint
from mproxy.io._accept cimport Acceptor


cdef class AppListener:
    cdef Acceptor acceptor    # the listening socket
    cdef Endpoint endpoint    # gets the applications
    cdef bytes target         # what the streams ask for; empty: the default daemon
    cdef object greet         # called with the descriptor instead, which is its own then; None: it is the endpoint's
