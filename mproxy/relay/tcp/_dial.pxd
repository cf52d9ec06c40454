"""Connecting to targets."""

from mproxy.ground._sockaddr cimport sockaddr_storage
from mproxy.io._socket cimport Target


cdef class SourceAddresses:
    cdef sockaddr_storage four  # to connect from; family 0: the system chooses
    cdef sockaddr_storage six   # the same for IPv6


cdef int dial(Target target, int index, SourceAddresses sources, bint with_data, int hops) noexcept
cdef void acknowledge_at_once(int fd) noexcept
