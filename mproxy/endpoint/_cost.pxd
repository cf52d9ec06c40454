"""Sessions that take much time for few bytes: they are slow work of the loop, and are read in small portions.

Bulk moves a thousand bytes in a microsecond, frames of one byte each not even one. A pump is measured by wall clock
time, which is cheap but also counts what other processes took; a session with a long pump is measured by processor time
from then on, until its pumps are short again. A session that has the loop to itself is in nobody's way, whatever it
does.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint64_t


cdef struct Cost:
    size_t read_bytes      # most to read from the carrier at once
    bint slow              # the session is slow work
    bint long_pump         # the last pump of a slow session took too long
    bint precise           # measured by processor time
    int64_t began          # when this pump began, by the clock that measures it
    uint64_t moved_before  # the session's bytes when it began
    int64_t ended_at       # end of the last pump
    int64_t free_us        # time that it may take without being charged
    int64_t spent_us       # time that pumps took beyond that, recent ones counting more
    uint64_t moved_bytes   # what they moved in that time


cdef void cost_init(Cost *cost) noexcept nogil
cdef void cost_begin(Cost *cost, uint64_t moved) noexcept nogil
cdef void cost_end(Cost *cost, uint64_t moved, int64_t now, int slow_count, bint alone) noexcept nogil
