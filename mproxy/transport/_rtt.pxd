"""Round-trip time, smoothed and its variation (RFC 6298), its minimum, and the timeout that follows from them."""

from libc.stdint cimport int64_t


cdef enum:
    GRANULARITY_US = 1000      # of timers: a timeout is at least this above the round trip (RFC 9002 section 6.1.2)
    FIRST_RTO_US = 1000000     # before the first measurement (RFC 6298 section 2.1)
    MAX_RTO_US = 3000000       # longest wait between two tries: a path that comes back is noticed within this time
    MIN_RTT_WINDOW_US = 10000000  # a minimum older than this is forgotten: the path may have become longer


cdef struct Rtt:
    int64_t smoothed       # SRTT; 0: nothing measured yet
    int64_t variation      # RTTVAR
    int64_t latest         # the last sample, less the delay of the ack
    int64_t minimum        # least within MIN_RTT_WINDOW_US, with the delay of the ack included
    int64_t minimum_at     # when that was measured


cdef void rtt_init(Rtt *rtt) noexcept nogil
cdef void rtt_sample(Rtt *rtt, int64_t sample, int64_t ack_delay, int64_t now) noexcept nogil
cdef int64_t rtt_timeout(const Rtt *rtt, int64_t ack_delay, int backoff) noexcept nogil
