"""The pool of pipes. What it promises: _pipes.pxd."""

from libc.stdlib cimport free, malloc

from mproxy.ground._stores cimport stores_done
from mproxy.io._socket cimport close, is_spare
from mproxy.relay.tcp._pair_record cimport PIPE_PLACES, pipe_place, relay_head


cdef extern from "<fcntl.h>" nogil:
    int F_SETPIPE_SZ, F_GETPIPE_SZ, O_NONBLOCK, O_CLOEXEC
    int fcntl(int fd, int command, ...)

cdef extern from "<unistd.h>" nogil:
    int pipe2(int *fds, int flags)


cdef bint ours[PIPE_PLACES]  # places of pipes that this process has made or adopted


cdef void close_strange_pipes() noexcept nogil:
    """Close those of another process that were not adopted."""
    cdef PipeRecord *record
    cdef int i, read_fd, write_fd
    for i in range(PIPE_PLACES):
        record = &relay_head.pipes[i]
        if not ours[i] and record.read_fd > 0:
            read_fd, write_fd = record.read_fd - 1, record.write_fd - 1
            record.read_fd = 0
            stores_done()
            close(read_fd)
            close(write_fd)


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
        cdef PipeRecord *record
        if pipe2(fds, O_NONBLOCK | O_CLOEXEC) < 0:
            return NULL
        fcntl(fds[1], F_SETPIPE_SZ, <int>PIPE_BYTES)  # may be refused to a user who has many: the size shows it
        capacity = fcntl(fds[1], F_GETPIPE_SZ)
        pipe = <Pipe *>malloc(sizeof(Pipe))
        record = pipe_place()
        if pipe == NULL or record == NULL or capacity < LEAST_PIPE_BYTES or is_spare(fds[0]) or is_spare(fds[1]):
            free(pipe)
            close(fds[0])
            close(fds[1])
            return NULL
        pipe.read_fd, pipe.write_fd, pipe.record = fds[0], fds[1], record
        record.write_fd = fds[1] + 1
        stores_done()
        record.read_fd = fds[0] + 1
        ours[record - relay_head.pipes] = True
        pipe.capacity, pipe.held, pipe.next = <uint32_t>capacity, 0, NULL
        self.open += 1
        return pipe

    cdef Pipe *adopt(self, PipeRecord *record, uint32_t held) noexcept:
        """A pipe that another process has left with bytes in it, as one that is lent; NULL: no memory."""
        cdef Pipe *pipe = <Pipe *>malloc(sizeof(Pipe))
        if pipe == NULL:
            return NULL
        pipe.read_fd, pipe.write_fd, pipe.record = record.read_fd - 1, record.write_fd - 1, record
        pipe.capacity, pipe.held, pipe.next = <uint32_t>fcntl(pipe.write_fd, F_GETPIPE_SZ), held, NULL
        self.open += 1
        ours[record - relay_head.pipes] = True
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
        ours[pipe.record - relay_head.pipes] = False
        pipe.record.read_fd = 0
        stores_done()
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
