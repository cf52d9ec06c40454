"""Sockets of UDP flows, each connected to a target."""

from libc.stdint cimport int64_t, uint16_t

from mproxy.io._socket cimport Target


cdef int udp_dial(Target target, int index, int64_t now, uint16_t *port) noexcept
cdef uint16_t port_of(int fd) noexcept nogil
cdef bint is_shortage(int error) noexcept nogil
cdef bint is_passing(int error) noexcept nogil
