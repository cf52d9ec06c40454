"""Who may have how many sessions, and whose session gives way when all places are taken.

Places belong to *holders*: to keys if only some keys may come in, else to sources (`mproxy.policy.sources`), because
then keys cost nothing. A session gives way to a newcomer if it is the newcomer's own, or if its holder has more than
the newcomer, the one with the most first; of a holder's sessions, in this order:

1. without streams and without a carrier: nothing is lost;
2. without a carrier: the one that has been without one for longest;
3. without streams, and not just begun: its cproxy can begin another one when it wants to.

If there is none of these, what a holder has beyond half of all places is only lent: its newest session gives way
although it is in use, unless the key's line allows it that many. A key's own bound is kept by the first two rules,
within the key.
"""

from __future__ import annotations

from mproxy._wire import CloseCode
from mproxy.ground.errors import PeerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable
    from typing import Generic, Protocol, TypeVar

    class Placed(Protocol):
        """What a session is asked; times are microseconds of one clock."""

        @property
        def streams(self) -> int:
            """Open now."""
        @property
        def attached(self) -> bool:
            """There is a carrier."""
        @property
        def lost_at(self) -> int | None:
            """When the last carrier went."""
        @property
        def began_at(self) -> int: ...
        @property
        def lent(self) -> bool:
            """No line gave its holder the place."""

    Session = TypeVar("Session", bound=Placed)
else:
    Generic, Session = {None: object}, None

# A session that has just begun is about to open its first stream.
YOUNG_US = 5_000_000

# By default a key may have three quarters of the places; small numbers are not divided.
KEY_SHARE = 0.75
LEAST_QUOTA = 64


def key_quota(most: int) -> int:
    """How many of `most` sessions one key may have, unless its line says otherwise."""
    return min(most, max(LEAST_QUOTA, int(most * KEY_SHARE)))


class Places(Generic[Session]):
    """Sessions by holder; `Placed` is what they are asked."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: dict[Hashable, dict[Session, None]] = {}  # holder -> its sessions, oldest first, as keys of a dict
        self._count = 0

    def add(self, session: Session, holder: Hashable) -> None:
        """The session takes a place of that holder."""
        self._held.setdefault(holder, {})[session] = None
        self._count += 1

    def remove(self, session: Session, holder: Hashable) -> None:
        """The session gives its place back."""
        held = self._held.get(holder, {})
        if session in held:
            del held[session]
            self._count -= 1
            if not held:
                del self._held[holder]

    def held(self, holder: Hashable) -> list[Session]:
        """The holder's sessions, oldest first."""
        return list(self._held.get(holder, ()))

    def make_room(self, holder: Hashable, quota: int | None, now: int) -> Session | None:
        """The session that gives way to a new one of `holder`; None if there is room, PeerError if none has to.

        `quota`: how many sessions the holder may have; None: no bound of its own.
        """
        own = len(self._held.get(holder, ()))
        if quota is not None and own >= quota:
            gone = _yielding(self.held(holder), now, idle_too=False)
            if gone is None:
                raise PeerError(CloseCode.TOO_MANY, (
                    f"the key has reached its limit of {quota} sessions (max-sessions= in authorized_keys)"))
            return gone
        if self._count < self._most:
            return None
        for other in sorted(self._held, key=lambda each: len(self._held[each]), reverse=True):
            if other == holder or len(self._held[other]) > own:
                gone = _yielding(self.held(other), now, idle_too=True)
                if gone is not None:
                    return gone
        largest = max(self._held, key=lambda each: len(self._held[each]))
        newest = self.held(largest)[-1]
        if largest != holder and len(self._held[largest]) > self._most // 2 and newest.lent:
            return newest
        raise PeerError(CloseCode.TOO_MANY, f"sproxy has reached its limit of {self._count} sessions (--max-sessions)")


def _yielding(sessions: list[Session], now: int, idle_too: bool) -> Session | None:
    """The one of a holder's sessions that gives way first, or None."""
    away = [session for session in sessions if not session.attached]
    unused = [session for session in away if not session.streams]
    if unused or away:
        return min(unused or away, key=lambda session: session.lost_at or session.began_at)
    if idle_too:
        return next((session for session in sessions
                     if not session.streams and now - session.began_at >= YOUNG_US), None)
    return None
