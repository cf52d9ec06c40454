"""Circles of a rule: _circle_guard.pxd."""

from mproxy.relay._circle cimport (
    CIRCLE, MAYBE_CIRCLE, Finding, Place, is_time_to_look, place_of_own, place_of_peer,
)
from mproxy.relay._hops cimport may_come_round, saved_hops
from mproxy.relay.circles import has_clients
from mproxy.relay.tcp._pair cimport come_back


cdef enum:
    DOUBT_US = 1000000   # from one look at the system's list of sockets to the next
    CLOSED_US = 10000000


cdef class CircleGuard:
    """`balance`: where the rule leads."""

    def __init__(self, Loop loop, Balance balance):
        self.loop = loop
        self.balance = balance
        self.hops = HopCount()

    cdef bint is_closed(self) noexcept:
        """Whether the rule is closed."""
        return self.loop.now_us < self.closed_until

    cdef bint finds(self, Pair *youngest, uint64_t total, uint32_t now) noexcept:
        """Whether the newest of `now` connections, after `total` so far, is part of a circle; then the rule closes."""
        if self.hops.counting and self.falls(youngest) or is_time_to_look(total, now) and self.comes_back(youngest):
            self.closed_until = self.loop.now_us + CLOSED_US
            return True
        return False

    cdef bint falls(self, Pair *pair) noexcept:
        """Whether this connection, like those before it, has fewer hops than the one before: it has `hops`."""
        cdef Place peer, met
        place_of_peer(pair.client.source.fd, &peer)
        place_of_own(pair.client.source.fd, &met)
        if may_come_round(&peer, &met, self.balance):
            pair.hops = saved_hops(pair.client.source.fd)
        return pair.hops != 0 and self.hops.note(pair.hops)

    cdef bint comes_back(self, Pair *youngest) noexcept:
        """Whether the newest connections come back from the relay itself."""
        cdef int64_t now = self.loop.now_us
        clients = []
        cdef Finding finding = come_back(youngest, clients)
        if finding != MAYBE_CIRCLE or now < self.doubted_until:
            return finding == CIRCLE
        self.doubted_until = now + DOUBT_US
        return self.loop.guard(has_clients, clients) is False
