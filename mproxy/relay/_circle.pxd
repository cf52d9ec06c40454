"""Circles at run time: connections that the relay makes and that come back to it, whatever led them here.

Circles that the rules alone show are found before (circles.py). This is for the others, by an address translation, say,
or an address that this host was given later. In a circle the peer of a connection is the near end of one that we made
just before. If that one's far end is also where the connection came in, the two are the same connection. If not, there
is a translation between them, or it is chance: clients on this host may use the same ports towards us as we use towards
others, many in a row. Then the system's list of sockets shows whether there are such clients.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef enum:
    SAMPLE = 16        # connections that are compared: the newest
    MATCHES = 4        # as many matches among them make a circle
    LOOK_EVERY = 64    # connections of a rule between two looks, so that it costs next to nothing
    LEAST_OPEN = 32    # with fewer connections at once there is nothing to look for


cdef enum Finding:
    NO_CIRCLE = 0
    MAYBE_CIRCLE = 1  # peers have the addresses of near ends of ours
    CIRCLE = 2        # they are the same connections


cdef struct Place:
    uint8_t address[16]  # IPv4 in its IPv6 form
    uint16_t port        # 0: unknown


cdef void own_note(uint16_t port, int fd) noexcept
cdef void own_forget(uint16_t port) noexcept
cdef bint own_has(const uint8_t *address, uint16_t port) noexcept
cdef bint is_time_to_look(uint64_t total, uint32_t now) noexcept nogil
cdef void place_of_peer(int fd, Place *out) noexcept nogil
cdef void place_of_own(int fd, Place *out) noexcept nogil
cdef Finding find_circle(
    const Place *peers, const Place *met, const Place *ours, const Place *far, int count) noexcept nogil
