"""What of a flow outlives the worker that relays it: in the arena, if there is one (ground/_arena.pxd).

A Flow (_flow.pxd) lives with its process and owns its FlowRecord. The record names the flow's socket, whose port the
server knows the client by, and the two ends of the client's side; all else begins anew. Datagrams may be lost, so no
record has to say how far anything has come: it is claimed while the socket is the flow's, and given up before that is
closed. A worker that is killed in between has a socket that no record names, and the next one closes it.
"""

from libc.stdint cimport int64_t, uint32_t

from mproxy.ground._arena cimport record_give_up
from mproxy.ground._sockaddr cimport socklen_t
from mproxy.io._packets cimport LocalAddress, SocketAddress


cdef enum:
    MOST_RECORDS = 1048576   # of a worker; more of them end with it


cdef struct FlowRecord:
    uint32_t number          # of the record; 0: it ends with the process
    int fd                   # of the socket
    int64_t key              # of its rule
    SocketAddress bound      # of the listener
    SocketAddress client     # who gets the replies
    socklen_t client_bytes   # length of `client`
    LocalAddress local       # as in Flow


cdef inline void flow_record_give_up(FlowRecord *record) noexcept nogil:
    """It ends with the process from now on: its socket may be closed."""
    record_give_up(&record.number)


cdef FlowRecord *flow_record_new() noexcept nogil
cdef void flow_record_claim(FlowRecord *record) noexcept nogil
cdef void flow_record_free(FlowRecord *record) noexcept nogil
cdef FlowRecord *flow_record_at(uint32_t number) noexcept nogil
