"""Bytes from one socket to another: by copying, or in bulk by splice(2).

Rules, for each direction:

1. While the sink holds bytes it could not pass on (in its ring or its pipe), the source is not read.
2. Bytes wait in a ring or in a pipe, never in both.
3. The source's EOF is passed on (shutdown) when the last byte has been; the other direction goes on.
4. An error ends the socket that reports it, and nothing else: what that socket received before is read to its end and
   passed on; what is meant for it is dropped. This is not passed on as an EOF: the pair ends with a reset.
5. A source is read in small pieces until one read fills the buffer, then in large ones, then spliced; and back.
6. Splicing cannot tell an empty socket from a full pipe, nor EOF from urgent data: so EAGAIN counts only with an empty
   pipe, and EOF only from recv(2).
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from mproxy.io._loop cimport Loop, Source
from mproxy.relay.tcp._pair_record cimport SideRecord
from mproxy.relay.tcp._pipes cimport Pipe, PipePool


cdef enum:
    SMALL_READ_BYTES = 16384
    LARGE_READ_BYTES = 262144        # the buffer
    TURN_READS = 4                   # reads of one direction before other pairs get their turn
    WAITING_BUDGET_BYTES = 67108864  # bytes in all rings above which reads stay small


cdef enum Grade:
    SMALL = 0    # little to read
    LARGE = 1    # a read filled the buffer
    SPLICED = 2  # a large read brought much


cdef enum MoveOutcome:
    WAITS = 0  # nothing to do until the next event
    AGAIN = 1  # there may be more; other pairs first


cdef struct Side:
    Source source        # the socket
    Side *other          # the other half of the pair
    SideRecord *record   # what outlives the worker; in its ring are bytes that this socket has not taken yet
    Pipe *pipe           # the same; NULL: none
    uint8_t grade        # Grade of reading this socket
    bint readable        # no EAGAIN since the last event
    bint writable        # no EAGAIN since the last event
    bint hung_up         # a read will show how the connection ends
    bint urgent          # urgent data cuts reads short; such a socket is not spliced
    bint failed          # the socket has an error to report
    bint broken          # it has reported it: nothing can be written any more
    bint read_ended      # EOF read, or what was there before the error
    bint write_ended     # the other side's EOF passed on
    bint kept_alive      # the system probes whether the peer is there
    bint awaits_space    # events tell when it is writable; asked for after the first short write


cdef class Mover:
    cdef Loop loop               # whose clock is used
    cdef uint8_t *buffer         # in which bytes are copied: the arena's, or the loop's
    cdef readonly PipePool pool  # pipes
    cdef uint64_t moved          # bytes passed on, all directions

    cdef void watch(self, Side *side, bint awaits_space) noexcept
    cdef void watch_again(self, Side *side) noexcept
    cdef void stalled(self, Side *sink) noexcept
    cdef MoveOutcome move(self, Side *source, uint64_t *count) noexcept
    cdef void copy_some(self, Side *source, uint64_t *count) noexcept
    cdef MoveOutcome splice_some(self, Side *source, uint64_t *count) noexcept
    cdef void deliver(self, Side *sink, const uint8_t *data, uint32_t length, uint64_t *count) noexcept
    cdef void flush(self, Side *sink, uint64_t *count) noexcept
    cdef void flush_ring(self, Side *sink, uint64_t *count) noexcept
    cdef void flush_pipe(self, Side *sink, uint64_t *count) noexcept
    cdef void fail(self, Side *side) noexcept
    cdef void look_for_error(self, Side *side) noexcept
    cdef void drop(self, Side *side) noexcept


cdef void side_mark(Side *side, uint32_t events) noexcept
cdef bint side_holds(const Side *side) noexcept
cdef int64_t side_owed(Side *side) noexcept
