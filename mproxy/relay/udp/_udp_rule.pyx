"""One UDP rule."""

from libc.string cimport memcpy, memmove

from mproxy.ground._sockaddr cimport sockaddr_storage
from mproxy.relay._cidr cimport is_allowed
from mproxy.relay._circle cimport LOOK_EVERY, Place
from mproxy.relay._hops cimport may_come_round
from mproxy.relay._proxy_header cimport datagram_header_parse, origin_source


cdef class UdpRule:
    """`rule`: a rules.Rule. Its options may change while it has flows; so may its targets. `slot`: see Tally."""

    def __init__(self, key, rule, uint32_t slot):
        self.key = key
        self.slot = slot
        self.number = key if isinstance(key, int) else 0
        self.balance = Balance()
        self.listeners = []
        self.hops = HopCount()
        self.configure(rule)

    def configure(self, rule):
        """Follow the options of `rule` from now on."""
        options = rule.options
        self.targets_text = rule.targets_text
        self.group.idle_us = options.idle_timeout_us
        self.most = self.group.most = options.max_connections
        self.group.most_a_source = options.per_source
        self.allow = CidrSet(options.allow) if options.allow else None
        self.deny = CidrSet(options.deny) if options.deny else None
        self.new_interval_ns, self.new_burst = options.new_interval_ns, options.most_new
        self.proxy, self.accept_proxy = options.proxy != 0, options.accept_proxy
        for listener in self.listeners:
            listener.follow_rule()
        self.balance.least = options.balance == "leastconn"

    def stats(self):
        """FlowCounts so far, and the flows now."""
        return {"sessions": self.group.roll.count, **self.counts}

    cdef bint admits(self, const sockaddr *client) noexcept:
        """Whether a client with this address may have a flow."""
        return self.leaving is None and is_allowed(self.allow, self.deny, client)

    cdef bint take_header(self, Slot *slot, Origin *out_origin) noexcept:
        """Take the PROXY header off a packet; false when it has none, or who sent or who is named may not come in."""
        cdef sockaddr_storage client
        cdef int length
        if slot.segment < slot.length:  # a train: it was received before `accept-proxy` was set
            return False
        length = datagram_header_parse(slot.data, <int>slot.length, out_origin)
        if length < 0 or not is_allowed(self.allow, self.deny, &slot.sender.any):
            return False
        origin_source(out_origin, &client)
        if out_origin.family and self.deny is not None and self.deny.has(<sockaddr *>&client):
            return False
        memmove(slot.data, slot.data + length, slot.length - length)
        slot.length -= length
        slot.segment = slot.length
        return True

    cdef void began(self) noexcept:
        """A flow has begun."""
        cdef FlowCounts *counts = &self.counts
        counts.total += 1
        if counts.total % LOOK_EVERY == 0 and self.hops.look(<int64_t>(counts.total - counts.expired)):
            for listener in self.listeners:
                listener.count_hops(self.hops.counting)

    cdef bint goes_round(self, Slot *slot, const FlowKey *key) noexcept:
        """Whether the packet has reached its last hop in a circle over another relay. Its `hops`, for the flow that it
        begins, are 0 if it cannot be part of one."""
        cdef Place peer, met
        if slot.hops == 0:
            return False
        memcpy(peer.address, key.client, 16)
        memcpy(met.address, key.local, 16)
        if not may_come_round(&peer, &met, self.balance):
            slot.hops = 0
            return False
        return self.hops.note(slot.hops) or slot.hops == 1

    cdef void leave(self, set leaving):
        """The rule is removed: it admits nobody new, and is among `leaving` until its last flow has ended."""
        leaving.add(self)
        self.leaving = leaving
        if self.group.roll.count == 0:
            self.dissolve()

    cdef void dissolve(self) noexcept:
        """The last flow of a removed rule has ended: close its sockets."""
        self.leaving.discard(self)
        for listener in self.listeners:
            listener.stop()
        self.listeners = []
