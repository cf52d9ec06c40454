"""Output that does not wait. Why the GIL is kept: _output.pxd."""

import os

from libc.errno cimport EINTR, errno


cdef extern from "<poll.h>":
    short POLLOUT
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *descriptors, unsigned long count, int timeout_ms)

cdef extern from "<unistd.h>":
    int isatty(int fd)
    ssize_t write(int fd, const void *data, size_t length)


def is_writable(int fd):
    """Whether PIPE_BUF bytes can be written now without waiting (pipe(7)); false if `fd` is not a descriptor."""
    cdef pollfd asked
    asked.fd, asked.events, asked.revents = fd, POLLOUT, 0
    return poll(&asked, 1, 0) == 1 and asked.revents & POLLOUT != 0


def is_terminal(int fd):
    """Whether it is a terminal."""
    return isatty(fd) == 1


def write_now(int fd, bytes data not None):
    """Write to a descriptor that `is_writable`; returns how many bytes it took. OSError."""
    cdef const char *at = data
    cdef ssize_t written = write(fd, at, len(data))
    while written < 0 and errno == EINTR:
        written = write(fd, at, len(data))
    if written < 0:
        raise OSError(errno, os.strerror(errno))
    return written
