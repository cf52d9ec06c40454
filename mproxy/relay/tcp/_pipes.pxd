"""A bounded pool of pipes for splice(2).

A pipe belongs to a direction of a pair only while bytes are in it; an idle connection has none. A pipe that goes back
with bytes in it is closed: they must never come out in another connection.
"""

from libc.stdint cimport int64_t, uint32_t


cdef enum:
    PIPE_BYTES = 524288       # 128 pages; with 50 streams a fifth less CPU than half of it, with one stream the same
    LEAST_PIPE_BYTES = 65536  # below, splice costs more than it saves
    MOST_PIPES = 64           # 32 MiB a worker; pipe-user-pages-soft (pipe(7)) is 64 MiB a user; fewer: streams copy
    RETRY_US = 5000000        # after the system refused one


cdef struct Pipe:
    int read_fd        # where bytes come out
    int write_fd       # where bytes go in
    uint32_t capacity  # bytes of whole pages; parts of pages fill it sooner
    uint32_t held      # bytes in it
    Pipe *next         # unused ones


cdef class PipePool:
    cdef Pipe *unused                # warm ones
    cdef readonly uint32_t open      # pipes, lent or unused
    cdef readonly uint32_t kept      # unused
    cdef uint32_t least_kept         # since the last trim: so many were not needed
    cdef public uint32_t most        # bound of `open`
    cdef int64_t refused_until       # the system gave none, or a small one
    cdef readonly uint32_t refusals  # how often that was so

    cdef Pipe *take(self, int64_t now) noexcept
    cdef Pipe *make(self) noexcept
    cdef void give(self, Pipe *pipe) noexcept
    cdef void close_one(self) noexcept
    cdef void trim(self) noexcept
