"""UDP relay: rules come, change and go; idle sessions end. What happens to packets: _udp_flow.pyx."""

import resource
from functools import partial

from libc.string cimport memcmp

from mproxy.io._packets cimport Address
from mproxy.relay.udp._sessions cimport OF_GROUP, STANDINGS, Entry, Group, group_ended, roll_victim
from mproxy.relay.udp._udp_flow cimport Listener
from mproxy.relay.udp._udp_rule cimport UdpRule
from mproxy.relay.udp._udp_session cimport Session


cdef enum:
    ENDS_A_TURN = 1000  # idle sessions closed in one go: about 5 ms
    TIMER_US = 20000    # the timer's grain
    OTHERS_SHARE = 8    # one part in so many of the process's descriptors is not for sessions

_relays = set()  # open ones: the loop holds pointers to them


cdef class UdpRelay(UdpFlow):
    """Relays UDP rules. `max_sessions`: of all rules together, 0: as many as this process has descriptors for."""

    def __init__(self, Loop loop, observer, max_sessions):
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        for_sessions = max(1, descriptors - descriptors // OTHERS_SHARE)
        UdpFlow.__init__(self, loop, observer, min(max_sessions or for_sessions, for_sessions))
        self.rules = {}
        self.leaving = set()
        _relays.add(self)

    @property
    def count(self):
        """Sessions now."""
        return self.table.roll.count

    @property
    def max_sessions(self):
        """Sessions at most."""
        return self.table.most

    def add(self, key, rule, fds):
        """Serve `rule` (rules.Rule) on bound UDP sockets (duplicates of the caller's); `set_targets` says where to."""
        cdef UdpRule added = UdpRule(key, rule)
        if key in self.rules:
            raise ValueError(f"key {key!r} is in use")
        self.rules[key] = added
        for fd in fds:
            listener = Listener(self, added, fd)
            added.listeners.append(listener)
            self._take_over(listener)

    def set_targets(self, key, targets):
        """Sessions of the rule go to these (net._socket.Target each). Those that there are stay when their address is
        among them, and else move with their client's next packet."""
        (<UdpRule>self.rules[key]).balance.set_targets(targets)

    def update(self, key, rule):
        """The rule's options have changed."""
        cdef UdpRule changed = self.rules[key]
        changed.configure(rule)
        while changed.group.most and changed.group.roll.count > changed.group.most:
            self.evict(<Session *>roll_victim(&changed.group.roll, changed.group.most))
        self.set_timer(self.table.next_end())

    def remove(self, key):
        """Nobody new; sessions go on until they are idle, and replies leave from the same address."""
        cdef UdpRule rule = self.rules.pop(key)
        rule.leaving = True
        if rule.group.roll.count:
            self.leaving.add(rule)
        else:
            self._dissolve(rule)

    def stats(self, key):
        """Counts of a rule: sessions (now), total, refused, evicted, expired, errors, dropped, packets_in, packets_out,
        bytes_in, bytes_out (in: from client to target)."""
        for listener in (<UdpRule>self.rules[key]).listeners:
            (<Listener>listener).count_dropped()
        return (<UdpRule>self.rules[key]).stats()

    def down(self, key):
        """[(HOST:PORT, errno), ...]: addresses of a rule that are left out."""
        return (<UdpRule>self.rules[key]).balance.down()

    def close(self):
        """End every session and stop listening."""
        for key in list(self.rules):
            self.remove(key)
        while self.table.roll.count:
            self.end(<Session *>self.table.some())
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.alarm.close()
        self.loop.unschedule(&self.look)
        self.loop.unschedule(&self.work)
        self.loop.soon.append(partial(_relays.discard, self))

    def _take_over(self, Listener listener):
        """The sessions of a removed rule with the same address: both sockets get packets of their clients."""
        cdef Listener old
        cdef Session *session
        cdef Session *next_session
        for rule in list(self.leaving):
            for former in list((<UdpRule>rule).listeners):
                old = former
                if memcmp(&old.bound, &listener.bound, sizeof(Address)) != 0:
                    continue
                if not listener.rule.balance.backends:  # `set_targets` finds out which of them are lost
                    listener.rule.balance.backends = list(old.rule.balance.backends)
                for standing in range(STANDINGS):
                    session = <Session *>old.rule.group.roll.lines[<int>standing].first
                    while session != NULL:
                        next_session = <Session *>session.entry.links[OF_GROUP].next
                        if session.listener == <void *>old:
                            self.hand_over(session, listener)
                        session = next_session
                while old.read_batch():
                    pass  # what still waits in the old socket
                old.rule.listeners.remove(old)
                old.stop()
            if not (<UdpRule>rule).group.roll.count:
                self._dissolve(rule)
        self.set_timer(self.table.next_end())

    cdef void hand_over(self, Session *session, Listener listener) noexcept:
        """The session belongs to another rule from now on."""
        cdef Group *former = session.entry.group
        self.table.remove(&session.entry)
        session.listener = <void *>listener
        if self.table.insert(&session.entry, &listener.rule.group, session.entry.used_at) < 0:
            self.table.insert(&session.entry, former, session.entry.used_at)

    cdef void rule_ended(self, UdpRule rule) noexcept:
        self._dissolve(rule)

    cdef void idle_at(self, int64_t at) noexcept:
        self.set_timer(at)

    def _dissolve(self, UdpRule rule):
        self.leaving.discard(rule)
        for listener in rule.listeners:
            (<Listener>listener).stop()
        rule.listeners = []

    cdef void set_timer(self, int64_t at) noexcept:
        """Look for idle sessions then, or before; at < 0: no need to."""
        if at < 0 or self.timer is not None and self.timer.at <= at:
            return
        if self.timer is not None:
            self.timer.cancel()
        self.timer = self.loop.call_at(max(at, self.loop.now_us + TIMER_US), self.end_idle)

    def end_idle(self):
        """End the sessions whose time is over; called by the loop."""
        cdef Group *group = self.table.active
        cdef Group *next_group
        cdef Entry *entry
        cdef int left = ENDS_A_TURN
        self.timer = None
        while group != NULL and left > 0:
            next_group = group.next
            while left > 0:
                entry = group_ended(group, self.loop.now_us)
                if entry == NULL:
                    break
                left -= 1
                (<Listener>(<Session *>entry).listener).rule.counts.expired += 1
                self.end(<Session *>entry)
            group = next_group
        self.set_timer(self.table.next_end())
