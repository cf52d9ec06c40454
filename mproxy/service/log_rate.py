"""How often the log may say the same thing, so that no stranger, client or outage fills a disk with it.

Every line takes a token from each of up to four buckets, which fill up again with time:

1. of its event: all sources together;
2. of its event and source (who it is about: the address of its `peer`, else its `session`, else its `source`);
3. a warning or error that says `why`: of its event, source and reason;
4. a session that loses its carrier and gets one: of its event and session, however many sessions a source has.

A line for which one of them is empty is held back and counted there. The next line of its kind that gets through says
`more=N`: that many like it were not written. If none comes, the last one held back is itself written as soon as there
is a token for it. The rates: docs/operations.md, "How often".

Takes the time as an argument, in seconds.
"""

from __future__ import annotations

from mproxy.policy.sources import source_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    Fields = dict[str, object]
    Line = tuple[str, str, Fields]  # level, event
    HeldLine = tuple[str, str, Fields, int]  # the same, and how many like it were not written before it
    Key = tuple[str, ...]  # of a bucket: event[, source[, why]]
    Rate = tuple[int, float]  # lines at once, seconds until one more

# (lines at once, seconds until one more). A reason once a minute is enough to see that it goes on; one source can write
# 8,640 warnings a day, some 1.5 MB, and all sources together ten times that.
REASON = (5, 60.0)
SOURCE_WARNING, SOURCE_INFO = (20, 10.0), (100, 1.0)
EVENT_WARNING, EVENT_INFO = (200, 1.0), (1000, 0.05)

# One line says that a server is out of reach, however many dials it took to find out.
ONCE = {"dial-failed": (1, 60.0)}

# A change of state and not a complaint: its reason is as good as another.
STATES = {"lost", "ended"}

# On a path that comes and goes every few seconds these say nothing new, except to who looks for a fault. How many there
# were `mproxy status` knows.
FLAPS = {"lost", "resumed", "moved"}
FLAP = (12, 60.0)

# What the user of a transfer has asked for: a line for each file.
FILES = {"sent", "left-out"}
FILE_OF_A_PEER = {"received": (10_000, 0.05)}

# Characters of a reason; the rest may be a peer's words.
REASON_CHARACTERS = 120

# Buckets of sources and reasons that are remembered; the least recent is forgotten.
MOST_BUCKETS = 2048


NO_LINE: Line = ("", "", {})


class Bucket:
    """Tokens of one kind of line, and what was held back for want of one."""

    __slots__ = ("tokens", "at", "held", "line")

    def __init__(self, burst: int, now: float) -> None:
        self.tokens = float(burst)
        self.at = now
        self.held = 0     # lines held back since the last one that was written
        self.line = NO_LINE  # the last line held back

    def fill(self, burst: int, every_s: float, now: float) -> bool:
        """Whether there is a token at `now`. If the clock was put back, none accrue until it is where it was."""
        self.tokens = min(burst, self.tokens + max(0.0, now - self.at) / every_s)
        self.at = now
        return self.tokens >= 1 - 1e-9


class Restraint:
    """Decides which lines are written and which held back; `with_flaps`: those of FLAPS have no rate of their own."""

    def __init__(self, with_flaps: bool = False) -> None:
        self._with_flaps = with_flaps
        self._events: dict[Key, Bucket] = {}
        self._buckets: dict[Key, Bucket] = {}  # of sources and reasons, least recent first

    def admit(self, level: str, event: str, fields: Fields, now: float) -> int | None:
        """None if the line is to be held back; else how many like it were not written before it."""
        if event in FILES:
            return 0
        asked = [(self._bucket(key, rate, now), rate) for key, rate in self._rates(level, event, fields)]
        for bucket, (burst, every_s) in asked:
            if not bucket.fill(burst, every_s, now):
                bucket.held += 1
                bucket.line = level, event, fields
                return None
        more = 0
        for bucket, _rate in asked:
            bucket.tokens -= 1
            more += bucket.held
            bucket.held, bucket.line = 0, NO_LINE
        return more

    def _rates(self, level: str, event: str, fields: Fields) -> list[tuple[Key, Rate]]:
        asked = rates(level, event, fields)
        if event in FLAPS and fields.get("session") and not self._with_flaps:
            asked.append(((event, "session", str(fields["session"])), FLAP))
        return asked

    def _bucket(self, key: Key, rate: Rate, now: float) -> Bucket:
        if len(key) == 1:
            return self._events.setdefault(key, Bucket(rate[0], now))
        bucket = self._buckets.pop(key, None)
        if bucket is None:
            if len(self._buckets) >= MOST_BUCKETS:
                self._forget(next(iter(self._buckets)))
            bucket = Bucket(rate[0], now)
        self._buckets[key] = bucket
        return bucket

    def _forget(self, key: Key) -> None:
        """Drop a bucket; what it has held back is counted for its event."""
        bucket = self._buckets.pop(key)
        if bucket.held:
            of_event = self._events[key[:1]]
            of_event.held += bucket.held
            of_event.line = bucket.line

    @property
    def holding(self) -> bool:
        """Whether there are lines held back that were not written yet."""
        return bool(self._held())

    def _held(self) -> list[Bucket]:
        return [bucket for some in (self._events, self._buckets) for bucket in some.values() if bucket.held]

    def due(self, now: float) -> list[HeldLine]:
        """Held lines that may be written now."""
        told = []
        for bucket in self._held():
            if bucket.held:  # an earlier one may have written it
                bucket.held -= 1
                line = bucket.line
                more = self.admit(line[0], line[1], line[2], now)
                if more is not None:
                    told.append((*line, more))
        return told

    def forget(self, event: str) -> None:
        """Drop what is held back of an event; its rate stays."""
        for bucket in self._held():
            if bucket.line[1] == event:
                bucket.held, bucket.line = 0, NO_LINE

    def rest(self) -> list[HeldLine]:
        """All that is held back, one line for each event; nothing is held back afterwards."""
        lines: dict[str, HeldLine] = {}
        for bucket in self._held():
            level, event, fields = bucket.line
            lines[event] = (level, event, fields, bucket.held + (lines[event][3] if event in lines else 0))
            bucket.held, bucket.line = 0, NO_LINE
        return [(level, event, fields, held - 1) for level, event, fields, held in lines.values()]


def rates(level: str, event: str, fields: Fields) -> list[tuple[Key, Rate]]:
    """The buckets of a line, the most general first, without that of FLAPS."""
    complaint = level in ("warning", "error") and event not in STATES
    source = source_of_line(fields)
    asked: list[tuple[Key, Rate]] = [((event,), EVENT_WARNING if complaint else FILE_OF_A_PEER.get(event, EVENT_INFO))]
    if source:
        asked.append(((event, source), SOURCE_WARNING if complaint else FILE_OF_A_PEER.get(event, SOURCE_INFO)))
    if complaint and fields.get("why") is not None:
        asked.append(((event, source, str(fields["why"])[:REASON_CHARACTERS]), ONCE.get(event, REASON)))
    return asked


def source_of_line(fields: Fields) -> str:
    """Whom a line is about, without the port, which differs with every connection. Empty: nobody in particular."""
    peer = fields.get("peer")
    if peer:
        host = str(peer).rpartition(":")[0].strip("[]")
        try:
            return source_of(host)
        except (OSError, ValueError):
            return host
    return str(fields.get("session") or fields.get("source") or "")
