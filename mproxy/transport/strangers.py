"""Peers that have dialled and shown nothing yet: a table of their own, so that nobody without the key keeps those who
have it from their places.

A stranger costs its source nothing but a few packets, so there may be any number of them. The table is bounded. When it
is full the source with the most entries gives one up: one that is over if it has one, otherwise a random one, because
if the oldest or the newest always went, somebody who sends at the right pace could push it out. So a source's share is
what the others leave, and one that dials once is never pushed out by one that dials a thousand times.
"""

from __future__ import annotations

import random

MOST_STRANGERS = 1024  # a handshake takes a round trip, so that is a thousand newcomers a second at one second


class Strangers:
    """Ids of links, by the source they come from (bytes)."""

    def __init__(self, most: int = MOST_STRANGERS, chooser: random.Random | None = None) -> None:
        self._most = most
        self._random = chooser or random.SystemRandom()
        self._sources: dict[int, bytes] = {}  # id -> source
        self._links: dict[bytes, dict[int, bool]] = {}  # source -> {id: over}

    def __len__(self) -> int:
        return len(self._sources)

    def add(self, link_id: int, source: bytes) -> int | None:
        """Add a newcomer; returns the id of the stranger that has to go for it, or None."""
        victim = self._choose() if len(self._sources) >= self._most else None
        if victim is not None:
            self.remove(victim)
        self._sources[link_id] = source
        self._links.setdefault(source, {})[link_id] = False
        return victim

    def end(self, link_id: int) -> None:
        """The connection has ended, and is kept only to repeat why."""
        if link_id in self._sources:
            self._links[self._sources[link_id]][link_id] = True

    def remove(self, link_id: int) -> None:
        """It is gone, or no longer a stranger."""
        source = self._sources.pop(link_id, None)
        if source is not None:
            del self._links[source][link_id]
            if not self._links[source]:
                del self._links[source]

    def _choose(self) -> int:
        held = max(map(len, self._links.values()))
        links = self._random.choice([links for links in self._links.values() if len(links) == held])
        over = [link_id for link_id, is_over in links.items() if is_over]
        return over[0] if over else self._random.choice(list(links))
