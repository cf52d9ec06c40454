"""A bounded pool of pipes for splice(2).

A pipe belongs to a direction of a pair only while there are bytes in it; an idle connection has none. A pipe that is
given back with bytes in it is closed: they must never come out in another connection. Unused pipes are a stack, the
warmest first; nobody leaves it from its middle, so one pointer is enough.
"""

from libc.stdint cimport int64_t, uint32_t

from mproxy.relay.tcp._pair_record cimport PipeRecord


cdef enum:
    PIPE_BYTES = 524288       # 128 pages; 50 streams take a fifth less CPU than with half the size, one stream as much
    LEAST_PIPE_BYTES = 65536  # with less, splice costs more than it saves
    MOST_PIPES = 64           # 32 MiB a worker; a user may have 64 MiB (pipe(7)); without a pipe, streams copy
    RETRY_US = 5000000        # after the system refused one


cdef struct Pipe:
    PipeRecord *record  # what outlives the worker
    int read_fd        # where bytes come out
    int write_fd       # where bytes go in
    uint32_t capacity  # bytes in whole pages; parts of pages fill it sooner
    uint32_t held      # bytes in it
    Pipe *next         # unused ones


cdef class PipePool:
    cdef Pipe *unused                # ready to be lent
    cdef readonly uint32_t open      # pipes, lent or unused
    cdef readonly uint32_t kept      # unused
    cdef uint32_t least_kept         # fewest since the last trim: this many were not needed
    cdef public uint32_t most        # bound of `open`
    cdef int64_t refused_until       # the system gave none, or a small one
    cdef readonly uint32_t refusals  # how often that happened

    cdef Pipe *take(self, int64_t now) noexcept
    cdef Pipe *make(self) noexcept
    cdef Pipe *adopt(self, PipeRecord *record, uint32_t held) noexcept
    cdef void give(self, Pipe *pipe) noexcept
    cdef void close_one(self) noexcept
    cdef void trim(self) noexcept


cdef void close_strange_pipes() noexcept nogil
