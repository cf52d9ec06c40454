"""How long a carrier may be silent, by heartbeats and by its path's round trip: docs/protocol.md, "Heartbeat".

Times are microseconds of a monotonic clock.
"""

from libc.stdint cimport int64_t


cdef struct Liveness:
    int64_t heartbeat_us   # interval of heartbeats, but at rest
    int64_t interval_us    # the same now (_rest)
    int64_t misses         # intervals of silence that mean a dead carrier
    int64_t patience       # how many times that time is granted
    int64_t path_us        # the carrier's round trip with its variation; 0: unknown
    int64_t alive_at       # the peer's last byte, or other sign of life; put off when this process did not run
    int64_t heartbeat_at   # next heartbeat
    int64_t unanswered_at  # when an application's byte was sent since which nothing was heard; 0: none
    bint asked             # the peer was asked for an echo because of that
    bint suspect           # silent for too long: look for another carrier
    bint dead              # silent for so long that nothing more will come


cdef void liveness_init(Liveness *life, int64_t heartbeat_us, int misses) noexcept
cdef void liveness_attach(Liveness *life, int64_t now) noexcept
cdef void liveness_heard(Liveness *life, int64_t now) noexcept
cdef void liveness_note_path(Liveness *life, int64_t path_us) noexcept
cdef void liveness_note_life(Liveness *life, int64_t now) noexcept
cdef int64_t liveness_death_us(const Liveness *life) noexcept
cdef int64_t liveness_deadline(const Liveness *life) noexcept
cdef bint liveness_check(Liveness *life, int64_t now) noexcept
