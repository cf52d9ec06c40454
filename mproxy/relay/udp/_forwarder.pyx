"""The way of packets through a UDP relay.

To the target: the listener's socket is ready, or packets of a stream have gathered there (_gather.pyx); one recvmmsg
fills the inbox; each message finds its flow or opens one; a flow's packets are joined into trains and leave through its
own connected socket.

To the client: the flow's socket is ready; recvmmsg; trains again; they join the replies of other flows in the outbox,
and one sendmmsg through the listener's socket sends them all, each from the address that its client knows.

Nothing waits: what the kernel has no room for is dropped and counted. Python runs when a flow begins or looks for
another address, and for one timer; never for a packet.
"""

from libc.errno cimport EAGAIN, EINTR, EMSGSIZE, errno
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcmp

from mproxy.ground._clock cimport read_clock
from mproxy.io._packets cimport SLOTS, Slot, packet_count
from mproxy.relay._proxy_header cimport Origin
from mproxy.relay.udp._batch cimport slots_next_time
from mproxy.relay.udp._flow cimport ready_remove, flow_is_due, flow_key, flow_key_of_origin
from mproxy.relay.udp._flow_table cimport FlowKey
from mproxy.relay.udp._gather cimport gather_decide, gather_is_due


cdef enum:
    BATCHES_A_TURN = 4           # of one listener, before others get their turn


cdef void run_listener(Work *work) noexcept:
    cdef UdpListener listener = <UdpListener>work.owner
    (<Forwarder>listener.forwarder).read(listener)


cdef void run_gathering(Work *work) noexcept:
    """Read all listeners whose packets gather: the alarm rings for the first of them."""
    cdef Forwarder forwarder = <Forwarder>work.owner
    for listener in list(forwarder.gathering):
        forwarder.read(<UdpListener>listener)


cdef void run_replies(Work *work) noexcept:
    (<Forwarder>work.owner).read_replies()


cdef class Forwarder:
    """Forwards the packets of `flows`, whose replies are read here from now on. Whoever makes it keeps it until the
    loop has done a turn after `close`."""

    def __init__(self, FlowSet flows):
        self.loop = flows.loop
        self.flows = flows
        self.batch = flows.batch
        flows.replies.run = run_replies
        flows.replies.owner = <void *>self
        self.look.run = run_gathering
        self.look.owner = <void *>self
        self.alarm = Alarm()
        self.gathering = [] if self.alarm.open(self.loop, &self.look) == 0 else None

    cdef void close(self) noexcept:
        """Stop reading."""
        self.alarm.close()
        self.loop.unschedule(&self.look)
        self.loop.unschedule(&self.flows.replies)

    cdef void listen(self, UdpListener listener) noexcept:
        """Have the listener read here."""
        listener.gathering = self.gathering
        listener.forwarder = <void *>self
        listener.work.run = run_listener
        listener.work.owner = <void *>listener

    # ---- towards the target

    cdef void read(self, UdpListener listener) noexcept:
        """Read until the socket is empty or it is the others' turn; then wait for more, or let packets gather."""
        cdef int _batch
        cdef bint more = True
        cdef int64_t now = self.loop.now_us
        for _batch in range(BATCHES_A_TURN):
            more = self.read_batch(listener)
            if not more:
                break
        if listener.source.fd < 0:
            return
        if gather_is_due(&listener.gather, now):
            if listener.gathers:
                listener.count_dropped()
            gather_decide(&listener.gather, now, listener.rule.counts.packets_out, listener.dropped)
            listener.set_gathering(listener.gather.wait_us > 0)
        if more:
            self.loop.schedule(&listener.work)
        elif listener.gathers:
            self.alarm.set(min(self.alarm.at, read_clock() + listener.gather.wait_us))

    cdef bint read_batch(self, UdpListener listener) noexcept:
        """Relay what one call receives; false when the socket was empty, or was closed."""
        cdef int n, i
        cdef size_t length = 0
        cdef int most = listener.most_slots
        if listener.source.fd < 0:
            return False
        self.loop.light_turns = 0  # having the loop look for an answer would cost more than it saves
        n = self.batch.inbox.receive(listener.source.fd, 0, most, True)
        if n < 0:
            return errno != EAGAIN
        for i in range(n):
            length += self.batch.inbox.slots[i].length
        listener.most_slots = slots_next_time(most, n, length)
        listener.gather.came += n
        self.deliver(listener, n)
        return n == most

    cdef void deliver(self, UdpListener listener, int count) noexcept:
        """Send on what the inbox holds."""
        cdef Batch batch = self.batch
        cdef FlowSet flows = self.flows
        cdef Flow *flow = NULL
        cdef Slot *slot
        cdef FlowKey key
        cdef Origin origin
        cdef bint heads = listener.rule.accept_proxy
        cdef int i, error
        batch.touched_count = 0
        for i in range(count):
            slot = &batch.inbox.slots[i]
            if slot.cut:
                listener.rule.counts.errors += 1
                continue
            if heads and not listener.rule.take_header(slot, &origin):
                listener.rule.counts.refused += 1
                continue
            flow_key(slot, &listener.bound, listener.is_wildcard, &key)
            if heads and origin.family:
                flow_key_of_origin(slot, &origin, &key)
            # Packets of one client tend to arrive together.
            if flow == NULL or memcmp(&flow.entry.key, &key, sizeof(FlowKey)) != 0:
                flow = <Flow *>flows.table.find(&key)
                if flow == NULL:
                    flow = flows.open(listener, slot, &key, &origin if heads else NULL)
                    if flow == NULL:
                        listener.rule.counts.refused += packet_count(slot.length, slot.segment)
                        continue
            if heads:  # another host may send for the same client now
                flow.client, flow.client_bytes, flow.local = slot.sender, slot.sender_bytes, slot.local
            if batch.put(flow, i):
                flows.table.asks(&flow.entry, self.loop.now_us)
        for i in range(batch.touched_count):
            flow = batch.touched[i]
            if flow == NULL:
                continue
            if flow_is_due(flow, self.loop.now_us):
                flows.move(flow)
            error = batch.send_in(flow, self.loop.now_us)
            if error:
                flows.fail(flow, error)
        batch.touched_count = 0

    # ---- towards the client

    cdef void read_replies(self) noexcept:
        """One read of every flow that is ready now."""
        cdef FlowSet flows = self.flows
        cdef Flow *flow
        cdef UdpListener listener = None
        cdef uint32_t left = flows.ready.count
        cdef int used = 0, n
        self.loop.light_turns = 0  # as in `read_batch`
        while left > 0 and flows.ready.first != NULL:
            left -= 1
            flow = <Flow *>flows.ready.first
            ready_remove(&flows.ready, flow)
            if self.batch.outbox.count and (
                    <void *>listener != flow.listener or used + flow.most_slots > SLOTS):
                self.batch.flush_out(listener)
            if self.batch.outbox.count == 0:
                used = 0
            listener = <UdpListener>flow.listener
            n = self.read_reply(flow, used)
            if n < 0:
                n = errno
                self.batch.flush_out(listener)
                flows.fail(flow, n)
            else:
                used += n
        if self.batch.outbox.count:
            self.batch.flush_out(listener)
        if flows.ready.first != NULL:
            self.loop.schedule(&flows.replies)

    cdef int read_reply(self, Flow *flow, int first) noexcept:
        """Read into the slots from `first` on, and pack; returns how many, or -1 with errno when the flow failed."""
        cdef int n = self.batch.inbox.receive(flow.source.fd, first, flow.most_slots, False)
        if n < 0:
            if errno == EAGAIN:
                flow.failed = False
                return 0
            if errno != EINTR and errno != EMSGSIZE:  # EMSGSIZE: an ICMP message told the kernel the path's MTU
                return -1
            n = 0
            flow.failed = True
        if n == flow.most_slots or flow.failed:
            self.flows.enqueue(flow)
        if n == 0:
            return 0
        self.batch.pack_out(flow, first, n)
        self.flows.heard(flow, &self.batch.inbox.slots[first], n)
        return n
