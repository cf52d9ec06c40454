"""The table of `mproxy top`: what programs told twice, as rows with rates, sorted, in as many columns as fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mproxy.ground.words import counted, say_duration
from mproxy.programs.relay_status import say_bytes, say_bytes_short

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Facts = dict[str, Any]
    RowKey = tuple[int, str]


class TopRow:
    """One line: a session, a transfer, or a program as a whole."""

    __slots__ = ("down", "longest_s", "outages", "peer", "program", "received", "round_trip_ms", "sent", "session",
                 "since_s", "state", "streams", "up", "waiting")

    def __init__(self, program: Facts, session: str, peer: str, state: str, since_s: float | None) -> None:
        self.program = program
        self.session = session   # a session's name, a transfer's peer, or nothing
        self.peer = peer
        self.state = state
        self.since_s = since_s
        self.round_trip_ms: float | None = None
        self.streams: int | None = None
        self.sent = self.received = 0       # bytes so far
        self.up = self.down = 0.0           # bytes a second since the look before
        self.waiting: int | None = None     # bytes
        self.outages: int | None = None
        self.longest_s: float | None = None

    @property
    def key(self) -> RowKey:
        """Which row it is, from one look to the next."""
        return self.program["pid"], self.session

    @property
    def is_session(self) -> bool:
        """It can be killed, and asked why."""
        return bool(self.session) and "sessions" in self.program


def rows_of(program: Facts) -> list[TopRow]:
    """The rows of one program; one of its own when it has neither sessions nor transfers."""
    rows = [_program_row(program)]
    if program["program"] in ("recv", "send"):
        rows = [_transfer_row(program, transfer) for transfer in program["transfers"]] or rows
    elif program["program"] != "relay":
        rows = [_session_row(program, session) for session in program["sessions"]] or rows
    return rows


def _session_row(program: Facts, session: Facts) -> TopRow:
    row = TopRow(program, session["session"], session["comment"] or session["peer"], session["state"],
                 session["since_s"])
    row.round_trip_ms = session["round_trip_ms"]
    row.streams = session["streams"]
    row.sent, row.received = session["sent_bytes"], session["received_bytes"]
    row.waiting = session["unacknowledged_bytes"] + session["undelivered_bytes"]
    row.outages, row.longest_s = session["outages"]["count"], session["outages"]["longest_s"]
    return row


def _transfer_row(program: Facts, transfer: Facts) -> TopRow:
    row = TopRow(program, transfer["peer"], transfer["peer"], "moving", transfer["age_s"])
    row.waiting = transfer["total_bytes"] and transfer["total_bytes"] - transfer["moved_bytes"] - transfer["kept_bytes"]
    if program["program"] == "send":
        row.sent = transfer["moved_bytes"]
    else:
        row.received = transfer["moved_bytes"]
    return row


def _program_row(program: Facts) -> TopRow:
    row = TopRow(program, "", "", program["state"] if program["state"] != "running" else "idle", program["uptime_s"])
    if program["program"] == "relay":
        tcp, udp = program["totals"]["tcp"], program["totals"]["udp"]
        row.state, row.peer = program["state"], counted(len(program["rules"]), "rule")
        row.streams = tcp.get("connections", 0) + udp.get("sessions", 0)
        row.sent = tcp.get("bytes_in", 0) + udp.get("bytes_in", 0)
        row.received = tcp.get("bytes_out", 0) + udp.get("bytes_out", 0)
    return row


class TopColumn:
    """One column: its title, its width, what it says of a row, and what it is sorted by."""

    def __init__(self, title: str, width: int, rank: int, key: Callable[[TopRow], Any],
                 text: Callable[[TopRow], str] | None = None) -> None:
        self.title = title
        self.width = width
        self.rank = rank          # the highest goes first when the screen is narrow
        self.key = key            # None: unknown, at the end in either order
        self.is_text = text is None
        self._text = text or key

    def say(self, row: TopRow) -> str:
        """The cell, as wide as the column."""
        text: str = self._text(row)
        if len(text) > self.width:
            text = text[:self.width - 1] + "~"
        return text.ljust(self.width) if self.is_text else text.rjust(self.width)

    def head(self) -> str:
        """The title, as wide as the column."""
        return self.title.ljust(self.width) if self.is_text else self.title.rjust(self.width)


def _or_dash(value: float | None, say: Callable[[Any], str]) -> str:
    return "-" if value is None else say(value)


COLUMNS = (
    TopColumn("PROGRAM", 20, 7, lambda row: row.program["name"]),
    TopColumn("SESSION", 8, 0, lambda row: row.session if row.is_session else "-"),
    TopColumn("PEER", 21, 2, lambda row: row.peer),
    TopColumn("STATE", 10, 1, lambda row: row.state),
    TopColumn("FOR", 8, 6, lambda row: row.since_s, lambda row: _or_dash(row.since_s, say_duration)),
    TopColumn("RTT ms", 7, 8, lambda row: row.round_trip_ms,
              lambda row: _or_dash(row.round_trip_ms, lambda value: f"{value:.1f}")),
    TopColumn("STREAMS", 7, 5, lambda row: row.streams, lambda row: _or_dash(row.streams, str)),
    TopColumn("UP/s", 7, 4, lambda row: row.up, lambda row: say_bytes_short(int(row.up))),
    TopColumn("DOWN/s", 7, 3, lambda row: row.down, lambda row: say_bytes_short(int(row.down))),
    TopColumn("WAITING", 7, 9, lambda row: row.waiting, lambda row: _or_dash(row.waiting, say_bytes_short)),
    TopColumn("OUTAGES", 7, 10, lambda row: row.outages, lambda row: _or_dash(row.outages, str)),
    TopColumn("LONGEST", 7, 11, lambda row: row.longest_s, lambda row: _or_dash(row.longest_s, say_duration)),
)


def columns_within(width: int) -> list[TopColumn]:
    """The most important columns that fit, with a blank between them, in their order."""
    chosen: set[int] = set()
    for number in sorted(range(len(COLUMNS)), key=lambda number: COLUMNS[number].rank):
        if sum(COLUMNS[each].width + 1 for each in (*chosen, number)) - 1 > width:
            break
        chosen.add(number)
    return [COLUMNS[number] for number in sorted(chosen)]


class TopTable:
    """Rows of the last look, sorted; one of them is chosen, and stays so while it is there."""

    def __init__(self) -> None:
        self.rows: list[TopRow] = []
        self.programs = 0
        self.sorted_by = COLUMNS[8]
        self.reverse = False
        self.chosen = 0   # its place among the rows
        self._looked_at: float | None = None
        self._moved: dict[RowKey, tuple[int, int]] = {}  # bytes (sent, received) at the last look

    def say_none(self) -> str:
        """What stands where no row is."""
        if self._looked_at is None:
            return "asking what runs here ..."
        return "nothing is running: no cproxy, sproxy, relay, recv or send of this user is here"

    def update(self, found: Sequence[Facts], now: float) -> None:
        """Another look at all programs, at `now` (seconds)."""
        rows: list[TopRow] = []
        for program in found:
            rows += rows_of(program)
        elapsed = now - (self._looked_at or 0.0)
        for row in rows:
            before = self._moved.get(row.key)
            if before is not None and elapsed > 0:
                row.up = max(0, row.sent - before[0]) / elapsed
                row.down = max(0, row.received - before[1]) / elapsed
        self._moved = {row.key: (row.sent, row.received) for row in rows}
        self._looked_at = now
        self.programs = len(found)
        self._take(rows)

    def sort_by(self, column: TopColumn, reverse: bool = False) -> None:
        """Numbers have the largest first, text the first of the alphabet; `reverse` the other way."""
        self.sorted_by, self.reverse = column, reverse
        self._take(self.rows)

    def _take(self, rows: list[TopRow]) -> None:
        chosen = self.row.key if self.row is not None else None
        key, downwards = self.sorted_by.key, self.sorted_by.is_text == self.reverse
        known = [row for row in rows if key(row) is not None]
        known.sort(key=lambda row: row.key)
        known.sort(key=key, reverse=downwards)
        self.rows = known + [row for row in rows if key(row) is None]
        places = [place for place, row in enumerate(self.rows) if row.key == chosen]
        self.choose(places[0] if places else self.chosen)

    @property
    def row(self) -> TopRow | None:
        """The chosen one."""
        return self.rows[self.chosen] if self.chosen < len(self.rows) else None

    def choose(self, place: int) -> None:
        """Choose the row there, or the nearest one."""
        self.chosen = max(0, min(place, len(self.rows) - 1))

    def summary(self) -> str:
        """All rows in one line."""
        sessions = [row for row in self.rows if row.is_session]
        away = sum(row.state == "away" for row in sessions)
        streams = sum(row.streams or 0 for row in self.rows)
        return (f"{self.programs} running, {counted(len(sessions), 'session')} ({away} away),"
                f" {counted(streams, 'stream')},"
                f" up {say_bytes(sum(row.up for row in self.rows))}/s,"
                f" down {say_bytes(sum(row.down for row in self.rows))}/s")
