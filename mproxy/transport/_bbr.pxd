"""A controller that follows a model of the path: its bandwidth and its shortest round trip (after BBR, Cardwell et
al. 2016, and draft-ietf-ccwg-bbr), so that packets lost at random do not slow it down.

    rate   = 0.99 * gain * bandwidth / (1 - floor)         window = 2 * bandwidth * round trip / (1 - floor) + headroom

bandwidth: the largest delivery rate of the last RATE_SLOTS rounds. floor: the smallest share lost in any of the last
LOSS_SLOTS spans of a round or more. A path that loses at random always loses that share, even while this sender drains
the queue it made; a full queue does not. So the floor is the loss that slowing down would not avoid, and the rate makes
up for it. Losses above it, together with a queue (round trips above the shortest), lower the bandwidth estimate.

    STARTUP     gain 2.77 until the bandwidth grows by less than a quarter in three rounds, or in two with a queue, or
                there are such losses; while there is no queue the window grows by what is acknowledged
    DRAIN       gain 0.36 until no more is under way than the path holds
    PROBE       gains 1.25, 0.75 and six times 1, each for a round trip
    SHRINK      window of half the path for 200 ms every ten seconds, to see the shortest round trip again

Another flow: a queue that is there all through a round in which the gain is 1 is somebody else's, as DRAIN and PROBE
have removed ours. In the RIVAL_US after that, losses that are more than usual in a round with such a queue count as
CUBIC counts them, and the window is at most what CUBIC would have from then on. So TCP keeps its share.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from mproxy.transport._congestion cimport AckSample, Congestion
from mproxy.transport._cubic cimport Cubic


cdef enum:
    RATE_SLOTS = 10           # rounds for which the bandwidth is remembered
    SLOT_US = 5000            # and each at least this long: on a path of microseconds a round says little
    LOSS_SLOTS = 8            # spans for which the loss is remembered: each cycle of gains has a phase that drains
    LOSS_SPAN_PACKETS = 256   # least packets in a span: with fewer, chance plays too large a part
    DRAIN_ROUNDS = 3          # rounds that a probe's queue may take to drain
    PHASES = 8                # in a cycle
    SHRINK_EVERY_US = 10000000
    SHRINK_US = 200000
    SHORT_PATH_US = 1000      # hosts hold packets for about this long, whatever the path does
    LEAST_RISE_US = 4000      # rise of a round trip that shows a queue: an eighth of the shortest, within these bounds
    MOST_RISE_US = 16000      # (RFC 9406 section 4.3)
    MOST_FLOOR_PERCENT = 45   # most loss that is made up for
    USUAL_ROUNDS = 16         # rounds over which losses are averaged
    RIVAL_US = 10000000       # another flow is believed in so long: CUBIC takes seconds from one loss to the next


cpdef enum BbrMode:
    STARTUP
    DRAIN
    PROBE
    SHRINK


cdef class Bbr(Congestion):
    cdef readonly BbrMode mode          # see above
    cdef double gain                    # of the rate
    cdef double window_gain             # of the window
    # rounds
    cdef uint64_t round_end             # `delivered` at which this round trip's worth is over
    cdef bint round_start               # this ack begins a round
    cdef uint64_t rounds                # ever
    # bandwidth
    cdef double rates[RATE_SLOTS]       # largest of each slot, bytes per microsecond
    cdef int slot                       # the current one
    cdef int64_t slot_at                # when it began
    cdef readonly double bandwidth      # bytes per microsecond, 0: unknown
    cdef double full_rate               # bandwidth when it had last grown by a quarter
    cdef int full_rounds                # rounds since
    cdef bint full                      # the path is full: startup is over
    # round trip
    cdef readonly int64_t shortest      # microseconds, 0: unknown
    cdef int64_t shortest_at            # when it was measured
    cdef bint calm                      # the newest is near the shortest: no queue
    cdef bint round_calm                # some of this round were
    cdef int64_t shrink_until           # end of SHRINK; 0: the queue has not drained yet
    # losses
    cdef double losses[LOSS_SLOTS]      # share lost in each span
    cdef int loss_slot                  # the next one
    cdef int loss_spans                 # spans known, at most LOSS_SLOTS
    cdef uint64_t span_acked            # bytes acknowledged in this span
    cdef uint64_t span_lost             # and lost
    cdef readonly double floor          # share of the loss that is not our doing
    cdef int64_t queue_us               # smallest rise of a round trip above the shortest in this span
    # cycle
    cdef int phase                      # of PROBE
    cdef int64_t phase_at               # when it began
    cdef double ceiling                 # most bytes per microsecond, after a probe that only lost; 0: no bound
    # another flow
    cdef Cubic rival                    # what CUBIC would have in flight beside it
    cdef readonly bint yields           # and that is the bound, as there were losses
    cdef readonly int64_t rival_until   # when it is no longer believed in; 0: there is none
    cdef uint64_t round_acked           # bytes acknowledged in this round
    cdef uint64_t round_lost            # and lost
    cdef uint64_t round_flight          # most in flight in it
    cdef int64_t round_queue_us         # smallest rise of a round trip above the shortest in it; -1: none was measured
    cdef int64_t round_most_us          # the largest
    cdef bint cruised                   # it began with a gain of 1
    cdef double usual_loss              # share lost in a round, on average
    cdef int usual_rounds               # of so many, at most USUAL_ROUNDS
    # acks that arrive in bunches
    cdef int64_t bunch_at               # when the interval began in which they are counted
    cdef uint64_t bunch_bytes           # acknowledged in it
    cdef double bunches[2]              # most bytes above the bandwidth, in this and the last span of ten rounds
    cdef uint64_t bunch_round           # round in which that span began

    cdef void note_rate(self, const AckSample *sample) noexcept
    cdef void note_losses(self, const AckSample *sample) noexcept
    cdef void note_bunch(self, const AckSample *sample) noexcept
    cdef void note_round_trip(self, const AckSample *sample) noexcept
    cdef void note_rival(self, const AckSample *sample) noexcept
    cdef void judge_round(self, int64_t now) noexcept
    cdef void step(self, const AckSample *sample) noexcept
    cdef void begin_phase(self, int phase, int64_t now) noexcept
    cdef double path_bytes(self) noexcept
    cdef void publish(self, const AckSample *sample) noexcept
