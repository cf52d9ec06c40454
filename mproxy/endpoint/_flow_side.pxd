"""One side of a session's datagrams: what an endpoint gives them to.

cproxy has ClientFlows, whose flows are the addresses that datagrams come from; sproxy ServedFlows, whose flows are
sockets connected to targets. Both put what they read into the session's queue (mproxy/_datagrams.pxd) and queue the
endpoint's work. A flow is opened by its first datagram, on both sides, and ends when it has been idle for a while, or
when newer ones need its place; nobody is told. So nothing of flows outlives a worker or a session.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from mproxy._session cimport Session
from mproxy.ground._list cimport LinkedList, ListLink
from mproxy.io._loop cimport Loop
from mproxy.io._packets cimport Inbox, Slot


cdef enum:
    MOST_FLOWS = 1024       # of a session
    BATCH = 8               # messages read from a socket in one turn, each of up to 64 KiB


cdef struct FlowUse:
    uint32_t number         # the flow's
    int64_t used_at         # when a datagram last went either way
    uint64_t sent           # datagrams to the peer
    uint64_t received       # from it
    uint64_t sent_bytes     # of those
    uint64_t received_bytes  # of those
    ListLink in_use         # the side's flows, the longest unused first


cdef class SessionFlow:
    cdef FlowUse use           # number, times and sums


cdef class FlowSide:
    cdef public object told    # called with (endpoint, number, whether, text) of ASSOCIATE or ASSOCIATED
    cdef Loop loop             # runs all
    cdef int64_t idle_us       # after which a flow ends
    cdef dict by_number        # flows
    cdef LinkedList used       # the same, the longest unused first
    cdef bint sweeps           # a call of `sweep` is due

    cdef void arrived(self, uint32_t flow, int association, const uint8_t *data, uint32_t length) noexcept
    cdef void end(self, SessionFlow flow) noexcept

    # for those who implement it
    cdef void init(self, Loop loop, int64_t idle_us)
    cdef void keep(self, SessionFlow flow)
    cdef void forget(self, SessionFlow flow) noexcept
    cdef void end_oldest(self) noexcept
    cdef void note_use(self, SessionFlow flow) noexcept
    cdef list newest(self, int most)


cdef Inbox flow_inbox()
cdef facts_of(Session session, uint64_t refused, int flows, list known)
cdef dict facts_of_flow(const FlowUse *use, str target, peer, int64_t now)
cdef void put_slot(Session session, int64_t now, FlowUse *use, int association, const Slot *slot) noexcept
