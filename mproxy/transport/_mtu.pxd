"""Search for the largest packet that the path carries (RFC 8899, DPLPMTUD), in bytes of UDP payload.

Packets of BASE_PACKET_BYTES always pass (the set-up has shown it). The search tries the largest size that the local
interface takes, then the sizes that paths really have, downwards; a size whose probe was lost PROBE_TRIES times does
not pass. Between the largest that passed and the smallest that did not, it bisects. What passed is used at once.

A probe is at most a quarter of the window: one that took all of it would hold up the data until it was lost. Until the
window is large enough, the usual sizes within that quarter are tried.

When full packets vanish while small ones arrive (a black hole), packets go back to the base size and the search starts
again. If those vanish, too, the path has become narrower than the set-up has shown: then to SMALL_PACKET_BYTES.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef enum:
    PROBE_TRIES = 3          # RFC 8899 section 5.1.2, MAX_PROBES, on a path that loses little
    SEARCH_STEP = 24         # a difference in bytes that is not worth a probe
    RAISE_US = 600000000     # from the end of a search to the next (RFC 8899 section 5.1.1, PMTU_RAISE_TIMER)
    BLACK_HOLE_PACKETS = 6   # full packets lost in a row, none acknowledged


cdef struct Mtu:
    uint32_t current    # largest packet to be sent
    uint32_t floor      # what passes in any case: the base, and less once that has been tried in vain
    uint32_t ceiling    # largest that both ends' interfaces take
    uint32_t failed     # smallest size that did not pass, ceiling + 1: none
    uint32_t probing    # size being tried; 0: none
    int tries           # probes of that size lost
    int most_tries      # losses that mean that it does not pass: more on a path that loses much anyway
    bint in_flight      # a probe is under way
    int64_t next_at     # when to probe next


cdef void mtu_init(Mtu *mtu, uint32_t base, uint32_t ceiling, int64_t now) noexcept nogil
cdef uint32_t mtu_probe(Mtu *mtu, uint64_t most, int64_t now) noexcept nogil
cdef void mtu_acked(Mtu *mtu, uint32_t size, int64_t now) noexcept nogil
cdef void mtu_lost(Mtu *mtu, uint32_t size, int64_t now) noexcept nogil
cdef void mtu_too_big(Mtu *mtu, uint32_t size, int64_t now) noexcept nogil
cdef void mtu_black_hole(Mtu *mtu, int64_t now) noexcept nogil
