"""What becomes of a flow: _flow.pxd."""

from libc.stdlib cimport malloc
from libc.string cimport memcpy, memset

from mproxy.ground._list cimport list_append, list_remove
from mproxy.ground._sockaddr cimport AF_INET, AF_INET6, htons, map_v4
from mproxy.io._packets cimport packet_count
from mproxy.relay._balance cimport TargetAddress
from mproxy.relay._proxy_header cimport OWN_HEADER_BYTES, datagram_header_write, origin_set
from mproxy.relay.udp._flow_table cimport ANSWERED, OF_TABLE, SETTLED, TWO_WAY, WAITING


cdef void flow_begin(Flow *flow) noexcept nogil:
    """The flow has just got its address."""
    flow.answered = False
    flow.asked_at = 0
    flow.asked = flow.owed = 0


cdef void flow_sent(Flow *flow, uint32_t packets, int64_t now) noexcept nogil:
    """The client's packets went to the target."""
    flow.asked += packets
    flow.owed += packets
    if flow.asked_at == 0:
        flow.asked_at = now


cdef void flow_heard(Flow *flow, const Slot *slots, int count) noexcept:
    """Replies came, in `count` slots."""
    cdef uint32_t answers = 0
    cdef int i
    if flow.owed and flow.entry.standings[OF_TABLE] != TWO_WAY:
        for i in range(count):
            answers += packet_count(slots[i].length, slots[i].segment)
        flow.owed -= min(flow.owed, answers)
    flow.answered = True
    flow.asked_at = 0
    flow.patience_us = LOST_US


cdef bint flow_is_due(const Flow *flow, int64_t now) noexcept:
    """Whether to look for another address before the next packet."""
    return (<TargetAddress>flow.address).gone or (<TargetAddress>flow.address).failing or (
        flow.asked_at != 0 and now - flow.asked_at >= flow.patience_us)


cdef bint flow_may_leave(Flow *flow, Balance balance, int64_t now) noexcept:
    """Whether a flow that is due has reason to leave its address."""
    cdef TargetAddress address = <TargetAddress>flow.address
    if address.gone or address.failing:
        return True
    if len(balance.addresses) < 2:
        return False
    if flow.answered:
        return address.answered_at < flow.asked_at
    if flow.asked >= STREAM_PACKETS:
        return False
    if now - flow.asked_at < KNOWN_PATIENCE_US and address.answered_at and now - address.answered_at < KNOWN_US:
        return False
    flow.patience_us = min(2 * flow.patience_us, <int64_t>LONGEST_PATIENCE_US)
    return True


cdef int64_t flow_rest_us(const Flow *flow, Balance balance, int64_t now) noexcept:
    """How long the flow's port has to rest when the flow leaves it."""
    cdef int64_t rest_us = REST_ANSWERED_US
    if balance.answered_at == 0:
        rest_us = REST_UNHEARD_US
    elif flow.owed or flow.entry.standings[OF_TABLE] == TWO_WAY:
        rest_us = REST_US
    return max(<int64_t>0, flow.entry.used_at + rest_us - now)


cdef bint flow_is_owed(const Flow *flow, int64_t now) noexcept nogil:
    """Whether an answer may still come: then nobody else can have its port."""
    cdef int64_t silent = now - flow.entry.used_at
    cdef int standing = flow.entry.standings[OF_TABLE]
    if standing == TWO_WAY and flow.asked_at == 0:
        return silent < QUIET_US
    return (standing in (TWO_WAY, WAITING) or flow.owed) and silent < REST_US


cdef Flow *flow_without_debt(const Roll *roll, int64_t now) noexcept nogil:
    """Which flow makes room when ports run out: as in _flow_table.pxd, but only one whose port another flow can have.
    NULL: none; then a newcomer has to wait, as the room would be of no use to it."""
    cdef void *candidates[4]
    cdef int i
    candidates[0] = roll.lines[TWO_WAY].first if roll.lines[TWO_WAY].count > roll.count - roll.count // 4 else NULL
    candidates[1] = roll.lines[ANSWERED].first
    candidates[2] = roll.lines[SETTLED].last
    candidates[3] = roll.lines[WAITING].first
    for i in range(4):
        if candidates[i] != NULL and not flow_is_owed(<const Flow *>candidates[i], now):
            return <Flow *>candidates[i]
    return NULL


cdef void flow_key(const Slot *slot, const SocketAddress *bound, bint is_wildcard, FlowKey *out) noexcept:
    """The key of the flow to which a packet that came to a socket with that address belongs."""
    cdef const SocketAddress *sender = &slot.sender
    memset(out, 0, sizeof(FlowKey))
    if sender.any.sa_family == AF_INET:
        map_v4(out.client, &sender.v4.sin_addr)
        out.client_port = sender.v4.sin_port
    else:
        memcpy(out.client, &sender.v6.sin6_addr, 16)
        out.client_port = sender.v6.sin6_port
        out.scope = sender.v6.sin6_scope_id
    if is_wildcard:
        memcpy(out.local, slot.local.bytes, 16)
    elif bound.any.sa_family == AF_INET:
        memcpy(out.local, &bound.v4.sin_addr, 4)
    else:
        memcpy(out.local, &bound.v6.sin6_addr, 16)
    out.local_port = bound.v4.sin_port  # at the same place in both families


cdef void flow_key_of_origin(const Slot *slot, const Origin *origin, FlowKey *out) noexcept:
    """Make a key of `flow_key` that of the client whom the packet's PROXY header names. The port from which the packet
    came stays part of it: whoever sends the header uses another one for each of his flows."""
    if origin.family == AF_INET:
        map_v4(out.client, origin.source)
    else:
        memcpy(out.client, origin.source, 16)
    out.client_port = htons(origin.source_port)
    out.scope = slot.sender.v4.sin_port  # at the same place in both families


cdef bint flow_head(Flow *flow, const Slot *slot, const SocketAddress *bound, const Origin *origin) noexcept nogil:
    """Have the flow's packets begin with a PROXY header: as `origin` says, or, if it is NULL or says nothing, as the
    packet came. False: no memory."""
    cdef SocketAddress met
    cdef Origin own
    if origin == NULL or origin.family == 0:
        met = bound[0]
        if slot.local.bytes[0] | slot.local.bytes[10] | slot.local.bytes[15]:  # the socket listens on every address
            memset(&met, 0, sizeof(met))
            met.v6.sin6_family = AF_INET6
            met.v6.sin6_port = bound.v4.sin_port
            memcpy(&met.v6.sin6_addr, slot.local.bytes, 16)
        origin_set(&own, &slot.sender.any, &met.any)
        origin = &own
    flow.header = <uint8_t *>malloc(OWN_HEADER_BYTES)
    if flow.header != NULL:
        flow.header_bytes = <uint32_t>datagram_header_write(flow.header, origin)
    return flow.header != NULL


# ---- those with replies

cdef bint ready_add(LinkedList *ready, Flow *flow) noexcept nogil:
    """Enter the flow at the end; false when it is there already."""
    if flow.queued:
        return False
    flow.queued = True
    list_append(ready, flow, &flow.in_ready)
    return True


cdef void ready_remove(LinkedList *ready, Flow *flow) noexcept nogil:
    """Take the flow out, if it is there."""
    if flow.queued:
        flow.queued = False
        list_remove(ready, flow, &flow.in_ready)
