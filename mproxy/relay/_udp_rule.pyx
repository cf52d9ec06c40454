"""One UDP rule."""

from mproxy.relay._cidr cimport is_allowed


cdef class UdpRule:
    """`rule`: a rules.Rule. Its options may change while it has sessions; so may its targets."""

    def __init__(self, key, rule):
        self.key = key
        self.balance = Balance()
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
        self.balance.least = options.balance == "leastconn"

    def stats(self):
        """Counts so far, and the sessions now."""
        return {"sessions": self.group.roll.count, **self.counts}

    cdef bint admits(self, const sockaddr *client) noexcept:
        """Whether a client of this address may have a session."""
        return not self.leaving and is_allowed(self.allow, self.deny, client)
