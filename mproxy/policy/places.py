"""Who may have how many sessions, and whose session gives way when all places are taken.

Places belong to *holders*: to keys where only some keys may come in, else to sources (`mproxy.policy.sources`), because
keys cost nothing there. A session gives way to a newcomer when it is the newcomer's own or when its holder has more
than the newcomer, the one with the most first; of a holder's sessions, in this order:

1. without streams and without a carrier: nothing is lost;
2. without a carrier: the one that has been without for longest;
3. without streams, and not just begun: its cproxy begins another one when it wants to.

When there is none of these, what a holder has beyond half of all places is lent: its newest session gives way although
it is in use, unless the key's line gave it so many. A key's own bound is kept by the first two rules within the key.
"""

from mproxy._wire import CloseCode
from mproxy.ground.errors import PeerError

# A session that has just begun is about to open its first stream.
YOUNG_US = 5_000_000

# Where nothing else is said a key may have three quarters of the places; small numbers are not divided.
KEY_SHARE = 0.75
LEAST_QUOTA = 64


def key_quota(most):
    """Sessions that one key may have of `most`, unless its line says otherwise."""
    return min(most, max(LEAST_QUOTA, int(most * KEY_SHARE)))


class Places:
    """Sessions by holder; of a session is asked: `streams` (open now), `attached` (there is a carrier), `lost_at` (when
    the last one went) and `began_at`, in microseconds of one clock, and `lent` (no line gave its holder the place)."""

    def __init__(self, most):
        self._most = most
        self._held = {}  # holder -> its sessions, oldest first, as keys of a dict
        self._count = 0

    def add(self, session, holder):
        """A session begins."""
        self._held.setdefault(holder, {})[session] = None
        self._count += 1

    def remove(self, session, holder):
        """A session has ended."""
        held = self._held.get(holder, {})
        if session in held:
            del held[session]
            self._count -= 1
            if not held:
                del self._held[holder]

    def held(self, holder):
        """The holder's sessions, oldest first."""
        return list(self._held.get(holder, ()))

    def make_room(self, holder, quota, now):
        """The session that gives way to a new one of `holder`, None when there is room; PeerError when none has to.

        `quota`: sessions the holder may have, None: no bound of its own.
        """
        own = self.held(holder)
        if quota is not None and len(own) >= quota:
            gone = _yielding(own, now, idle_too=False)
            if gone is None:
                raise PeerError(CloseCode.TOO_MANY, (
                    f"the key has reached its limit of {quota} sessions (max-sessions= in authorized_keys)"))
            return gone
        if self._count < self._most:
            return None
        for other in sorted(self._held, key=lambda each: len(self._held[each]), reverse=True):
            if other == holder or len(self._held[other]) > len(own):
                gone = _yielding(self.held(other), now, idle_too=True)
                if gone is not None:
                    return gone
        largest = max(self._held, key=lambda each: len(self._held[each]))
        newest = self.held(largest)[-1]
        if largest != holder and len(self._held[largest]) > self._most // 2 and newest.lent:
            return newest
        raise PeerError(CloseCode.TOO_MANY, f"sproxy has reached its limit of {self._count} sessions (--max-sessions)")


def _yielding(sessions, now, idle_too):
    """The one of a holder's sessions that gives way first, or None."""
    away = [session for session in sessions if not session.attached]
    unused = [session for session in away if not session.streams]
    if unused or away:
        return min(unused or away, key=lambda session: session.lost_at or session.began_at)
    if idle_too:
        return next((session for session in sessions
                     if not session.streams and now - session.began_at >= YOUNG_US), None)
    return None
