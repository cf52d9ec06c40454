"""The receiving half of the stream: what has arrived, in whatever order, and how much more may come.

    head <= arrived <= tail <= limit        head: the application has taken everything below
    early: parts of (arrived, tail)         the ring holds them in their places; what lies between has not arrived yet

The credit `limit` is head + window. The window doubles while the sender says that it could use more and the
application keeps up: so it follows bandwidth times delay although this side knows neither. It is finished when the
application has taken everything below `end`.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from mproxy._ring cimport Ring, iovec
from mproxy.ground._ranges cimport RangeSet


cdef enum:
    FIRST_WINDOW_BYTES = 1048576  # enough for 80 Mbit/s at 100 ms before the first doubling
    FIRST_PART = 16               # of a window that may become large: where packets are lost a doubling takes long
    MOST_EARLY = 4096             # most holes at once: packets that would make one more are dropped; of a window
    BYTES_A_HOLE = 32768          # that may become larger, one for so many bytes: at 5 % loss there is one in 30,000


cdef uint64_t UNKNOWN_END         # the FIN has not arrived


cdef struct Inflow:
    Ring ring            # storage; ring.head and ring.tail are head and tail above
    uint64_t arrived     # everything below has arrived
    RangeSet early       # what has arrived above
    uint64_t end         # where the stream ends; UNKNOWN_END until the FIN has arrived
    uint64_t limit       # credit given so far: never goes back
    uint64_t told        # credit in the last ack
    uint32_t window      # bytes offered beyond what the application has taken
    uint32_t most        # the window's bound
    uint64_t grown_at    # head when the window last grew: it grows once for each half of a window taken


cdef inline uint32_t first_window(uint32_t most) noexcept nogil:
    """Of a window that may grow to `most`."""
    return min(most, max(<uint32_t>FIRST_WINDOW_BYTES, most // FIRST_PART))


cdef inline bint inflow_complete(const Inflow *flow) noexcept nogil:
    return flow.arrived == flow.end

cdef inline bint inflow_done(const Inflow *flow) noexcept nogil:
    return flow.ring.head == flow.end

cdef void inflow_init(Inflow *flow, uint32_t most) noexcept nogil
cdef void inflow_free(Inflow *flow) noexcept nogil
cdef bint inflow_allows(const Inflow *flow, uint64_t offset, uint32_t length, bint fin) noexcept nogil
cdef int inflow_place(Inflow *flow, uint64_t offset, uint32_t length, iovec *out) noexcept nogil
cdef int inflow_copy(Inflow *flow, uint64_t offset, const uint8_t *data, uint32_t length) noexcept nogil
cdef int inflow_take(Inflow *flow, uint64_t offset, uint32_t length, bint fin) noexcept nogil
cdef void inflow_wanted(Inflow *flow) noexcept nogil
cdef void inflow_consume(Inflow *flow, uint32_t length) noexcept nogil
cdef void inflow_tidy(Inflow *flow, uint32_t most) noexcept nogil
cdef bint inflow_should_tell(const Inflow *flow) noexcept nogil
