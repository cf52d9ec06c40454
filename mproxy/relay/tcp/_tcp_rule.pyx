"""One TCP rule."""

from functools import partial

from mproxy.relay._cidr cimport is_allowed
from mproxy.relay._newcomers cimport LIMITED_TELL_US, source_text


cdef class TcpRule:
    """`rule`: a rules.Rule. Its options may change while it has connections; so may its targets."""

    def __init__(self, PairSet pairs, key, rule):
        self.pairs = pairs
        self.key = key
        self.number = key if isinstance(key, int) else 0
        self.slot = pairs.tally.slot(key)
        self.acceptors = []
        self.balance = Balance()
        self.guard = CircleGuard(pairs.loop, self.balance)
        self.configure(rule)

    cdef void configure(self, rule):
        """Follow the options of `rule` from now on."""
        options = rule.options
        self.targets_text = rule.targets_text
        self.balance.least = options.balance == "leastconn"
        self.allow = CidrSet(options.allow) if options.allow else None
        self.deny = CidrSet(options.deny) if options.deny else None
        self.sources = SourceAddresses(getattr(options, "source", ()))
        self.proxy, self.accept_proxy = options.proxy, options.accept_proxy
        self.most = options.max_connections
        self.has_keepalive = bool(options.keepalive)
        if self.has_keepalive:
            self.keepalive.idle_s, self.keepalive.interval_s, self.keepalive.probes = options.keepalive
        self.new_interval_ns, self.new_burst = options.new_interval_ns, options.most_new
        self.connect_us, self.idle_us = options.connect_timeout_us, options.idle_timeout_us

    cdef bint admits(self, const sockaddr *client) noexcept:
        """Whether a client with this address may have a connection."""
        return not self.guard.is_closed() and is_allowed(self.allow, self.deny, client)

    cdef bint comes_too_often(self, const sockaddr *client) noexcept:
        """Whether this client's source has begun too many connections; then it is counted, and told now and then."""
        cdef int64_t now = self.pairs.loop.now_us
        if self.new_interval_ns == 0 or self.pairs.tally.newcomers.admits(
                self.slot, client, now, self.new_interval_ns, self.new_burst):
            return False
        self.limited += 1
        if self.limited_told == 0 or now - self.limited_told_at >= LIMITED_TELL_US:
            self.pairs.tell(partial(self.pairs.observer.on_limited, self.key, source_text(client),
                                    self.limited - self.limited_told))
            self.limited_told, self.limited_told_at = self.limited, now
        return True

    cdef dict stats(self):
        """The counters so far, and the connections now."""
        return {
            "connections": self.connections, "total": self.total, "refused": self.refused,
            "limited": self.limited, "failed": self.failed,
            "timed_out": self.timed_out, "bytes_in": self.bytes_in, "bytes_out": self.bytes_out,
        }
