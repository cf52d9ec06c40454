"""What is known of every program, session and transfer: rows of fields, and which of them changed when.

Pure: what a program said, and the time, are arguments. The page is given changes alone, so moments are kept as the wall
clock's, which stay the same, instead of as ages, which never do. Memory is bounded whatever the programs say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mproxy.ground.words import escaped
from mproxy.service.status import say_carrier_between
from mproxy.web.history import Gaps, Samples

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Facts = Mapping[str, Any]

# Rows of one kind. Beyond it newcomers are counted and not shown.
MOST_ROWS = 10_000

# An ended session is shown this long, and so many of them at most.
ENDED_KEPT_S = 600.0
MOST_ENDED = 200

# Seconds by which an age may stray between two looks without another moment being meant.
STRAY_S = 0.75

# Between two looks a program's clock goes on by more.
LEAST_S = 0.01

# Characters of a text that a program says: some are a peer's.
LONGEST_TEXT = 500

# Fields of a session that are taken as they are.
_PLAIN = ("session", "state", "why", "peer", "comment", "round_trip_ms", "streams", "streams_ever", "sent_bytes",
          "received_bytes", "resent_bytes", "unacknowledged_bytes", "undelivered_bytes", "memory_bytes", "heartbeat_s")


class Row:
    """Fields, each with the look at which it changed last."""

    __slots__ = ("changed", "fields")

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}
        self.changed: dict[str, int] = {}

    def put(self, look: int, fields: Facts) -> None:
        """Their values by now."""
        for name, value in fields.items():
            if name not in self.fields or self.fields[name] != value:
                self.fields[name] = value
                self.changed[name] = look

    def since(self, look: int) -> dict[str, Any]:
        """The fields that have changed after `look`."""
        return {name: self.fields[name] for name, changed in self.changed.items() if changed > look}

    def moment(self, name: str, value: float | None) -> float | None:
        """`value`, or what the field has, when that is the same moment."""
        old = self.fields.get(name)
        if value is None or (old is not None and abs(old - value) < STRAY_S):
            return old if value is not None else None
        return round(value, 3)


class SessionHistory:
    """What the page is given of a session only when it asks."""

    __slots__ = ("gaps", "in_rate", "moved_at", "out_rate", "received", "round_trip", "sent")

    def __init__(self) -> None:
        self.gaps = Gaps()
        self.in_rate, self.out_rate, self.round_trip = Samples(), Samples(), Samples()
        self.sent = self.received = 0         # bytes at the last look
        self.moved_at: float | None = None    # when that was, on the program's own clock

    def rates(self, at: float, sent: int, received: int) -> tuple[float | None, float | None]:
        """Bytes a second out and in since the last look; `at`: the program's clock."""
        took = at - self.moved_at if self.moved_at is not None else 0.0
        rates: tuple[float | None, float | None] = (None, None)
        if took >= LEAST_S:
            rates = (max(0, sent - self.sent) / took, max(0, received - self.received) / took)
        self.moved_at, self.sent, self.received = at, sent, received
        return rates

    def sample(self, out_rate: float | None, in_rate: float | None, round_trip: float | None) -> None:
        """The figures of this look."""
        self.out_rate.add(out_rate)
        self.in_rate.add(in_rate)
        self.round_trip.add(round_trip)

    def as_json(self) -> dict[str, Any]:
        """All samples, oldest first."""
        return {"out": self.out_rate.values(), "in": self.in_rate.values(), "round_trip": self.round_trip.values()}


class Board:
    """All rows. A look is `begin`, then `take`, `silent` or `lose` for each program."""

    def __init__(self) -> None:
        self.look = 0
        self.now = 0.0
        self.more = 0   # sessions that have no row, for want of room
        self.tables: dict[str, dict[str, Row]] = {"programs": {}, "sessions": {}, "transfers": {}}
        self.sockets: dict[str, str] = {}  # of the programs
        self._histories: dict[str, SessionHistory] = {}
        self._ended: dict[str, float] = {}  # sessions, in the order in which they ended

    def begin(self, now: float) -> None:
        """Another look, at `now` of the wall clock."""
        self.look += 1
        self.now = now
        self.more = 0
        for key, at in list(self._ended.items()):
            if now - at > ENDED_KEPT_S or len(self._ended) > MOST_ENDED:
                self._forget(key)

    # ---- what a look finds

    def take(self, pid: int, socket: str, facts: Facts) -> None:
        """A program's answer to `status`, checked before."""
        key = str(pid)
        row = self._row("programs", key)
        if row is None:
            return
        self.sockets[key] = socket
        sessions, transfers = facts.get("sessions", ()), facts.get("transfers", ())
        row.put(self.look, {
            "pid": pid, "program": _text(facts["program"]), "name": _text(facts["name"]),
            "version": _text(facts["version"]), "uid": facts.get("uid"), "state": _text(facts["state"]),
            "started": row.moment("started", self.now - facts["uptime_s"]), "silent_since": None,
            "where": _text(_say_where(facts)), "sessions": len(sessions), "transfers": len(transfers)})
        self._take_sessions(key, facts, sessions)
        self._take_transfers(key, facts, transfers)

    def silent(self, pid: int, program: str, since: float, why: str) -> None:
        """A program that runs and does not answer."""
        key = str(pid)
        row = self._row("programs", key)
        if row is None:
            return
        if not row.fields:
            row.put(self.look, {"pid": pid, "program": program, "name": program, "version": "", "uid": None,
                                "started": None, "where": "", "sessions": 0, "transfers": 0})
        row.put(self.look, {"state": "silent", "silent_since": row.moment("silent_since", since), "why": _text(why)})
        for session in self._of("sessions", key):
            row = self.tables["sessions"][session]
            if session not in self._ended:
                row.put(self.look, {"state": "unknown", "why": "its program does not answer", "out_rate": None,
                                    "in_rate": None})
                self._histories[session].sample(None, None, None)

    def lose(self, pid: str) -> None:
        """A program that runs no more."""
        self.tables["programs"].pop(pid, None)
        self.sockets.pop(pid, None)
        for key in self._of("sessions", pid):
            self._end(key, "its program has ended")
        for key in self._of("transfers", pid):
            del self.tables["transfers"][key]

    # ---- what the page asks for

    def changes(self, look: int, known: Mapping[str, set[str]]) -> dict[str, Any]:
        """What has changed after `look` for a page that has the rows `known`; -1: all."""
        found: dict[str, Any] = {"look": self.look, "now": round(self.now, 3), "more": self.more}
        for name, rows in self.tables.items():
            news = {key: row.since(look if key in known.get(name, ()) else -1) for key, row in rows.items()}
            found[name] = {key: fields for key, fields in news.items() if fields}
            found[f"gone_{name}"] = sorted(known.get(name, set()) - rows.keys())
        return found

    def histories(self, keys: Iterable[str]) -> dict[str, Any]:
        """The samples of sessions, of those that are there."""
        return {key: self._histories[key].as_json() for key in keys if key in self._histories}

    def session(self, key: str) -> tuple[str, str] | None:
        """(control socket, session as its program calls it) of one that can be asked for; None: it is over."""
        row, socket = self.tables["sessions"].get(key), self.sockets.get(key.partition("/")[0])
        if row is None or socket is None or key in self._ended:
            return None
        return socket, row.fields["session"]

    # ---- rows

    def _row(self, table: str, key: str) -> Row | None:
        rows = self.tables[table]
        if key not in rows:
            if len(rows) >= MOST_ROWS:
                self.more += 1
                return None
            rows[key] = Row()
        return rows[key]

    def _of(self, table: str, pid: str) -> list[str]:
        return [key for key in self.tables[table] if key.partition("/")[0] == pid]

    def _take_sessions(self, pid: str, facts: Facts, sessions: Iterable[Facts]) -> None:
        here = set()
        for session in sessions:
            key = f"{pid}/{_text(session['session'])}"
            row = self._row("sessions", key)
            if row is None:
                continue
            here.add(key)
            self._ended.pop(key, None)
            self._take_session(key, row, facts, session)
        reasons = {f"{pid}/{end['session']}": _text(end["why"]) for end in facts.get("endings", ())}
        for key in self._of("sessions", pid):
            if key not in here and key not in self._ended:
                self._end(key, reasons.get(key, "the session has ended"))

    def _take_session(self, key: str, row: Row, facts: Facts, session: Facts) -> None:
        history = self._histories.setdefault(key, SessionHistory())
        connected = session["state"] == "connected"
        out_rate, in_rate = history.rates(facts["uptime_s"], session["sent_bytes"], session["received_bytes"])
        round_trip = session["round_trip_ms"] if connected else None
        history.sample(out_rate, in_rate, round_trip)
        outages = session["outages"]
        self._take_outages(history.gaps, outages["recent"], lasts=session["state"] == "away")
        quiet = session["last_heard_s"]
        row.put(self.look, {name: _text(session.get(name)) for name in _PLAIN} | {
            "name": _text(facts["name"]), "ended": None, "carrier": _text(_say_carrier(session)),
            "fingerprint": _text(session.get("key")),
            "since": row.moment("since", _ago(self.now, session["since_s"])),
            "began": row.moment("began", _ago(self.now, session["age_s"])),
            "next_try": row.moment("next_try", _ago(self.now, session["next_try_s"], -1)),
            # Once a heartbeat is not worth an update.
            "quiet_since": row.moment("quiet_since", _ago(self.now, quiet)) if (
                quiet is not None and quiet > 2 * session["heartbeat_s"]) else None,
            "out_rate": _rounded(out_rate), "in_rate": _rounded(in_rate),
            "outages": outages["count"], "longest_s": outages["longest_s"] if connected else None,
            "total_s": outages["total_s"] if connected else None, "gaps": history.gaps.copy()})

    def _take_outages(self, gaps: Gaps, recent: Sequence[Facts], lasts: bool) -> None:
        """Those that the program remembers, the newest first."""
        for number, each in reversed(list(enumerate(recent))):
            began = self.now - each["began_s"]
            ended = None if lasts and number == 0 else round(began + each["lasted_s"], 3)
            gaps.know(round(began, 3), ended, _text(each["why"]))

    def _end(self, key: str, why: str) -> None:
        if key in self._ended:
            return
        row = self.tables["sessions"][key]
        if not row.fields.get("session"):  # there never was one
            self._forget(key)
            return
        history = self._histories[key]
        history.gaps.close(self.now)
        row.put(self.look, {"state": "ended", "why": why, "ended": round(self.now, 3), "since": round(self.now, 3),
                            "next_try": None, "out_rate": None, "in_rate": None, "gaps": history.gaps.copy()})
        self._ended[key] = self.now

    def _forget(self, key: str) -> None:
        self.tables["sessions"].pop(key, None)
        self._histories.pop(key, None)
        self._ended.pop(key, None)

    def _take_transfers(self, pid: str, facts: Facts, transfers: Iterable[Facts]) -> None:
        here = set()
        for transfer in transfers:
            began = self.now - transfer["age_s"]
            key = f"{pid}/{_text(transfer['peer'])}"
            row = self._row("transfers", key)
            if row is None:
                continue
            here.add(key)
            row.put(self.look, {
                "program": pid, "name": _text(facts["name"]), "peer": _text(transfer["peer"]),
                "began": row.moment("began", began), "done_bytes": transfer["moved_bytes"] + transfer["kept_bytes"],
                "total_bytes": transfer["total_bytes"], "rate": transfer["bytes_per_second"],
                "left_s": transfer["left_s"]})
        for key in self._of("transfers", pid):
            if key not in here:
                del self.tables["transfers"][key]


def _text(value: Any) -> Any:
    """A value of a program; a text without what would disturb its neighbours, and cut when it is long."""
    return escaped(value[:LONGEST_TEXT]) if isinstance(value, str) else value


def _ago(now: float, age: float | None, sign: int = 1) -> float | None:
    return None if age is None else now - sign * age


def _rounded(rate: float | None) -> int | None:
    return None if rate is None else round(rate)


def _say_where(facts: Facts) -> str:
    """Where a program listens, or what a relay does."""
    if facts["program"] != "relay":
        return ", ".join(facts.get("listening", ()))
    workers = facts["workers"]
    return (f"{len(facts['rules'])} rules, {sum(worker['connections'] for worker in workers)} connections,"
            f" {sum(worker['sessions'] for worker in workers)} flows")


def _say_carrier(session: Facts) -> str:
    carrier = session["carrier"]
    return say_carrier_between(carrier, "\u2192") if carrier is not None else ""
