"""What happened to one session since somebody looks: samples of its figures, and its outages. Bounded, pure."""

from __future__ import annotations

from array import array
from math import isnan, nan

TYPE_CHECKING = False
if TYPE_CHECKING:
    # [began, ended or None while it lasts, why, how many outages it stands for]; times as the wall clock has them.
    Gap = list[float | str | int | None]

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
    """The outages of a session, as far as they were seen or can be told from its counters."""

    __slots__ = ("_counted", "_total_s", "gaps")

    def __init__(self) -> None:
        self.gaps: list[Gap] = []
        self._counted: int | None = None  # outages so far by the last look; None: there was none
        self._total_s = 0.0

    def see(self, away: bool, since: float, counted: int, total_s: float, why: str) -> None:
        """What a look has found: away or connected `since`; outages `counted` and their length, of all its life."""
        newest = self.gaps[-1] if self.gaps else None
        lasts = newest is not None and newest[1] is None
        if away:
            if newest is not None and lasts and abs(float(newest[0] or 0) - since) <= SAME_S:
                newest[2] = why
            else:
                self.close(since)
                self._add([since, None, why, 1])
        elif lasts:
            self.close(since)
        elif self._counted is not None and counted > self._counted:
            # Come and gone between two looks.
            length = max(0.0, total_s - self._total_s)
            self._add([round(since - length, 3), since, "shorter than a look at it", counted - self._counted])
        self._counted, self._total_s = counted, total_s

    def know(self, began: float, ended: float | None, why: str) -> None:
        """One as its session's program remembers it; ended None while it lasts."""
        for gap in reversed(self.gaps):
            if abs(float(gap[0] or 0) - began) <= SAME_S:
                gap[1], gap[2] = ended if gap[1] is None else gap[1], why
                return
        self._add([began, ended, why, 1])

    def close(self, at: float) -> None:
        """The one that lasts has ended, or its session has."""
        if self.gaps and self.gaps[-1][1] is None:
            self.gaps[-1][1] = at

    def copy(self) -> list[Gap]:
        """For whoever keeps what they are now."""
        return [list(gap) for gap in self.gaps]

    def _add(self, gap: Gap) -> None:
        self.gaps.append(gap)
        del self.gaps[:-MOST_GAPS]
