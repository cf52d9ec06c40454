"""The sending half of the stream: what is written, sent, lost and acknowledged, by offset.

    head = min(acked_to, tail) <= sent <= peak <= end      end = tail, and one more once there is a FIN
    acked, lost: parts of [acked_to, peak), disjoint

A FIN takes one offset, so it is sent, lost and acknowledged like a byte. The half is finished when there is a FIN and
`acked_to` has reached `end`.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from mproxy._ring cimport Ring
from mproxy.ground._ranges cimport RangeSet


cdef struct Chunk:
    uint64_t offset   # of the first byte
    uint32_t length   # bytes of data
    bint fin          # and the FIN after them
    bint again        # it was sent before


cdef struct Outflow:
    Ring ring          # written and not acknowledged
    bint finished      # nothing more is written: the FIN is at ring.tail
    uint64_t acked_to  # everything below is acknowledged
    uint64_t sent      # next to be sent for the first time (gbn: or again)
    uint64_t peak      # end of what was ever sent
    uint64_t limit     # the peer's credit: no byte at or above may be sent
    uint32_t most      # bytes that the ring may grow to
    RangeSet acked     # acknowledged above acked_to
    RangeSet lost      # to be sent again
    uint64_t resent    # bytes sent again, ever


cdef inline uint64_t outflow_end(const Outflow *flow) noexcept nogil:
    return flow.ring.tail + (1 if flow.finished else 0)

cdef inline bint outflow_done(const Outflow *flow) noexcept nogil:
    return flow.finished and flow.acked_to > flow.ring.tail

cdef void outflow_init(Outflow *flow, uint32_t most) noexcept nogil
cdef void outflow_free(Outflow *flow) noexcept nogil
cdef bint outflow_has(const Outflow *flow) noexcept nogil
cdef bint outflow_blocked(const Outflow *flow) noexcept nogil
cdef bint outflow_pick(const Outflow *flow, uint32_t most, Chunk *chunk) noexcept nogil
cdef void outflow_cut(const Outflow *flow, uint64_t offset, uint64_t end, uint32_t most, Chunk *chunk) noexcept nogil
cdef void outflow_took(Outflow *flow, const Chunk *chunk) noexcept nogil
cdef int outflow_acked(Outflow *flow, uint64_t offset, uint64_t end) noexcept nogil
cdef int outflow_lost(Outflow *flow, uint64_t offset, uint64_t end) noexcept nogil
cdef void outflow_go_back(Outflow *flow) noexcept nogil
cdef void outflow_tidy(Outflow *flow, uint32_t most) noexcept nogil
cdef uint32_t outflow_room(Outflow *flow) noexcept nogil
