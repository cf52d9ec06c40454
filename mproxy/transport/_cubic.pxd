"""CUBIC (RFC 9438) with HyStart++ (RFC 9406). Window and rate as _congestion.pxd has them; inside, full packets.

    W_cubic(t) = C * (t - K)^3 + W_max      K = cbrt((W_max - cwnd_epoch) / C)      C = 0.4, beta = 0.7

A loss multiplies the window by beta, once a round trip however much is lost in it. As the standard has it, every loss
counts as congestion: on a path that loses at random it is slow. It is there to be compared with.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from mproxy.transport._congestion cimport AckSample, Congestion


cdef class Cubic(Congestion):
    cdef readonly double packets        # cwnd in full packets
    cdef readonly double threshold      # ssthresh: slow start below
    cdef readonly double largest        # W_max: where the last reduction began
    cdef readonly double k              # seconds from the epoch to the plateau
    cdef readonly double estimate       # W_est: what Reno would have (section 4.3)
    cdef double prior                   # cwnd before the last reduction
    cdef int64_t epoch_at               # when this stage of congestion avoidance began; 0: not yet
    cdef int64_t reduced_at             # losses of packets sent before do not count again
    cdef double undo_packets            # state before the last reduction, in case that was spurious (section 4.9)
    cdef double undo_threshold          # its ssthresh
    cdef double undo_largest            # its W_max
    # HyStart++, names of RFC 9406 section 4.2
    cdef uint64_t round_end             # `delivered` at which this round ends
    cdef int64_t last_round_rtt         # lastRoundMinRTT
    cdef int64_t round_rtt              # currentRoundMinRTT
    cdef int round_samples              # rttSampleCount
    cdef int64_t css_rtt                # cssBaselineMinRtt; 0: not in conservative slow start
    cdef int css_rounds                 # rounds in conservative slow start

    cdef void begin_at(self, uint64_t flight, int64_t now) noexcept
    cdef void give_way(self, uint64_t flight, int64_t now) noexcept
    cdef void reduce(self, int64_t now) noexcept
    cdef void slow_start(self, const AckSample *sample, double acked) noexcept
    cdef void avoid(self, const AckSample *sample, double acked) noexcept
    cdef void hystart_round(self, const AckSample *sample) noexcept
    cdef void publish(self, int64_t smoothed_rtt) noexcept
