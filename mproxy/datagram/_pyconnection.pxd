"""Connections as tests drive them: packets are bytes, addresses are bytes, time is an int."""

from libc.stdint cimport uint8_t

from mproxy.datagram._connection cimport Connection
from mproxy.datagram._listener cimport Listener
from mproxy.datagram._packet cimport Address


cdef class PyConnection:
    cdef readonly Connection connection  # the one driven
    cdef uint8_t *buffer                 # RUN_BYTES: where runs are written and packets opened


cdef class PyListener:
    cdef readonly Listener listener      # the one driven
    cdef object config                   # DatagramConfig of the connections it makes


cdef void put_address(Address *address, bytes text) noexcept
