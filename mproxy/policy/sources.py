"""Where connections come from: how often a source may fail to show who it is, and whether there are known people.

A source is an IPv4 address, or the first 64 bits of an IPv6 address, which is what one customer has (RFC 6177). Behind
one address there may be a whole office: while known people are there it is heard, whatever its strangers do. Takes the
time as an argument; remembers at most MOST_SOURCES sources of each kind.
"""

from __future__ import annotations

import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar
    Value = TypeVar("Value")

# Failed attempts that a source may make at once, and how long it takes until it may make one more. A client whose key
# is not authorised dials less and less often; many of them behind one address still learn why.
FAILURES = 30
FAILURE_US = 1_000_000

# How long there are known people at a source after a session began, was resumed or lost its carrier there.
KNOWN_US = 8 * 3_600_000_000

MOST_SOURCES = 4096


def source_of(host: str) -> str:
    """What counts as one source: `10.0.0.1`, or `fd00:1:2:3::/64`. `host`: numeric, as accept(2) gives it."""
    bare = host.partition("%")[0]
    if ":" not in bare:
        return bare
    packed = socket.inet_pton(socket.AF_INET6, bare)
    if packed.startswith(bytes(10) + b"\xff\xff"):
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return socket.inet_ntop(socket.AF_INET6, packed[:8] + bytes(8)) + "/64"


class Sources:
    """What is remembered of each source."""

    def __init__(self) -> None:
        # By source, least recent first.
        self._failures: dict[str, tuple[float, int]] = {}  # (that count, when that was so)
        self._welcomed: dict[str, int] = {}  # when known people were last there

    def welcomed(self, source: str, now: int) -> None:
        """There is a session at that source, or was just now."""
        _remember(self._welcomed, source, now)

    def known(self, source: str, now: int) -> bool:
        """Whether there were sessions in the last KNOWN_US."""
        return source in self._welcomed and now - self._welcomed[source] < KNOWN_US

    def failed(self, source: str, now: int) -> bool:
        """An attempt was refused; True if this one decides that no more are served for a while."""
        before = self._level(source, now)
        _remember(self._failures, source, (min(before + 1, 2 * FAILURES), now))
        return before < FAILURES <= before + 1 and not self.known(source, now)

    def blocked(self, source: str, now: int) -> bool:
        """Whether strangers from there are turned away unheard."""
        return (source in self._failures and self._level(source, now) >= FAILURES
                and not self.known(source, now))

    def _level(self, source: str, now: int) -> float:
        """Failures that still count: one is forgotten every FAILURE_US."""
        level, at = self._failures.get(source, (0, now))
        return max(0.0, level - (now - at) / FAILURE_US)


def _remember(table: dict[str, Value], source: str, value: Value) -> None:
    """Put it last; the one not heard of for longest makes room."""
    table.pop(source, None)
    if len(table) >= MOST_SOURCES:
        del table[next(iter(table))]
    table[source] = value
