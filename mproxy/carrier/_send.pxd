"""Giving a carrier its bytes, sealed or as they are: the system calls, without the decisions."""

from libc.stddef cimport size_t

from mproxy._ring cimport iovec
from mproxy.carrier._tls cimport Tls


cdef size_t send_frames(int fd, Tls tls, iovec *parts, int count, size_t offered, int *error) noexcept
cdef int send_sealed(int fd, Tls tls, bint more) noexcept
