"""One side of a session's datagrams: _flow_side.pxd."""

from libc.stdint cimport uint16_t

from mproxy._datagrams cimport Datagrams, datagrams_put
from mproxy._wire cimport MAX_DATAGRAM_BYTES
from mproxy.ground._list cimport list_append, list_remove


cdef class SessionFlow:
    """Base: one flow."""


cdef class FlowSide:
    """Base: takes nothing, and keeps flows by their number and their use."""

    def __cinit__(self):
        self.told = ignore

    cdef void arrived(self, uint32_t flow, int association, const uint8_t *data, uint32_t length) noexcept:
        """The peer has sent a datagram, which lies there during this call only."""

    cdef void end(self, SessionFlow flow) noexcept:
        """Have one no more."""

    def close(self):
        """End all flows; nothing is taken any more."""

    @property
    def flow_count(self):
        """Flows now."""
        return self.used.count

    def facts(self, int most):
        """For `mproxy status`: sums, and up to `most` flows, the last used first; None: there was never a datagram."""
        return None

    # ---- for those who implement it

    cdef void init(self, Loop loop, int64_t idle_us):
        self.loop = loop
        self.idle_us = idle_us
        self.by_number = {}

    cdef void keep(self, SessionFlow flow):
        """Have one more, which has its number."""
        flow.use.used_at = self.loop.now_us
        self.by_number[flow.use.number] = flow
        list_append(&self.used, <void *>flow, &flow.use.in_use)
        if not self.sweeps:
            self.sweeps = True
            self.loop.call_later(self.idle_us, self.sweep)

    cdef void forget(self, SessionFlow flow) noexcept:
        """What `end` of every kind does."""
        list_remove(&self.used, <void *>flow, &flow.use.in_use)
        del self.by_number[flow.use.number]

    cdef void end_oldest(self) noexcept:
        """End the flow that has been unused for longest, of which there is one."""
        self.end(<SessionFlow>self.used.first)

    cdef void note_use(self, SessionFlow flow) noexcept:
        flow.use.used_at = self.loop.now_us
        if self.used.last != <void *>flow:
            list_remove(&self.used, <void *>flow, &flow.use.in_use)
            list_append(&self.used, <void *>flow, &flow.use.in_use)

    cdef list newest(self, int most):
        """Up to `most` flows, the last used first."""
        return sorted(self.by_number.values(), key=used_at, reverse=True)[:most]

    def sweep(self):
        """End flows that have been idle for too long; called by the loop."""
        cdef SessionFlow flow
        self.sweeps = False
        while self.used.first != NULL:
            flow = <SessionFlow>self.used.first
            if self.loop.now_us - flow.use.used_at < self.idle_us:
                self.sweeps = True
                self.loop.call_later(flow.use.used_at + self.idle_us - self.loop.now_us, self.sweep)
                return
            self.end(flow)


def used_at(SessionFlow flow):
    """When it was last used."""
    return flow.use.used_at


def ignore(*_arguments):
    """Nobody has asked."""


cdef Inbox _inbox = None


cdef Inbox flow_inbox():
    """Of this process, for whoever is reading."""
    global _inbox
    if _inbox is None:
        _inbox = Inbox()
    return _inbox


cdef facts_of(Session session, uint64_t refused, int flows, list known):
    """What `facts` says; `refused`: dropped beside those of the queue."""
    cdef const Datagrams *datagrams = &session.transmitter.datagrams
    return {"flows": flows, "sent": datagrams.sent, "received": datagrams.received,
            "dropped": datagrams.dropped + refused, "flow_list": known}


cdef dict facts_of_flow(const FlowUse *use, str target, peer, int64_t now):
    return {"flow": use.number, "target": target, "peer": peer, "idle_s": round((now - use.used_at) / 1e6, 3),
            "sent": use.sent, "received": use.received, "sent_bytes": use.sent_bytes,
            "received_bytes": use.received_bytes}


cdef void put_slot(Session session, int64_t now, FlowUse *use, int association, const Slot *slot) noexcept:
    """Let the datagrams of a slot wait for the carrier."""
    cdef uint32_t at = 0, length
    use.used_at = now
    while True:
        length = min(slot.segment, slot.length - at) if slot.segment else 0
        if length <= MAX_DATAGRAM_BYTES and datagrams_put(
                &session.transmitter.datagrams, use.number, <uint16_t>association, slot.data + at, length, now,
                session.transmitter.account):
            use.sent += 1
            use.sent_bytes += length
        at += length
        if at >= slot.length:
            return
