"""Congestion control: how much may be in flight, and how fast it may leave.

A controller is told of each ack as one sample, and of timeouts; its answers are `window` and `rate`. It knows neither
packets nor the stream. Bytes are those of whole packets.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef enum:
    FIRST_PACKETS = 32    # window at the start: RFC 6928 has 10; paced over a round trip, 32 as web servers have it
    LEAST_PACKETS = 4     # smallest window: enough for an ack to come back


cdef struct AckSample:
    int64_t now                # when the ack arrived
    uint64_t acked_bytes       # newly acknowledged by this ack
    uint64_t lost_bytes        # newly declared lost by it
    int64_t newest_lost_sent_at  # when the newest of those was sent
    int64_t rtt                # round trip of the newest packet acknowledged; 0: none
    int64_t smoothed_rtt       # RFC 6298
    uint64_t delivered         # acknowledged altogether, this ack included
    uint64_t prior_delivered   # the same when the newest packet acknowledged was sent
    int64_t interval           # over which `delivered - prior_delivered` came, 0: not to be used
    bint burst                 # when that packet was sent, the application had too little to send
    uint64_t in_flight         # in flight now
    uint64_t sent_in_flight    # in flight when that packet was sent, itself included
    uint64_t lost_since        # lost since that packet was sent
    bint limited               # the window or the rate, not the application, held the sender back
    uint32_t packet_bytes      # size of a full packet


cdef class Congestion:
    cdef readonly uint64_t window      # bytes that may be in flight
    cdef readonly uint64_t rate        # bytes per second that may leave; 0: no limit
    cdef readonly uint32_t packet_bytes  # size of a full packet

    cdef void on_ack(self, const AckSample *sample) noexcept
    cdef void on_round_trip(self, int64_t rtt) noexcept
    cdef void on_timeout(self, uint64_t in_flight, int64_t now) noexcept
    cdef void on_spurious(self, int64_t now) noexcept
    cdef void on_packet_size(self, uint32_t packet_bytes) noexcept
    cdef void start_again(self, int64_t now) noexcept


cdef class Fixed(Congestion):
    cdef uint32_t packets  # of the window
