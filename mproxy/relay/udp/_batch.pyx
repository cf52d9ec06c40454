"""Packets that were received together, and those that leave together: _batch.pxd."""

from libc.stdint cimport uint32_t

from mproxy.io._packets cimport Message, Slot
from mproxy.io._udp_dial cimport is_passing
from mproxy.relay.udp._flow cimport flow_sent
from mproxy.relay.udp._udp_rule cimport UdpRule


cdef enum:
    TRAIN_BYTES = 8192  # messages that are longer than this on average are trains


cdef int slots_next_time(int most, int n, size_t length) noexcept nogil:
    """How many slots to read into next time, after `n` messages of `length` bytes in all."""
    if length > <size_t>n * TRAIN_BYTES:
        return FEW_SLOTS
    return SLOTS if n == most else most


cdef class Batch:
    """Shared by all rules. Towards targets: `put` for each slot, `send_in` for each flow that was touched. Towards
    clients: `pack_out` for each flow, `flush_out` for each listener."""

    def __init__(self):
        self.inbox = Inbox()
        self.outbox = Outbox()
        self.packer = Packer(self.outbox)

    # ---- towards the target

    cdef bint put(self, Flow *flow, int slot) noexcept:
        """The packets in a slot of the inbox belong to the flow; true when they are its first."""
        self.next_slot[slot] = NOWHERE
        if flow.first_slot != NOWHERE:
            self.next_slot[flow.last_slot] = slot
            flow.last_slot = slot
            return False
        flow.first_slot = flow.last_slot = slot
        flow.touched_index = self.touched_count
        self.touched[self.touched_count] = flow
        self.touched_count += 1
        return True

    cdef int send_in(self, Flow *flow, int64_t now) noexcept:
        """Send the flow's packets in the inbox to its target; 0, or the errno with which the flow has failed."""
        cdef UdpRule rule = (<UdpListener>flow.listener).rule
        cdef int slot = flow.first_slot, error
        cdef uint32_t sent = 0
        flow.first_slot = NOWHERE
        self.touched[flow.touched_index] = NULL
        if flow.header != NULL:
            error = self.send_headed(flow, slot, &sent)
        else:
            while slot != NOWHERE:
                self.packer.take(self.inbox, slot)
                slot = self.next_slot[slot]
            self.packer.pack(flow, True)
            error = self.flush_in(flow, &sent)
        rule.counts.packets_in += sent
        flow_sent(flow, sent, now)
        return error

    cdef int send_headed(self, Flow *flow, int slot, uint32_t *sent) noexcept:
        """Send the packets from `slot` on one by one, each behind the flow's header."""
        cdef Slot *received
        cdef uint32_t at, size
        cdef int error = 0
        while slot != NOWHERE:
            received = &self.inbox.slots[slot]
            at = 0
            while at == 0 or at < received.length:
                size = min(received.segment, received.length - at)
                if not self.outbox.has_room(2):
                    error = self.flush_in(flow, sent) or error
                self.outbox.add(NULL, 0, NULL).owner = flow
                self.outbox.add_part(flow.header, flow.header_bytes)
                self.outbox.add_part(received.data + at, size)
                self.outbox.finish(0, False)
                at += max(size, <uint32_t>1)
            slot = self.next_slot[slot]
        return self.flush_in(flow, sent) or error

    cdef int flush_in(self, Flow *flow, uint32_t *sent) noexcept:
        """Send what the outbox has for the flow's target; 0, or the errno with which the flow has failed."""
        cdef UdpRule rule = (<UdpListener>flow.listener).rule
        cdef Message *message
        cdef uint32_t payload
        cdef int i, error = 0
        self.outbox.flush(flow.source.fd, False)
        for i in range(self.outbox.count):
            message = &self.outbox.messages[i]
            sent[0] += message.sent
            payload = message.sent_bytes - message.sent * flow.header_bytes
            rule.counts.bytes_in += payload
            if flow.noted != NULL:
                flow.noted.bytes_in += payload
            if message.fell_back:
                flow.in_limit = min(flow.in_limit, message.segment)
            if message.error and is_passing(message.error):
                rule.counts.errors += message.packets - message.sent
            elif message.error:
                error = message.error
        self.outbox.clear()
        return error

    # ---- towards the client

    cdef void pack_out(self, Flow *flow, int first, int count) noexcept:
        """Put the replies in `count` slots of the inbox into the outbox."""
        cdef size_t length = 0
        cdef int i
        for i in range(first, first + count):
            self.packer.take(self.inbox, i)
            length += self.inbox.slots[i].length
        flow.most_slots = slots_next_time(flow.most_slots, count, length)
        self.packer.pack(flow, False)

    cdef void flush_out(self, UdpListener listener) noexcept:
        """Send the replies in the outbox."""
        cdef Message *message
        cdef Flow *flow
        cdef int i
        self.outbox.flush(listener.source.fd, False)
        for i in range(self.outbox.count):
            message = &self.outbox.messages[i]
            flow = <Flow *>message.owner
            listener.rule.counts.packets_out += message.sent
            listener.rule.counts.bytes_out += message.sent_bytes
            if flow.noted != NULL:
                flow.noted.bytes_out += message.sent_bytes
            if message.fell_back:
                flow.out_limit = min(flow.out_limit, message.segment)
            if message.error:
                listener.rule.counts.errors += message.packets - message.sent
        self.outbox.clear()
