"""Where strangers come from: how many connections that have not shown who they are one source may have, and how often
it may fail to.

A source is an IPv4 address, or the 64 leading bits of an IPv6 address: so many belong to one customer (RFC 6177).
Takes the time as an argument; remembers MOST_SOURCES sources at most.
"""

import socket

# Failed attempts that a source may make at once, and how long it takes until it may make one more. A client whose key
# is not authorised dials every 5 s at last; a hundred of them behind one address still learn why.
FAILURES = 30
FAILURE_US = 1_000_000

# Of the connections that have not said who they are, one source may have a quarter, but at least so many.
LEAST_SHARE = 8

MOST_SOURCES = 4096


def source_of(host):
    """What counts as one source: `10.0.0.1`, or `fd00:1:2:3::/64`. `host`: numeric, as accept(2) gives it."""
    bare = host.partition("%")[0]
    if ":" not in bare:
        return bare
    packed = socket.inet_pton(socket.AF_INET6, bare)
    if packed.startswith(bytes(10) + b"\xff\xff"):
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return socket.inet_ntop(socket.AF_INET6, packed[:8] + bytes(8)) + "/64"


class Sources:
    """Counts for every source. `most`: connections in all that have not said who they are."""

    def __init__(self, most):
        self._share = min(most, max(LEAST_SHARE, most // 4))
        self._waiting = {}   # source -> connections that have not said who they are, oldest first, as keys of a dict
        self._failures = {}  # source -> (failures that count, when that was so); least recent first

    def arrived(self, source, connection):
        """Note a connection; returns the oldest one of its source when that now has too many, to be closed."""
        waiting = self._waiting.setdefault(source, {})
        waiting[connection] = None
        return next(iter(waiting)) if len(waiting) > self._share else None

    def left(self, source, connection):
        """The connection has said who it is, or is gone."""
        waiting = self._waiting.get(source)
        if waiting is not None:
            waiting.pop(connection, None)
            if not waiting:
                del self._waiting[source]

    def failed(self, source, now):
        """An attempt was refused; True when no more are served for a while, and this was the one that decided it."""
        before = self._level(source, now)
        self._failures.pop(source, None)
        if len(self._failures) >= MOST_SOURCES:
            del self._failures[next(iter(self._failures))]
        self._failures[source] = min(before + 1, 2 * FAILURES), now
        return before < FAILURES <= before + 1

    def blocked(self, source, now):
        """Whether its connections are closed unheard."""
        return source in self._failures and self._level(source, now) >= FAILURES

    def _level(self, source, now):
        """Failures that still count: each is forgotten after FAILURE_US, one after the other."""
        level, at = self._failures.get(source, (0, now))
        return max(0.0, level - (now - at) / FAILURE_US)
