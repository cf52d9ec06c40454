"""Packets that were received together, and those that leave together. Both are dealt with before anything else runs."""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t

from mproxy.io._packets cimport SLOTS, Inbox, Outbox
from mproxy.relay.udp._flow cimport Flow
from mproxy.relay.udp._packer cimport Packer
from mproxy.relay.udp._udp_listener cimport UdpListener


cdef enum:
    NOWHERE = -1   # no slot
    FEW_SLOTS = 8  # for trains: 512 KiB, about what a cache holds


cdef class Batch:
    cdef Inbox inbox           # packets just received
    cdef Outbox outbox         # packets about to be sent
    cdef Packer packer         # puts packets into the outbox
    cdef Flow *touched[SLOTS]  # flows with packets in the inbox; NULL: already sent
    cdef int touched_count     # entries
    cdef int next_slot[SLOTS]  # the next slot of the same flow; NOWHERE: none

    cdef bint put(self, Flow *flow, int slot) noexcept
    cdef int send_in(self, Flow *flow, int64_t now) noexcept
    cdef int send_headed(self, Flow *flow, int slot, uint32_t *sent) noexcept
    cdef int flush_in(self, Flow *flow, uint32_t *sent) noexcept
    cdef void pack_out(self, Flow *flow, int first, int count) noexcept
    cdef void flush_out(self, UdpListener listener) noexcept


cdef int slots_next_time(int most, int n, size_t length) noexcept nogil
