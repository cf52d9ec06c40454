"""How much a carrier gets at a time, so that a key stroke can overtake a copy.

Three things cannot be overtaken: a frame that has begun, what the kernel holds unsent, and the queue on the path. The
first two are kept to what the carrier takes in BATCH_US, by its measured rate. The third belongs to the path. It is
kept short only while small frames and bulk share the carrier, because otherwise it is what keeps the path busy; and on
a slow path from the first byte on, because there it costs seconds: _flight.pxd.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from mproxy.carrier._flight cimport Flight


cdef enum:
    MAX_BATCH_BYTES = 262144  # offered to a fast carrier in one sendmsg


cdef struct Pace:
    int fd                 # the carrier's socket
    uint32_t batch_bytes   # to offer in one sendmsg, and most to leave unsent in the kernel
    int64_t since          # since when the carrier has been the bottleneck; 0: it is not
    uint64_t taken_bytes   # taken by it since then
    uint64_t rate          # bytes per second while it is the bottleneck; 0: unknown
    uint64_t overtakes     # the transmitter's count at the last look
    int64_t shared_until   # until then small frames and bulk share the carrier
    Flight flight          # how much may be in flight while the path is slow or unknown
    int64_t hold_us        # after this time waiting bulk looks for room again
    bint bounded           # the kernel keeps little of what we do not read
    int64_t bounded_at     # when that was last called for


cdef void pace_init(Pace *pace, int fd) noexcept nogil
cdef void pace_idle(Pace *pace) noexcept nogil
cdef void pace_note(Pace *pace, size_t offered, size_t taken, int64_t now) noexcept nogil
cdef void pace_note_overtakes(Pace *pace, uint64_t overtakes, int64_t now) noexcept nogil
cdef void pace_bound(Pace *pace, int64_t now) noexcept nogil
cdef void pace_unbound(Pace *pace, int64_t now) noexcept nogil
cdef int64_t pace_bulk_room(Pace *pace, bint bulk_waits, int64_t now) noexcept nogil
