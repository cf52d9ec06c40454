"""Packets of one flow on their way into an outbox, joined into trains (_runs.pxd)."""

from mproxy.io._packets cimport SLOTS, Inbox, Outbox
from mproxy.relay.udp._flow cimport Flow
from mproxy.relay.udp._runs cimport Piece


cdef class Packer:
    cdef Outbox outbox         # where they go
    cdef Piece pieces[SLOTS]   # of one flow
    cdef int count             # pieces

    cdef void take(self, Inbox inbox, int slot) noexcept
    cdef void pack(self, Flow *flow, bint inward) noexcept
