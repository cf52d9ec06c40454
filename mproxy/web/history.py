"""What happened to one session since somebody looks: samples of its figures, and its outages. Bounded, pure."""

from __future__ import annotations

from array import array
from math import isnan, nan

TYPE_CHECKING = False
if TYPE_CHECKING:
    # [began, ended or None while it lasts, why]; times as the wall clock has them.
    Gap = list[float | str | None]

# Looks, one a second: what a sparkline shows. Three figures of a session are 3.6 KB.
MOST_SAMPLES = 300

# Outages of one session; the oldest go.
MOST_GAPS = 50

# Seconds by which two looks may differ about when the same outage began.
SAME_S = 1.0


class Samples:
    """The newest values of one figure, one for each look; None where it was not known."""

    __slots__ = ("_next", "_values")

    def __init__(self) -> None:
        self._values = array("f")
        self._next = 0

    def add(self, value: float | None) -> None:
        """The value of this look."""
        known = nan if value is None else value
        if len(self._values) < MOST_SAMPLES:
            self._values.append(known)
        else:
            self._values[self._next] = known
            self._next = (self._next + 1) % MOST_SAMPLES

    def values(self) -> list[float | None]:
        """Oldest first, as JSON has them."""
        ordered = self._values[self._next:] + self._values[:self._next]
        return [None if isnan(value) else round(value, 1) for value in ordered]


class Gaps:
    """The outages of a session: those that its program remembers, and longer ago those that it told us of."""

    __slots__ = ("gaps",)

    def __init__(self) -> None:
        self.gaps: list[Gap] = []

    def know(self, began: float, ended: float | None, why: str) -> None:
        """One of them, told again at each look; ended None while it lasts."""
        for gap in reversed(self.gaps):
            if abs(float(gap[0] or 0) - began) <= SAME_S:
                gap[1], gap[2] = ended if gap[1] is None else gap[1], why
                return
        self.gaps.append([began, ended, why])
        del self.gaps[:-MOST_GAPS]

    def close(self, at: float) -> None:
        """The session has ended, and with it the one that lasts."""
        if self.gaps and self.gaps[-1][1] is None:
            self.gaps[-1][1] = at

    def copy(self) -> list[Gap]:
        """For whoever keeps what they are now."""
        return [list(gap) for gap in self.gaps]
