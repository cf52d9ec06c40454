"""The pool of pipes. What it promises: _pipes.pxd."""

from libc.stdlib cimport free, malloc

from mproxy.io._socket cimport close, is_spare


cdef extern from "<fcntl.h>" nogil:
    int F_SETPIPE_SZ, F_GETPIPE_SZ, O_NONBLOCK, O_CLOEXEC
    int fcntl(int fd, int command, ...)

cdef extern from "<unistd.h>" nogil:
    int pipe2(int *fds, int flags)


cdef class PipePool:
    """At most `most` pipes of PIPE_BYTES."""

    def __init__(self, uint32_t most=MOST_PIPES):
        self.most = most

    def __dealloc__(self):
        while self.unused != NULL:
            self.close_one()

    cdef Pipe *take(self, int64_t now) noexcept:
        """An empty pipe; NULL when all are lent or the system gives none large enough: then copy."""
        cdef Pipe *pipe = self.unused
        if pipe != NULL:
            self.unused = pipe.next
            self.kept -= 1
            self.least_kept = min(self.least_kept, self.kept)
            return pipe
        if self.open >= self.most or now < self.refused_until:
            return NULL
        pipe = self.make()
        if pipe == NULL:
            self.refusals += 1
            self.refused_until = now + RETRY_US
        return pipe

    cdef Pipe *make(self) noexcept:
        cdef int fds[2]
        cdef int capacity
        cdef Pipe *pipe
        if pipe2(fds, O_NONBLOCK | O_CLOEXEC) < 0:
            return NULL
        fcntl(fds[1], F_SETPIPE_SZ, <int>PIPE_BYTES)  # may be refused to a user who has many: the size shows it
        capacity = fcntl(fds[1], F_GETPIPE_SZ)
        pipe = <Pipe *>malloc(sizeof(Pipe))
        if pipe == NULL or capacity < LEAST_PIPE_BYTES or is_spare(fds[0]) or is_spare(fds[1]):
            free(pipe)
            close(fds[0])
            close(fds[1])
            return NULL
        pipe.read_fd, pipe.write_fd = fds[0], fds[1]
        pipe.capacity, pipe.held, pipe.next = <uint32_t>capacity, 0, NULL
        self.open += 1
        return pipe

    cdef void give(self, Pipe *pipe) noexcept:
        """Take a pipe back."""
        pipe.next = self.unused
        self.unused = pipe
        self.kept += 1
        if pipe.held:
            self.close_one()

    cdef void close_one(self) noexcept:
        cdef Pipe *pipe = self.unused
        self.unused = pipe.next
        close(pipe.read_fd)
        close(pipe.write_fd)
        free(pipe)
        self.kept -= 1
        self.open -= 1
        self.least_kept = min(self.least_kept, self.kept)

    cdef void trim(self) noexcept:
        """Close pipes that were not needed since the last call."""
        cdef uint32_t surplus = self.least_kept
        while surplus > 0:
            surplus -= 1
            self.close_one()
        self.least_kept = self.kept
