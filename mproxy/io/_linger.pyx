"""Sockets that are to end with a reset, as soon as their applications have what was written to them.

A reset makes the kernel throw away what the other host has not acknowledged. The end of a daemon's answer would be lost
at the last step: so the socket waits here until the kernel has delivered everything. What the application sends
meanwhile is dropped, because one that is stuck in sending never gets to read.
"""

from libc.stdint cimport int64_t

from mproxy.io._socket cimport close_with_reset, discard_input, unsent_bytes


cdef enum:
    FIRST_LOOK_US = 5000       # an ack may be delayed by 40 ms
    LAST_LOOK_US = 500000
    PATIENCE_US = 60000000     # without any progress for this long, nobody reads


cdef void reset_when_taken(Loop loop, Source *source) noexcept:
    """Take over the socket of a source, which is set to reset on closing."""
    cdef LastWords words = LastWords.__new__(LastWords)
    cdef int fd = source.fd
    loop.remove(source)
    words.loop = loop
    words.fd = fd
    words.left = unsent_bytes(fd)
    words.moved_at = loop.now_us
    words.pause_us = FIRST_LOOK_US
    loop.call_later(FIRST_LOOK_US, words.look)


cdef class LastWords:
    cdef Loop loop
    cdef int fd
    cdef int left            # bytes not acknowledged
    cdef int64_t moved_at    # when that changed
    cdef int64_t pause_us    # until the next look

    def look(self):
        """See what is left; called by the loop."""
        cdef bint connected = discard_input(self.fd)
        cdef int left = unsent_bytes(self.fd)
        if left != self.left:
            self.left = left
            self.moved_at = self.loop.now_us
        if left == 0 or not connected or self.loop.now_us - self.moved_at >= PATIENCE_US:
            close_with_reset(self.fd)
            return
        self.pause_us = min(2 * self.pause_us, <int64_t>LAST_LOOK_US)
        self.loop.call_later(self.pause_us, self.look)
