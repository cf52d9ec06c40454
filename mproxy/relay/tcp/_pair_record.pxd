"""What of a relayed connection outlives the worker that relays it: in the arena, if there is one (ground/_arena.pxd).

A Pair (_pair.pxd) lives with its process and owns its PairRecord. Records hold no pointers; what is in them at any
instruction is enough for the next worker, which asks the kernel for the rest. Why that is exact, and which store comes
before which system call: docs/decisions/relay-outlives-its-workers.md.

Bytes of a direction are counted from 0: what of the connection is no part of it, a PROXY header, is a `prelude`.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from mproxy._ring cimport Ring
from mproxy.ground._arena cimport record_give_up
from mproxy.ground._stores cimport stores_done
from mproxy.relay._proxy_header cimport Origin


cdef enum:
    PIPE_PLACES = 64           # pipes that outlive a worker
    COPY_BYTES = 262144        # the buffer between a read and the write after it
    COPY_BUFFER_AT = 1048576   # where it is in the arena's first chunk
    MOST_PAIRS = 1048576       # of a worker


cdef struct SideRecord:
    Ring waiting         # bytes that this socket has not taken yet; its end is how much is noted to have been read
    uint32_t mark        # of this side; no other side of a record that is claimed has the same
    int fd               # of the socket, plus 1; 0: no byte of the stream can have moved there
    uint32_t prelude     # read before the first byte (of the client), or to be written before it (to the server)
    uint8_t ended        # the other side's EOF is passed on, or just about to be
    uint8_t broken       # nothing more can be written to it


cdef struct PairRecord:
    uint32_t number      # of the record; 0: it ends with the process
    uint32_t serial      # of the pair: no other one ever has the same
    int64_t key          # of its rule
    int hops             # as in Pair
    int64_t began_us     # when it was accepted, by a clock that all workers share
    uint8_t greeting     # the client begins with a PROXY header
    Origin origin        # what that says; family 0: nothing
    SideRecord client    # who connected to us
    SideRecord server    # whom we connect to


cdef struct PipeRecord:
    int read_fd          # plus 1; 0: no pipe
    int write_fd         # plus 1
    uint32_t user        # mark of the side whose bytes were put into it last


cdef struct RelayHead:
    uint32_t serials     # given so far
    uint32_t copying     # mark of the side for which the buffer was last used
    uint64_t copy_from   # place, among the bytes for that side, of the first one in the buffer
    PipeRecord pipes[PIPE_PLACES]  # in any order, with gaps


cdef RelayHead *relay_head     # in the arena, if there is one
cdef uint8_t *copy_buffer      # COPY_BYTES in the arena; NULL: there is none


cdef inline void note_copying(const SideRecord *sink) noexcept nogil:
    """What is read into the buffer from now on is for that side, whose ring is empty."""
    relay_head.copy_from = sink.waiting.tail
    stores_done()
    relay_head.copying = sink.mark
    stores_done()


cdef inline void note_passed(SideRecord *sink, uint64_t length) noexcept nogil:
    """So many bytes have gone past its ring, which is empty: written, or on their way through a pipe."""
    sink.waiting.tail += length
    stores_done()
    sink.waiting.head = sink.waiting.tail


cdef inline void pair_record_give_up(PairRecord *record) noexcept nogil:
    """It ends with the process from now on: its sockets may be closed, its rings emptied."""
    record_give_up(&record.number)


cdef void use_arena_head() noexcept nogil
cdef PairRecord *pair_record_new() noexcept nogil
cdef void pair_record_claim(PairRecord *record) noexcept nogil
cdef void pair_record_free(PairRecord *record) noexcept nogil
cdef PipeRecord *pipe_place() noexcept nogil
