"""UDP relay: rules come, change and go. What happens to packets: _forwarder.pyx."""

import resource
from functools import partial

from libc.stdint cimport uint32_t
from libc.string cimport memcmp

from mproxy.io._loop cimport Loop
from mproxy.io._packets cimport SocketAddress
from mproxy.relay._tally cimport Tally
from mproxy.relay.udp._flow cimport Flow
from mproxy.relay.udp._flow_record cimport flow_record_at
from mproxy.relay.udp._flow_table cimport OF_GROUP, STANDINGS
from mproxy.relay.udp._udp_listener cimport UdpListener
from mproxy.relay.udp._udp_rule cimport UdpRule


cdef enum:
    OTHERS_SHARE = 8    # one part in this many of the process's descriptors is not for flows

_relays = set()  # open ones: the loop holds pointers to their parts


cdef bint is_of(UdpListener listener, uint32_t number) noexcept:
    """Whether the flow of a record was one of a listener with that address."""
    return memcmp(&flow_record_at(number).bound, &listener.bound, sizeof(SocketAddress)) == 0


cdef class UdpRelay:
    """Relays UDP rules. `max_flows`: of all rules together; 0: as many as this process has descriptors for.
    `tally`: where flows and sources are counted together with those of other workers."""

    def __init__(self, Loop loop, observer, max_flows, Tally tally=None):
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        for_flows = max(1, descriptors - descriptors // OTHERS_SHARE)
        self.flows = FlowSet(loop, observer, min(max_flows or for_flows, for_flows), tally or Tally())
        self.forwarder = Forwarder(self.flows)
        self.rules = {}
        self.leaving = set()
        _relays.add(self)

    def keep_accounts(self):
        """From now on tell the observer of each flow that has ended: `on_ended`."""
        self.flows.keeps_accounts = True

    @property
    def count(self):
        """Flows now."""
        return self.flows.table.roll.count

    @property
    def max_flows(self):
        """Most flows at once."""
        return self.flows.table.most

    def add(self, key, rule, fds):
        """Serve `rule` (rules.Rule) on bound UDP sockets (duplicates of the caller's); `set_targets` says where to."""
        cdef UdpRule added = UdpRule(key, rule, self.flows.tally.slot(key))
        cdef UdpListener listener
        if key in self.rules:
            raise ValueError(f"key {key!r} is in use")
        self.rules[key] = added
        for fd in fds:
            listener = UdpListener(self.flows.loop, added, fd)
            self.forwarder.listen(listener)
            added.listeners.append(listener)
            self._take_over(listener)

    def take_in(self, key, records):
        """Go on with flows of `find_flows`: [(number, descriptor), ...] of the rule, once it has its targets. Returns
        those with which that cannot be; the others' descriptors are ours."""
        cdef UdpListener listener
        left = list(records)
        for former in (<UdpRule>self.rules[key]).listeners:
            listener = former
            left = [(number, fd) for number, fd in left if not (
                is_of(listener, number) and self.flows.take_in(listener, number))]
        return left

    def set_targets(self, key, targets, weights=None, failing=None):
        """Flows of the rule go to these (a Target each; the rest as in Balance). Existing ones stay if their address is
        among them and not failing, else they move with their client's next packet."""
        (<UdpRule>self.rules[key]).balance.set_targets(targets, weights, failing)

    def update(self, key, rule):
        """The rule's options have changed."""
        cdef UdpRule changed = self.rules[key]
        changed.configure(rule)
        self.flows.shrink(changed)
        self.flows.look_at(self.flows.table.next_end())

    def shrink(self, key):
        """A worker that has fewer flows of the rule than its part needs room: give up what is beyond ours."""
        if key in self.rules:
            self.flows.shrink(self.rules[key])

    def remove(self, key):
        """Admit nobody new; flows go on until they are idle, and replies leave from the same address."""
        (<UdpRule>self.rules.pop(key)).leave(self.leaving)

    def stats(self, key):
        """Counts of a rule: sessions (its flows now), total, refused, evicted, expired, errors, dropped, packets_in,
        packets_out, bytes_in, bytes_out (in: from client to target)."""
        for listener in (<UdpRule>self.rules[key]).listeners:
            (<UdpListener>listener).count_dropped()
        return (<UdpRule>self.rules[key]).stats()

    def down(self, key):
        """[(HOST:PORT, errno), ...]: addresses of a rule that are left out."""
        return (<UdpRule>self.rules[key]).balance.down()

    def close(self):
        """End every flow and stop listening."""
        for key in list(self.rules):
            self.remove(key)
        self.flows.end_all()
        self.forwarder.close()
        self.flows.loop.soon.append(partial(_relays.discard, self))

    def _take_over(self, UdpListener listener):
        """Take over the flows of a removed rule with the same address: both sockets get packets of their clients."""
        cdef UdpListener old
        cdef Flow *flow
        cdef Flow *next_flow
        for rule in list(self.leaving):
            for former in list((<UdpRule>rule).listeners):
                old = former
                if memcmp(&old.bound, &listener.bound, sizeof(SocketAddress)) != 0:
                    continue
                if not listener.rule.balance.addresses:  # `set_targets` finds out which of them are lost
                    listener.rule.balance.addresses = list(old.rule.balance.addresses)
                for standing in range(STANDINGS):
                    flow = <Flow *>old.rule.group.roll.lines[<int>standing].first
                    while flow != NULL:
                        next_flow = <Flow *>flow.entry.links[OF_GROUP].next
                        if flow.listener == <void *>old:
                            self.flows.hand_over(flow, listener)
                        flow = next_flow
                while self.forwarder.read_batch(old):
                    pass  # packets still waiting in the old socket
                old.rule.listeners.remove(old)
                old.stop()
            if not (<UdpRule>rule).group.roll.count:
                (<UdpRule>rule).dissolve()
        self.flows.look_at(self.flows.table.next_end())
