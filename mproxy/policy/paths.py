"""What cproxy remembers of the ways to sproxy, from one carrier to the next.

1. The address that last welcomed us is tried beside every lookup: the name service may be down, or lie. Whoever is at
   that address now must prove the same key, or the session's secret, so nothing is lost by trying.
2. An address where something else answered, or nothing after the connection was made, is tried after the others. None
   is left out for a while, as the relay does (relay/_balance): there many callers share what one has found, here is a
   single caller, who takes whichever address answers and pauses between rounds anyway. Where another sproxy with the
   same key answered (policy/site) the others get ELSEWHERE_US, as long as the session lasts: the one that has the
   session may be farther away, and whoever connects first is the one that is asked.
3. A path may drop full packets and pass small ones (a router drops what is too large, and filters the ICMP messages
   that would say so: RFC 2923). Each carrier that was stuck like this makes the segments of the next one smaller, at
   both ends: ours limits what we send, and what we say in our SYN limits what the peer sends. After a while full ones
   are tried again, later each time. A path is an address of the peer and a network of ours, not an address in it.
4. When the kernel's route leads over another device than the last carrier used, that device is tried, too: the better
   route may lead nowhere.
"""

from __future__ import annotations

import socket
from collections import namedtuple

from mproxy.policy.stagger import NEXT_US

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from mproxy.ground.shapes import Sockaddr

# Bytes of a segment (TCP_MAXSEG, tcp(7)), from one stuck carrier to the next: fits tunnels within tunnels, then a path
# of 1,200 bytes with all its headers, then what every host must accept (RFC 9293, section 3.7.1).
SEGMENTS = (1200, 1000, 536)

# How long small segments are used before full ones are tried again; twice as long each time.
SMALL_US = 10 * 60_000_000
SMALL_MOST_US = 24 * 3600 * 1_000_000

# A further sign that proves nothing by itself counts if it is at most this long after the one before.
SIGN_US = 60_000_000

# The head start of the others before an address where another sproxy answered: a SYN that is lost is repeated by then.
ELSEWHERE_US = 2_000_000

MOST_PATHS = 64


class Way(namedtuple("Way", "family address device", defaults=(None,))):
    """Where to connect: address family, numeric sockaddr, device to bind to (None: by route)."""

    __slots__ = ()
    family: int
    address: Sockaddr
    device: str | None

    if TYPE_CHECKING:
        def __new__(cls, family: int, address: Sockaddr, device: str | None = None) -> Self: ...


class Paths:
    """The memory of one cproxy. Times are microseconds of the loop's clock."""

    def __init__(self) -> None:
        self._good: Way | None = None  # the one that last welcomed us
        self._device: str | None = None  # the device that it used
        self._sour: dict[Way, int] = {}  # how often each connected but led nowhere, since the last welcome
        self._elsewhere: set[Way] = set()  # where another sproxy answered, since the session began
        # By path: small segments, and when the last sign was seen that full packets get lost.
        self._segments: dict[tuple[str, str], _Small] = {}
        self._signs: dict[tuple[str, str], int] = {}

    # ---- addresses

    def welcomed(self, way: Way, device: str | None) -> None:
        """A carrier was set up on this path."""
        self._good, self._device = way._replace(device=None), device
        self._sour = {}

    def recall(self, way: Way | None) -> None:
        """Where a worker before this one was welcomed, if that is known: names may not be resolved just now."""
        self._good = self._good or way

    def led_nowhere(self, way: Way) -> None:
        """What answered was not our sproxy, or the handshake was not answered."""
        if len(self._sour) >= MOST_PATHS:
            self._sour = {}
        self._sour[way] = self._sour.get(way, 0) + 1

    def is_elsewhere(self, way: Way) -> None:
        """What answered is another sproxy with the same key, which does not have the session."""
        if len(self._elsewhere) >= MOST_PATHS:
            self._elsewhere = set()
        self._elsewhere.add(way)

    def session_over(self, proven: bool) -> None:
        """The next session may be at any address. Unless `proven` by a key, only the session's secret had shown that
        our sproxy is at the last one."""
        self._elsewhere = set()
        if not proven:
            self._good = None

    def known(self, device_of: Callable[[Sockaddr], str | None]) -> list[Way]:
        """Ways that need no lookup, the best first; `device_of(address)` gives the kernel's choice of a device."""
        if self._good is None:
            return []
        ways = [self._good]
        if self._device is not None and device_of(self._good.address) != self._device:
            ways.append(self._good._replace(device=self._device))
        return self.in_order(ways)

    def in_order(self, ways: list[Way]) -> list[Way]:
        """Sort `ways`: those that led nowhere come last, and behind them those that led elsewhere."""
        return sorted(ways, key=lambda way: (way in self._elsewhere, self._sour.get(way, 0)))

    def pause_us(self, way: Way) -> int:
        """How much time the way before this one has."""
        return ELSEWHERE_US if way in self._elsewhere else NEXT_US

    def is_sour(self, way: Way) -> bool:
        """Whether it has recently led nowhere."""
        return way in self._sour or way in self._elsewhere

    # ---- segments

    @property
    def narrow(self) -> bool:
        """Whether any path has, or had, small segments."""
        return bool(self._segments)

    def segment_bytes(self, peer: str, local: str | None, now: int) -> int:
        """Most bytes of a segment from address `local` to `peer`; 0: no limit."""
        small = self._segments.get((peer, network_of(local)))
        return SEGMENTS[small.step] if small is not None and now < small.until else 0

    def may_be_stuck(self, peer: str, local: str | None, now: int) -> None:
        """A sign that full packets get lost, which a peer that was stopped gives, too. The first is enough for segments
        that are a little smaller, which cost little; still smaller ones take another sign within SIGN_US."""
        path = peer, network_of(local)
        before = self._signs.pop(path, None)
        if not self.segment_bytes(peer, local, now) or (before is not None and now - before < SIGN_US):
            self.stuck(peer, local, now)
        if len(self._signs) >= MOST_PATHS:
            self._signs = {}
        self._signs[path] = now

    def stuck(self, peer: str, local: str | None, now: int) -> int:
        """A carrier passed only small packets: the next one begins with smaller segments. Returns their size."""
        path = peer, network_of(local)
        small = self._segments.pop(path, None)
        if small is None:
            small = _Small()
        elif now < small.until:
            small.step = min(small.step + 1, len(SEGMENTS) - 1)
        else:
            small.hold_us = min(2 * small.hold_us, SMALL_MOST_US)
        small.until = now + small.hold_us
        if len(self._segments) >= MOST_PATHS:
            del self._segments[next(iter(self._segments))]
        self._segments[path] = small
        return SEGMENTS[small.step]


class _Small:
    """Segments of one path that are smaller than usual."""

    __slots__ = ("step", "until", "hold_us")

    def __init__(self) -> None:
        self.step = 0
        self.until = 0
        self.hold_us = SMALL_US


def network_of(local: str | None) -> str:
    """An address without the part that a host is given anew from time to time: its first 24 bits, or 64 of IPv6."""
    if local is None:
        return ""
    family, length = (socket.AF_INET6, 8) if ":" in local else (socket.AF_INET, 3)
    return socket.inet_pton(family, local.partition("%")[0])[:length].hex()
