"""Streams of an answer as the program wrote them (endpoint/_listing.pyx), checked and passed on without an object for
each: `mproxy status --json --streams` may have ten thousand.

Whatever is written in another way is not read here: it is for who makes objects, and checks those.
"""

from libc.stdint cimport uint8_t, uint16_t


cdef struct SocketKey:
    uint8_t own[16]       # the application's address; of IPv4 as IPv6 has it; zeros: not numeric
    uint8_t other[16]     # our address
    uint16_t own_port     # the application's port, in network order
    uint16_t other_port   # our port


cdef struct Cursor:
    const char *at        # what is next
    const char *end       # behind the last byte


cdef class StreamText:
    cdef readonly bytes text        # the JSON, without brackets
    cdef readonly Py_ssize_t count  # streams
    cdef readonly Py_ssize_t ends   # of these have an application
    cdef readonly bytes keys        # its ends of each of them, in their order: a SocketKey
    cdef list places                # where the objects of the applications end
