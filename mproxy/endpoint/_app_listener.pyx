"""Accepts applications. When descriptors or memory run out it pauses: the kernel's queue holds the callers, and nothing
spins."""

import os

from libc.errno cimport ECONNABORTED, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, errno

from mproxy.io._loop cimport EPOLLIN
from mproxy.io._socket cimport (
    SOCK_CLOEXEC, SOCK_NONBLOCK, accept4, accept_queue, close, dup, is_spare, reset_on_close,
)


cdef enum:
    ACCEPTS_A_TURN = 64
    PAUSE_US = 500000  # other connections end and give back descriptors; looking twice a second costs nothing


cdef void listener_ready(Source *source, uint32_t events) noexcept:
    (<AppListener>source.owner).accept_all()


cdef class AppListener:
    """Relay every application that connects to the listening socket `fd` (a duplicate of the caller's)."""

    def __init__(self, Loop loop, int fd, Endpoint endpoint, bytes target=b""):
        self.loop = loop
        self.endpoint = endpoint
        self.target = target
        reset_on_close(fd)  # accepted connections inherit this (_app.pyx)
        self.unprepared = accept_queue(fd)
        self.source.fd = os.dup(fd)
        self.source.ready = listener_ready
        self.source.owner = <void *>self
        if loop.add(&self.source, EPOLLIN) < 0:
            raise OSError(errno, os.strerror(errno))
        _listeners.add(self)

    def close(self):
        """Stop accepting."""
        cdef int fd = self.source.fd
        if fd >= 0:
            self.loop.remove(&self.source)
            os.close(fd)
            self.loop.soon.append(lambda: _listeners.discard(self))

    cdef void accept_all(self) noexcept:
        cdef int fd, _turn
        for _turn in range(ACCEPTS_A_TURN):
            fd = accept4(self.source.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd >= 0:
                if self.unprepared > 0:
                    self.unprepared -= 1
                    reset_on_close(fd)
                self.endpoint.accepted(fd, self.target)
                if is_spare(fd):
                    self.pause(EMFILE)
                    break
            elif errno in (EMFILE, ENFILE, ENOMEM, ENOBUFS):
                self.pause(errno)
                break
            elif errno not in (EINTR, ECONNABORTED):
                break
        if self.endpoint.carrier is None and self.endpoint.apps.count > 0:
            self.endpoint.tell(self.endpoint.observer.on_waiting, (self.endpoint,))

    cdef void pause(self, int error) noexcept:
        if not self.paused:
            self.paused = True
            self.endpoint.tell(self.endpoint.observer.on_accept_paused, (os.strerror(error),))
        self.loop.modify(&self.source, 0)
        self.loop.call_later(PAUSE_US, self.resume)

    def resume(self):
        """Try again; called by the loop."""
        if self.source.fd < 0:
            return
        if not can_accept(self.source.fd):
            self.loop.call_later(PAUSE_US, self.resume)
        else:
            self.loop.modify(&self.source, EPOLLIN)
            self.paused = False
            self.endpoint.tell(self.endpoint.observer.on_accept_resumed, ())


cdef bint can_accept(int fd) noexcept:
    """Whether there is a descriptor now, with some left for carriers."""
    cdef int copy = dup(fd)
    if copy >= 0:
        close(copy)
    return copy >= 0 and not is_spare(copy)


_listeners = set()  # open ones: the kernel holds a pointer to each
