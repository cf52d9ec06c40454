"""Connections that wait to be let in, and which of them gives way when there are too many.

A bounded crowd of guests, each of which belongs to a source and has a rank. When there are too many, one of the lowest
rank goes, but every rank keeps a part: whoever fills a high one does not shut out the others. When one source has more
than its share, one of that source goes. Which of several: `choose` decides.
"""

from __future__ import annotations

import os
from enum import IntEnum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Generic, TypeVar
    Guest = TypeVar("Guest")
    Key = TypeVar("Key")
else:
    Generic, Guest = {None: object}, None
    from collections.abc import Callable, Iterable, Iterator, Sequence

# One source may have a quarter of a crowd, but at least this many; a source with known people half.
LEAST_SHARE = 8

# Every rank has an eighth of the places, whatever the ranks above it do.
PART = 8

# Most for one tag or session: its cproxy dials once, and again when that takes long.
TAG_SHARE = 2


class Rank(IntEnum):
    """How much is known of a guest; lower ranks go first."""

    STRANGER = 0   # speaks our protocol
    RETURNING = 1  # shows a tag that this sproxy has made
    PRESENT = 2    # shows the tag of a session that is here
    PROVEN = 3     # has proven to hold a session; only the rest of its list is missing


class Crowd(Generic[Guest]):
    """`most`: guests at once. `choose(guests)`: which of a list, oldest first and never empty, has to go."""

    def __init__(self, most: int, choose: Callable[[list[Guest]], Guest]) -> None:
        self.most = most
        self._choose = choose
        self._places: dict[Guest, tuple[str | bytes, Rank]] = {}  # guest -> (source, rank)
        self._ranks: dict[Rank, dict[Guest, None]] = {}  # rank -> guests, oldest first, as keys of a dict
        self._sources: dict[str | bytes, dict[Guest, None]] = {}  # source -> guests, the same

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Guest]:
        return iter(list(self._places))

    def add(self, guest: Guest, source: str | bytes, share: int, rank: Rank = Rank.STRANGER) -> Guest | None:
        """Take in a guest; returns the one that has to go for it, perhaps the guest itself, or None. `remove` that
        one."""
        self.remove(guest)
        self._places[guest] = source, rank
        self._ranks.setdefault(rank, {})[guest] = None
        same = self._sources.setdefault(source, {})
        same[guest] = None
        if len(same) > share:
            lowest = min(self._places[other][1] for other in same)
            return self._pick(guest, (other for other in same if self._places[other][1] == lowest))
        if len(self._places) > self.most:
            beyond = [rank for rank, guests in self._ranks.items() if len(guests) > self.most // PART]
            return self._pick(guest, self._ranks[min(beyond)])
        return None

    def _pick(self, newcomer: Guest, guests: Iterable[Guest]) -> Guest:
        others = [guest for guest in guests if guest is not newcomer]
        return self._choose(others) if others else newcomer

    def remove(self, guest: Guest) -> None:
        """The guest is gone, or has moved on."""
        if guest in self._places:
            source, rank = self._places.pop(guest)
            _take_out(self._sources, source, guest)
            _take_out(self._ranks, rank, guest)

    def count(self, source: str | bytes) -> int:
        """How many guests are from that source."""
        return len(self._sources.get(source, ()))


def _take_out(table: dict[Key, dict[Guest, None]], key: Key, guest: Guest) -> None:
    del table[key][guest]
    if not table[key]:
        del table[key]


def share_of(most: int, known: bool) -> int:
    """How many of `most` guests one source may have; more if its people are `known`."""
    return min(most, max(LEAST_SHARE, most // (2 if known else 4)))


def at_random(guests: Sequence[Guest]) -> Guest:
    """A random one: nobody can aim, and whoever is quicker than a flood gets through."""
    return guests[int.from_bytes(os.urandom(4), "big") % len(guests)]
