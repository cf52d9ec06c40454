"""The carrier that is a stream socket within this host: at cproxy to a command (`--via`), at sproxy to `--attach`.

The bytes are those of a TCP carrier. What lies beyond the socket is unknown: there are no addresses, and nobody but the
heartbeats can say how the path is.
"""

from mproxy.carrier._tcp_carrier cimport TcpCarrier


cdef class LocalCarrier(TcpCarrier):
    cdef str kind         # for log and status
    cdef str through      # what is at the other end of the socket
    cdef object on_close  # called with `abort` after the socket was closed, once; None: nobody has to know
