"""Who takes much time for few bytes: such a session is slow work of the loop, and is read in small portions.

Bulk moves a thousand bytes in a microsecond, frames of one byte each not one. What a pump costs is measured by the
clock on the wall, which is cheap but also counts what other processes took; a session with a long pump is measured by
the processor's time from then on, until its pumps are short again. A session that has the loop for itself is in
nobody's way, whatever it does.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint64_t


cdef struct Cost:
    size_t read_bytes      # most to read from the carrier at once
    bint slow              # the session is slow work
    bint long_pump         # the last pump of a slow session took too long
    bint precise           # measured by the processor's time
    int64_t began          # of this pump, by the clock that it is measured by
    uint64_t moved_before  # the session's bytes when it began
    int64_t ended_at       # end of the last pump
    int64_t free_us        # time that it may take for nothing
    int64_t spent_us       # time that pumps took besides, the recent one counting more
    uint64_t moved_bytes   # what they moved in that time


cdef void cost_init(Cost *cost) noexcept nogil
cdef void cost_begin(Cost *cost, uint64_t moved) noexcept nogil
cdef void cost_end(Cost *cost, uint64_t moved, int64_t now, int slow_count, bint alone) noexcept nogil
