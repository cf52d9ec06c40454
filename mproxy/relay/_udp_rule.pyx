"""One UDP rule."""

from mproxy.relay._cidr cimport is_allowed


cdef class Destination:
    """One target of a rule."""

    def __cinit__(self, Target target):
        self.target = target


cdef class UdpRule:
    """`rule`: a rules.Rule. Its options may change while it has sessions; so may its targets."""

    def __init__(self, key, rule):
        self.key = key
        self.destinations = []
        self.listeners = []
        self.configure(rule)

    def configure(self, rule):
        """Take the options of `rule` from now on."""
        options = rule.options
        self.group.idle_us = options.idle_timeout_us
        self.group.most = options.max_connections
        self.group.most_a_source = options.per_source
        self.allow = CidrSet(options.allow) if options.allow else None
        self.deny = CidrSet(options.deny) if options.deny else None
        self.least = options.balance == "leastconn"

    def set_targets(self, targets):
        """New sessions go to these. A target that stays keeps its count of sessions, and its troubles."""
        known = {}
        for destination in self.destinations:
            known.setdefault((<Destination>destination).target.text, destination)
        destinations = []
        for target in targets:
            destination = known.pop(target.text, None) or Destination(target)
            (<Destination>destination).target = target
            destinations.append(destination)
        self.destinations = destinations

    def stats(self):
        """Counts so far, and the sessions now."""
        return {"sessions": self.group.line.count, **self.counts}

    cdef bint admits(self, const sockaddr *client) noexcept:
        """Whether a client of this address may have a session."""
        return not self.leaving and is_allowed(self.allow, self.deny, client)

    cdef Destination choose(self, int64_t now):
        """Where the next session goes; None when no target has an address."""
        cdef Destination best = None, destination
        cdef int count = len(self.destinations), i
        cdef bint good, best_good = False
        for i in range(count):
            destination = self.destinations[(self.turn + i) % count]
            if destination.target.count == 0:
                continue
            good = destination.avoid_until <= now
            if best is None or good > best_good or (
                    self.least and good == best_good and destination.sessions < best.sessions):
                best = destination
                best_good = good
                if good and not self.least:
                    break
        if count:
            self.turn = (self.turn + 1 + (i if best_good and not self.least else 0)) % count
        return best
