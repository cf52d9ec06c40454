"""Measuring silence. What the fields mean: _liveness.pxd."""

from libc.string cimport memset


cdef enum:
    PATH_MOST_US = 15000000  # longest round trip assumed
    ANSWER_US = 1000000      # after this long the peer is asked about an application's byte that is not answered


cdef void liveness_init(Liveness *life, int64_t heartbeat_us, int misses) noexcept:
    """Begin with a session."""
    memset(life, 0, sizeof(life[0]))
    life.heartbeat_us = life.interval_us = heartbeat_us
    life.misses = misses
    life.patience = 1


cdef void liveness_attach(Liveness *life, int64_t now) noexcept:
    """A new carrier: nothing is known of its path."""
    liveness_heard(life, now)
    life.path_us = 0
    life.heartbeat_at = now  # at once: its echo is the first round-trip time


cdef void liveness_heard(Liveness *life, int64_t now) noexcept:
    """A byte has arrived."""
    life.alive_at = now
    life.unanswered_at = 0
    life.asked = life.suspect = life.dead = False


cdef void liveness_note_path(Liveness *life, int64_t path_us) noexcept:
    """How long an answer takes on the carrier's path, as far as the I/O layer knows."""
    life.path_us = min(path_us, <int64_t>PATH_MOST_US)


cdef void liveness_note_life(Liveness *life, int64_t now) noexcept:
    """No byte arrived, but the I/O layer sees that the carrier moves."""
    life.alive_at = now
    life.suspect = life.dead = False


cdef int64_t doubt_us(const Liveness *life) noexcept:
    """Silence that makes a carrier suspect: two heartbeats, or the time of two answers on a slow path."""
    return max(min(<int64_t>2, life.misses) * life.interval_us, 2 * life.path_us)


cdef int64_t liveness_death_us(const Liveness *life) noexcept:
    """Silence that ends it."""
    return max(life.misses * life.interval_us, 4 * life.path_us) * life.patience


cdef int64_t answer_us(const Liveness *life) noexcept:
    """How long the peer may give no sign of life after an application has sent something."""
    return max(<int64_t>ANSWER_US, 2 * life.path_us)


cdef int64_t liveness_deadline(const Liveness *life) noexcept:
    """When `liveness_check` wants to be called next."""
    cdef int64_t at
    if life.dead:
        return life.heartbeat_at
    at = life.alive_at + (liveness_death_us(life) if life.suspect else doubt_us(life))
    at = min(at, life.heartbeat_at)
    if life.unanswered_at and not life.suspect:
        at = min(at, life.unanswered_at + answer_us(life))
    return at


cdef bint liveness_check(Liveness *life, int64_t now) noexcept:
    """The deadline is reached: `suspect` and `dead` may become true. Returns whether a heartbeat is due.

    If this call comes late, this process did not run: silence in that time says nothing, so one more interval is
    granted.
    """
    cdef bint asks = False
    cdef int64_t late = now - liveness_deadline(life)
    if late < 0:
        return False
    if late > life.interval_us // 2 and now - life.alive_at > life.interval_us:
        life.alive_at = now - life.interval_us
    if life.unanswered_at and not life.suspect and now - life.unanswered_at >= answer_us(life):
        if life.asked and now - life.unanswered_at < 2 * answer_us(life):
            life.suspect = True
        life.asked = True
        life.unanswered_at = now
        asks = True
    if now - life.alive_at >= doubt_us(life):
        life.suspect = True
    if now - life.alive_at >= liveness_death_us(life):
        life.dead = True
    return asks or now >= life.heartbeat_at
