"""What the kernel knows of a TCP connection's path: one system call (tcp(7), TCP_INFO)."""

from mproxy.carrier._carrier cimport PathReport


cdef bint tcp_report(int fd, PathReport *path) noexcept nogil
