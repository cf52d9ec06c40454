"""One direction of a bad network, in virtual or real time: packets go in and come out late, twice, damaged, out of
order, or not at all.

What happens to packet n depends only on the seed and n, never on the time or on other options: the same packets in the
same order have the same fate. Outages alone go by the clock. On its way a packet passes

1. the MTU: larger packets vanish, as in a network whose ICMP messages are filtered;
2. the outage, if there is one: then it vanishes, too;
3. the queue in front of the link, drop-tail, then the link with its rate (an IP packet counts with its headers);
4. the wire: loss, single or in bursts, duplication, corruption;
5. the delay, with jitter that keeps the order; packets chosen for reordering take longer, and others overtake them.

Bursts are those of Gilbert (1960) and Elliott (1963): the wire is good or bad, and changes with a probability from each
packet to the next; while it is good it loses none of this kind.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef enum:
    HEADER_BYTES = 28          # IPv4 and UDP headers, which also take room on the link
    MOST_HELD_BYTES = 134217728  # most on their way, beyond that they are dropped: 10 Gbit/s for 100 ms


cdef struct Held:
    int64_t at          # when it arrives, us
    uint64_t order      # among equals: first in, first out
    uint64_t client     # whose it is: a number given by the caller
    uint8_t *data       # the packet, malloc'ed
    uint32_t length     # its bytes


cdef struct Counts:
    uint64_t packets     # went in
    uint64_t bytes       # of these
    uint64_t delivered   # came out, second copies included
    uint64_t delivered_bytes  # of these
    uint64_t lost        # by --loss
    uint64_t lost_in_bursts  # by --burst-loss
    uint64_t lost_in_outages  # by --outage
    uint64_t duplicated  # by --duplicate
    uint64_t corrupted   # by --corrupt
    uint64_t reordered   # by --reorder
    uint64_t queue_full  # dropped in front of the link
    uint64_t too_large   # by --mtu
    uint64_t no_memory   # dropped because too much is on its way


cdef class PathEmulator:
    cdef double loss             # probability, 0 to 1
    cdef double duplicate        # probability
    cdef double corrupt          # probability
    cdef double reorder          # probability
    cdef double burst_begins     # probability that the wire is bad from this packet on, after a good one
    cdef double burst_ends       # and the other way round
    cdef double burst_loss       # probability, while it is bad
    cdef bint is_bad             # the wire, now
    cdef int64_t outage_every_us  # from the beginning of one outage to that of the next; 0: none
    cdef int64_t outage_us       # how long each takes
    cdef int64_t outage_from_us  # the first one begins `outage_every_us - outage_us` after this
    cdef int64_t delay_us        # of every packet
    cdef int64_t jitter_us       # up to this much more or less
    cdef int64_t reorder_us      # reordered packets come up to this much later
    cdef int64_t rate            # bits a second; 0: no limit
    cdef int64_t queue_bytes     # in front of the link; counts only with a rate
    cdef int64_t mtu             # largest IP packet; 0: no limit
    cdef uint64_t seed           # of this direction
    cdef uint64_t draw           # state of the current packet's random numbers
    cdef int64_t link_free_ns    # when the link will have sent all that waits
    cdef int64_t latest_at       # arrival of the last packet that kept the order
    cdef Held *heap              # packets on their way, the next one first
    cdef size_t count            # of these
    cdef size_t room             # entries of the heap
    cdef int64_t held_bytes      # of packets on their way
    cdef Counts counts           # since the beginning

    cdef void put(self, const uint8_t *data, uint32_t length, uint64_t client, int64_t now) noexcept
    cdef bint take(self, int64_t now, Held *out) noexcept
    cdef int64_t deadline(self) noexcept
    cdef double random(self) noexcept
    cdef double nth(self, uint64_t n) noexcept
    cdef bint in_burst(self) noexcept
    cdef bint in_outage(self, int64_t now) noexcept
    cdef void hold(self, int64_t at, const uint8_t *data, uint32_t length, uint64_t client, bint damage) noexcept
    cdef int64_t pass_link(self, uint32_t length, int64_t now) noexcept
