"""What was sent and what became of it: acks, losses, round trips, delivery rate, the probe timeout.

There are two ways, chosen when the connection is made:

* sack: every packet has a new number; acks name the numbers that arrived. A packet is lost when `reordering` packets
  sent after it, or any packet sent `time_threshold` after it, were acknowledged (RFC 9002 section 6.1, RFC 8985). Both
  grow when a loss turns out to have been reordering.
* gbn (Go-Back-N): an ack names the offset that the receiver expects; everything below has arrived. After DUPLICATES
  acks for the same offset, or the timeout, everything from there on is sent again.

With sack the probe timeout declares nothing lost: probes are sent, and their acks show what was lost.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from mproxy.transport._acks cimport AckInfo
from mproxy.transport._congestion cimport AckSample
from mproxy.transport._outflow cimport Outflow
from mproxy.transport._parcels cimport Parcels
from mproxy.transport._rtt cimport Rtt
from mproxy.transport._sent cimport SentTable


cdef enum:
    DUPLICATES = 3         # gbn: acks for the same offset that mean a loss (RFC 5681 section 3.2)
    LEAST_GO_BACK_US = 200000  # gbn: a timeout costs a whole window and must not come of a mere delay (RFC 6298, 2.4)
    MOST_THRESHOLD = 10000  # most packets of reordering to allow for
    PROBES = 2             # packets sent at a probe timeout (RFC 9002 section 6.2.4)
    SKIP_EVERY = 512       # packets, on average, from one skipped number to the next


cdef class Recovery:
    cdef Outflow *flow                   # the stream whose bytes the packets carry
    cdef Parcels parcels                 # that the packets carry; None: there are none
    cdef bint go_back                    # gbn
    cdef SentTable sent                  # packets under way
    cdef Rtt rtt                         # of the path
    cdef readonly uint64_t in_flight     # bytes under way
    cdef readonly uint32_t waiting       # packets under way
    cdef uint64_t first                  # number of the first packet
    cdef readonly uint64_t largest_acked  # highest number acknowledged; first - 1: none
    cdef uint64_t settled                # nothing below is in flight
    cdef uint64_t skipped                # a number that was never sent: whoever acknowledges it lies
    cdef uint64_t skip_next              # the number to skip next
    # losses
    cdef readonly uint32_t reordering    # packets that may overtake before one counts as lost
    cdef int reorder_quarters            # in time: quarters of a minimum round trip above 9/8 of the smoothed one
    cdef int64_t loss_at                 # when the oldest packet overtaken counts as lost; NEVER: none was
    cdef uint64_t went_back              # gbn: packets below this were sent before the window was resent
    cdef int64_t went_back_at            # gbn: and when that was
    cdef int duplicates                  # gbn: acks in a row for the same offset
    # timeout
    cdef int64_t eliciting_at            # when the last packet that wants an ack was sent
    cdef readonly int tries              # timeouts since the last ack
    # delivery rate (draft-cheng-iccrg-delivery-rate-estimation)
    cdef readonly uint64_t delivered     # bytes acknowledged, ever
    cdef int64_t delivered_at            # time of the last ack
    cdef int64_t first_sent_at           # when the packet acknowledged last was sent
    cdef uint64_t burst_until            # `delivered` at which the application's last pause no longer matters
    # outcome of one ack or timeout
    cdef AckSample sample                # for the congestion controller
    cdef uint32_t acked_flags            # SENT_* of what was acknowledged
    cdef uint32_t lost_flags             # SENT_* of what was lost
    cdef uint32_t acked_probe            # size of the path probe acknowledged, if the flags have one
    cdef uint32_t lost_probe             # size of the newest path probe lost, if the flags have one
    cdef uint32_t largest_size           # largest packet acknowledged
    cdef uint32_t floor                  # what passes in any case, as Mtu has it
    cdef uint32_t large_lost             # packets above that lost since one of them was acknowledged
    cdef uint64_t newest                 # highest number newly acknowledged
    cdef bint any_acked                  # something was acknowledged
    cdef bint failed                     # no memory
    cdef bint spurious                   # a packet counted as lost was acknowledged
    # counters
    cdef readonly uint64_t sent_bytes    # in packets that want an ack, ever
    cdef readonly uint64_t sent_packets  # such packets
    cdef readonly uint64_t lost_bytes    # declared lost, ever
    cdef readonly uint64_t lost_packets  # the same in packets
    cdef readonly uint64_t timeouts      # probe timeouts

    cdef int start(self, uint64_t first, Outflow *flow, bint go_back) noexcept
    cdef int ready(self) noexcept
    cdef uint64_t take_number(self) noexcept
    cdef int on_sent(self, uint32_t size, uint32_t flags, uint64_t offset, uint32_t length, int64_t now) noexcept
    cdef int on_ack(self, AckInfo *info, const uint8_t *end, int64_t max_delay, int64_t now) noexcept
    cdef void check_losses(self, int64_t now) noexcept
    cdef int64_t timeout_at(self, int64_t max_delay) noexcept
    cdef void on_timeout(self, int64_t now) noexcept
    cdef bint oldest(self, uint64_t *offset, uint64_t *end) noexcept
    cdef void note_parcel(self, uint64_t number, uint64_t tag) noexcept
    cdef void ask_parcel(self) noexcept
    cdef uint64_t say_again(self, uint64_t low, uint64_t high, uint32_t most, int64_t before) noexcept
    cdef void leave_path(self, uint64_t trial_from, int64_t now) noexcept

    # inner
    cdef void begin(self, int64_t now) noexcept
    cdef void finish(self, int64_t rtt_sent_at, int64_t delay, int64_t now) noexcept
    cdef void acked(self, uint64_t number, int64_t now) noexcept
    cdef void lost(self, uint64_t number, int64_t now) noexcept
    cdef int acked_range(self, uint64_t low, uint64_t high, int64_t now) noexcept
    cdef void expire(self, int64_t now) noexcept
    cdef int on_ack_next(self, AckInfo *info, int64_t max_delay, int64_t now) noexcept
    cdef bint is_news(self, uint64_t number, int64_t now) noexcept
    cdef void resend_window(self, int64_t now) noexcept
    cdef int64_t time_threshold(self) noexcept
