"""Search for the largest packet that the path carries (RFC 8899, DPLPMTUD), in bytes of UDP payload.

Packets of BASE_PACKET_BYTES always pass (the set-up has shown it). The search asks for the largest the local interface
takes, then for the sizes that paths really have, downwards; a probe lost PROBE_TRIES times means no. Between the
largest that passed and the smallest that did not, it halves. What passed is used at once.

A probe is at most a quarter of the window: one that takes all of it would keep the data back until it is lost. Until
the window is large enough, the usual sizes within that quarter are asked for.

When full packets vanish while small ones arrive (a black hole), packets are of the base size again and the search
starts anew.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef enum:
    PROBE_TRIES = 3          # RFC 8899 section 5.1.2, MAX_PROBES, on a path that loses little
    SEARCH_STEP = 24         # bytes of difference that are not worth a probe
    RAISE_US = 600000000     # from the end of a search to the next (RFC 8899 section 5.1.1, PMTU_RAISE_TIMER)
    BLACK_HOLE_PACKETS = 6   # full packets lost in a row, none acknowledged


cdef struct Mtu:
    uint32_t current    # packets are at most so large
    uint32_t ceiling    # what both ends' interfaces take
    uint32_t failed     # smallest size that did not pass, ceiling + 1: none
    uint32_t probing    # size asked for now, 0: nothing
    int tries           # probes of that size lost
    int most_tries      # so many mean no: more on a path that loses much anyway
    bint in_flight      # a probe is under way
    int64_t next_at     # when to probe next


cdef void mtu_init(Mtu *mtu, uint32_t base, uint32_t ceiling, int64_t now) noexcept nogil
cdef uint32_t mtu_probe(Mtu *mtu, uint64_t most, int64_t now) noexcept nogil
cdef void mtu_acked(Mtu *mtu, uint32_t size, int64_t now) noexcept nogil
cdef void mtu_lost(Mtu *mtu, uint32_t size, int64_t now) noexcept nogil
cdef void mtu_too_big(Mtu *mtu, uint32_t size, int64_t now) noexcept nogil
cdef void mtu_black_hole(Mtu *mtu, int64_t now) noexcept nogil
