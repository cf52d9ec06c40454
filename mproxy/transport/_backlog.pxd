"""Packets that wait until there is time for them, so that whoever is connected does not wait for whoever comes.

One socket brings both, in one queue of the kernel. So all of it is read at once, which costs microseconds: packets of
connections in use are acted on, and those of strangers, of set-ups, and of peers that were silent for long are put here
(a packet of these costs a hundred times as much, with what it sets going). They are taken from here as slow work of the
loop. When ten thousand peers come back in one second, most of the queue in the kernel would be theirs, and what
overflowed it anybody's.

A copy of each run of packets of one connection, as it came. When there is no room the oldest go: their senders repeat
them, and the newest are the likeliest to be waited for still.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from mproxy.ground._list cimport LinkedList, ListLink
from mproxy.io._packets cimport LocalAddress, Slot
from mproxy.transport._packet cimport PeerAddress


cdef enum:
    BACKLOG_BYTES = 8388608  # of storage: as many dials as the socket's own queue is asked to hold


cdef struct Postponed:
    ListLink in_backlog    # all
    PeerAddress source     # who has sent it
    LocalAddress local     # to which of our addresses
    uint32_t segment       # bytes of each packet but the last
    uint32_t length        # bytes
    uint8_t data[1]        # so many


cdef class Backlog:
    cdef LinkedList all               # Postponed, the oldest first
    cdef uint64_t held                # bytes of storage
    cdef readonly uint64_t dropped    # runs for which there was no room

    cdef void add(self, const Slot *slot, uint32_t begin, uint32_t end, const PeerAddress *source) noexcept
    cdef Postponed *take(self) noexcept
    cdef void drop_all(self) noexcept
