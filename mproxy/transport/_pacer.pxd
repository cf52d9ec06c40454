"""Pacing: a bucket that fills at the controller's rate, so that a window leaves over a round trip and not at once.

A run leaves when the bucket holds QUANTUM_US worth of the rate (at least one full packet, at most one GSO buffer): few
timers, short bursts. The bucket can hold LATE_US worth, so that a loop that wakes up late catches up; and as much more
as a run that waited had to wait longer than it should. Otherwise a sender on a busy host, which has its turn every 20
ms, would send a fifth of its rate, take that for the path's, and so on, down to a few packets a turn.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef enum:
    QUANTUM_US = 1000
    LATE_US = 4000
    RUN_BYTES = 65536  # one GSO buffer


cdef struct Pacer:
    int64_t bytes       # in the bucket; negative: overdrawn by what could not wait (probes, a last packet)
    int64_t filled_at   # when it was filled last


cdef inline void pacer_fill(Pacer *pacer, uint64_t rate, uint32_t packet_bytes, int64_t late,
                            int64_t now) noexcept nogil:
    """Add what has accrued since the last time; `rate` is bytes per second. `late`: a run waits for the bucket and was
    to leave so many microseconds ago; -1: none waits."""
    cdef int64_t most = <int64_t>(rate * <uint64_t>(LATE_US + max(late, 0)) // 1000000)
    cdef int64_t since = now - pacer.filled_at
    if most < 4 * <int64_t>packet_bytes:
        most = 4 * <int64_t>packet_bytes
    if late >= 0 and most < pacer.bytes:
        most = pacer.bytes  # of the last delay, and not all has left yet
    if since > 1000000:
        since = 1000000
    if since > 0:
        pacer.bytes += <int64_t>(rate * <uint64_t>since // 1000000)
        pacer.filled_at = now
    if pacer.bytes > most:
        pacer.bytes = most

cdef inline int64_t pacer_ready_at(const Pacer *pacer, uint64_t rate, uint32_t packet_bytes) noexcept nogil:
    """When the next run may leave, after `pacer_fill`."""
    cdef int64_t need = <int64_t>(rate * QUANTUM_US // 1000000)
    if need < packet_bytes:
        need = packet_bytes
    if need > RUN_BYTES:
        need = RUN_BYTES
    need -= pacer.bytes
    if need <= 0 or rate == 0:
        return pacer.filled_at
    return pacer.filled_at + <int64_t>(<uint64_t>need * 1000000 // rate) + 1
