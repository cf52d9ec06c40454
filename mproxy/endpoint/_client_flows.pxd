"""cproxy's side of datagrams: each address that sends to one of its sockets is a flow. _flow_side.pxd has the rest."""

from libc.stdint cimport int64_t, uint32_t

from mproxy.endpoint._endpoint cimport Endpoint
from mproxy.endpoint._flow_side cimport FlowSide, SessionFlow
from mproxy.io._loop cimport Loop, Source, Work
from mproxy.io._packets cimport Outbox, Slot
from mproxy.io._udp_socket cimport Peer


cdef enum:
    WAITING_US = 250000     # from one report that a datagram waits for a carrier to the next


cdef class UdpEntrance:
    cdef ClientFlows flows       # to which it belongs
    cdef Source source           # the socket, which is not ours to close
    cdef bint readable           # no EAGAIN since the last event
    cdef bint is_v4              # for IPv4 alone
    cdef int association         # number of the target of what comes in here
    cdef str target              # the target


cdef class ClientFlow(SessionFlow):
    cdef UdpEntrance entrance    # where it came in
    cdef Peer peer               # the address, and which of ours it writes to
    cdef bytes key               # of both, in `by_peer`


cdef class ClientFlows(FlowSide):
    cdef Endpoint endpoint       # whose session carries them
    cdef object waiting          # called when a datagram came and there is no carrier
    cdef list entrances          # where datagrams come in
    cdef dict by_peer            # flows by entrance and address
    cdef uint32_t first_number   # the one before the first given to a flow
    cdef uint32_t last_number    # given to a flow
    cdef int64_t told_at         # `waiting` was last called
    cdef Outbox outbox           # towards applications
    cdef Work work               # reads the sockets

    cdef void read(self) noexcept
    cdef void take(self, UdpEntrance entrance, const Slot *slot) noexcept
    cdef ClientFlow begin(self, UdpEntrance entrance, const Peer *peer, bytes key)
