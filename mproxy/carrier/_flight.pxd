"""How many bytes may be in flight on a path that may be slow, judged by what arrives.

What a socket takes says nothing of a slow path: it takes 46 KB at once, which is two seconds at 200 kbit/s, and nothing
can overtake them. So a carrier begins with ten segments, as the kernel itself does, and more may be in flight as more
is acknowledged in time. A round ends when as much has been acknowledged as could be in flight when it began. The rate
is that of a whole round, because acknowledgements come in bursts. The states, and what leads from one to another:

    STARTING   grows by what is acknowledged soon; at the end of a round:
               much was acknowledged, and fast -> FREE; it took long, and the rate did not follow -> FULL
    FREE       the path is not slow, so no bound from here; small frames share the carrier and find a long queue -> FULL
    FULL       more in flight would only wait: bound by the rate, the shortest round trip and a short queue;
               after some rounds -> PROBING; bulk is alone, for a while or at a rate that is not slow -> FREE
    PROBING    twice as much for one round: the rate follows -> STARTING, otherwise -> FULL

Pure: no socket and no clock. Times are microseconds.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef enum:
    LEAST_FLIGHT_BYTES = 4096  # least in flight on any path: acknowledgements may wait in the other direction's queue


cdef enum FlightState:
    STARTING
    FREE
    FULL
    PROBING


cdef struct Flight:
    FlightState state      # what is believed of the path
    int64_t allowed_bytes  # in flight at most: as the round began, and throughout FULL
    uint64_t rate          # bytes per second acknowledged in the last round; 0: none has ended
    int rounds             # since FULL began, or since the last probe
    int64_t free_at        # when FULL and PROBING end
    # the round
    int64_t began_at       # 0: none has begun
    uint64_t began_acked   # bytes acknowledged by then
    int64_t round_bytes    # it ends when so many more are acknowledged
    int64_t soon_bytes     # of these, acknowledged soon


cdef struct FlightReport:
    uint64_t acked_bytes    # acknowledged so far
    int64_t unacked_bytes   # taken by the socket and not acknowledged, whether sent or not
    int64_t rtt_us          # recent round trip
    int64_t least_rtt_us    # shortest round trip
    uint32_t segment_bytes  # payload of a full packet
    int64_t window_bytes    # in flight at most, by the kernel's own rule
    bint shared             # small frames and bulk share the carrier


cdef void flight_init(Flight *flight) noexcept nogil
cdef void flight_idle(Flight *flight) noexcept nogil
cdef int64_t flight_bound(Flight *flight, const FlightReport *report, int64_t now) noexcept nogil
