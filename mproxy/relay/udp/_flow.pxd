"""A flow of the UDP relay: its socket to a target, what it asked and how that was answered. No system calls.

A flow stays with its address as long as that answers. With its client's next packet it changes to another address, and
another socket,

* when the name no longer has the address, or the rule no longer has the name: so does a flow in kernel mode;
* when its health check fails, and another address's does not;
* when it was never answered, PATIENCE_US after it began to ask, or KNOWN_PATIENCE_US if the address has answered others
  lately; doubled each time, up to LONGEST_PATIENCE_US. A stream, STREAM_PACKETS without an answer, stays: it does not
  ask anything;
* when it was answered before, but for LOST_US since it asked nothing has come from the address for anybody.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from mproxy.ground._list cimport LinkedList, ListLink
from mproxy.ground._sockaddr cimport socklen_t
from mproxy.io._loop cimport Source
from mproxy.io._packets cimport LocalAddress, Slot, SocketAddress
from mproxy.relay._accounts cimport Noted
from mproxy.relay._balance cimport Balance
from mproxy.relay._proxy_header cimport Origin
from mproxy.relay.udp._flow_record cimport FlowRecord
from mproxy.relay.udp._flow_table cimport FlowEntry, FlowKey, Roll


cdef enum:
    PATIENCE_US = 300000           # RFC 8305 has 250 ms, for connections
    KNOWN_PATIENCE_US = 1000000    # a server may be slow, or a packet lost
    KNOWN_US = 10000000            # "lately"
    LONGEST_PATIENCE_US = 30000000
    LOST_US = 15000000             # a tunnel that hears nothing for this long begins anew
    STREAM_PACKETS = 16            # somebody who asks sends a few packets, and repeats them after a pause
    REST_US = 10000000             # rest of a port after the last packet, if an answer may come: see _ports.pxd
    REST_UNHEARD_US = 3000000      # if the servers have never answered: most likely they never will
    REST_ANSWERED_US = 250000      # if no answer is owed: one may come twice
    QUIET_US = 1000000             # a conversation silent for this long, its server having spoken last, may be over


cdef struct Flow:
    FlowEntry entry         # in the table; first, so that a pointer to one is a pointer to the other
    Source source           # the socket connected to the target
    void *owner             # borrowed FlowSet: whose it is
    void *listener          # borrowed UdpListener, from which replies leave; it outlives its flows
    void *address           # owned reference to a TargetAddress: the address it goes to
    uint16_t port           # the socket's
    uint8_t *header         # owned; begins every packet to the target, or NULL
    uint32_t header_bytes   # its length
    Noted *noted            # owned; for the access log, or NULL
    FlowRecord *record      # owned; what outlives this process, or NULL
    bint answered           # the address has answered
    int64_t asked_at        # the first packet since the last answer; 0: none
    int64_t patience_us     # how long an answer is waited for before the flow looks for another address
    uint32_t asked          # packets since the flow began, or went to another address
    uint32_t owed           # how many of these are unanswered; counted while the flow is not a conversation
    SocketAddress client    # who gets the replies
    socklen_t client_bytes  # length of `client`
    LocalAddress local      # the address the client sent to, if the listener has many
    uint32_t in_limit       # GSO towards the target: segments below this size
    uint32_t out_limit      # GSO towards the client: likewise
    int most_slots          # slots to read at a time: fewer once trains come, to stay in the cache
    int first_slot          # its first packets for the target in the inbox; -1: none
    int last_slot           # the last of them
    int touched_index       # place among the flows that have packets in the inbox
    bint failed             # the socket has an error to be read
    bint queued             # has replies to be read
    ListLink in_ready       # queue of those


cdef void flow_key_of_origin(const Slot *slot, const Origin *origin, FlowKey *out) noexcept
cdef bint flow_head(Flow *flow, const Slot *slot, const SocketAddress *bound, const Origin *origin) noexcept nogil
cdef void flow_begin(Flow *flow) noexcept nogil
cdef void flow_sent(Flow *flow, uint32_t packets, int64_t now) noexcept nogil
cdef void flow_heard(Flow *flow, const Slot *slots, int count) noexcept
cdef bint flow_is_due(const Flow *flow, int64_t now) noexcept
cdef bint flow_may_leave(Flow *flow, Balance balance, int64_t now) noexcept
cdef int64_t flow_rest_us(const Flow *flow, Balance balance, int64_t now) noexcept
cdef bint flow_is_owed(const Flow *flow, int64_t now) noexcept nogil
cdef Flow *flow_without_debt(const Roll *roll, int64_t now) noexcept nogil
cdef void flow_key(const Slot *slot, const SocketAddress *bound, bint is_wildcard, FlowKey *out) noexcept
cdef bint ready_add(LinkedList *ready, Flow *flow) noexcept nogil
cdef void ready_remove(LinkedList *ready, Flow *flow) noexcept nogil
