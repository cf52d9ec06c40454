"""Packets of one session on their way into an outbox, joined to trains (_runs.pxd)."""

from mproxy.io._packets cimport SLOTS, Inbox, Outbox
from mproxy.relay.udp._runs cimport Piece
from mproxy.relay.udp._udp_session cimport Session


cdef class Packer:
    cdef Outbox outbox         # where they go
    cdef Piece pieces[SLOTS]   # of one session
    cdef int count             # pieces

    cdef void take(self, Inbox inbox, int slot) noexcept
    cdef void pack(self, Session *session, bint inward) noexcept
