"""What a stream needs beside its offsets on a carrier that does not keep order: what came early, what was lost.

    inp.tail < early[0].start, and early is at most MOST_GAPS ranges        lost: below `sent`

Early bytes lie in the ring, in the places that their offsets name, behind `tail`; no second copy is made of them. They
count for nothing until what precedes them has come: another carrier, or another process, asks for them again.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from mproxy._state cimport StreamState
from mproxy.ground._ranges cimport RangeSet, ranges_last


cdef enum:
    MOST_GAPS = 1024  # of one stream: 16 KiB. While there are so many, only what fills the first is taken


cdef enum Early:
    EARLY_WRONG = -1    # after the end, or another end than before
    EARLY_NO_ROOM = -2  # too many gaps, or no memory: as if it had not come


cdef struct Disorder:
    RangeSet early       # inp: received, with something missing before
    uint64_t end_at      # inp: the offset of the FIN, if `ends`
    bint ends            # inp: the FIN has come, maybe not yet all that precedes it
    RangeSet lost        # out: to be sent again; a FIN is the offset behind the last byte
    uint64_t opened_at   # out: the peer knows the stream once it has read the carrier's ordered bytes up to here
    uint32_t under_way   # out: frames of which it is not known whether they arrived


cdef inline uint64_t disorder_reach(const Disorder *disorder, const StreamState *state) noexcept nogil:
    """How many offsets, gaps included, lie between what was received in order and the last early byte."""
    if disorder == NULL or disorder.early.count == 0:
        return 0
    return ranges_last(&disorder.early).end - state.inp.tail

cdef Disorder *disorder_new() noexcept nogil
cdef void disorder_free(Disorder *disorder) noexcept nogil
cdef int disorder_take(Disorder *disorder, StreamState *state, uint64_t seq, const uint8_t *data, uint32_t length,
                       bint ends, size_t *account) noexcept nogil
cdef uint32_t disorder_join(Disorder *disorder, StreamState *state) noexcept nogil
cdef void disorder_forget_early(Disorder *disorder, StreamState *state, size_t *account) noexcept nogil
cdef void disorder_lose(Disorder *disorder, StreamState *state, uint64_t seq, uint64_t end) noexcept nogil
cdef bint disorder_again(Disorder *disorder, const StreamState *state) noexcept nogil
cdef uint32_t disorder_next(Disorder *disorder, const StreamState *state, uint32_t most, uint64_t *seq,
                            bint *fin) noexcept nogil
