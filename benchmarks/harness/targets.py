"""What must hold, and what is aimed at: the table of promises, checked against the medians of a run."""

from __future__ import annotations

from dataclasses import dataclass

from harness.contenders import DIRECT, HAPROXY, MPROXY, SSH
from harness.results import Results, markdown, number

# The ratios of the row tables, and most promises, are to this contender.
NAMED_PEER = HAPROXY

CPU = "CPU s/GB"
RATE = "Gbit/s"


@dataclass(frozen=True)
class Limit:
    """A bound on mproxy's median: divided by a contender's (`ratio`), less it (`over`), or taken alone."""

    bound: float
    kind: str = "absolute"
    against: str | None = None
    against_row: str | None = None
    at_least: bool = False

    def value(self, results: Results, row: str, metric: str) -> float | None:
        mine = results.figure(row, MPROXY, metric)
        if mine is None or self.kind == "absolute":
            return mine.median if mine else None
        other = results.figure(self.against_row or row, self.against, metric)
        if other is None:
            return None
        return mine.median / other.median if self.kind == "ratio" else mine.median - other.median

    def holds(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        where = {"ratio": f"x {self.against}", "over": f"over {self.against}", "absolute": ""}[self.kind]
        return f"{sign} {self.bound:g} {where}".strip()


@dataclass(frozen=True)
class Target:
    """One promise: a metric on a row of the results, what must hold and what is aimed at."""

    row: str
    metric: str
    must: Limit
    aim: Limit


def _ratio(bound: float, against: str = NAMED_PEER, at_least: bool = False) -> Limit:
    return Limit(bound, "ratio", against, at_least=at_least)


def _most(row: str, metric: str, must: float, aim: float, against: str = NAMED_PEER) -> Target:
    return Target(row, metric, _ratio(must, against), _ratio(aim, against))


def _least(row: str, metric: str, must: float, aim: float, against: str = NAMED_PEER) -> Target:
    return Target(row, metric, _ratio(must, against, True), _ratio(aim, against, True))


def _absolute(row: str, metric: str, must: float, aim: float) -> Target:
    return Target(row, metric, Limit(must), Limit(aim))


BULK_ROWS = ("bulk up", "bulk down", "bulk both ways", "bulk 50 streams")
KEY_IDLE, KEY_UP, KEY_DOWN = "key stroke, idle path", "key stroke beside upload", "key stroke beside download"
LONG_ROWS = ("100 ms path up", "100 ms path down")

TARGETS: tuple[Target, ...] = (
    *(_most(row, CPU, 0.90, 0.75) for row in BULK_ROWS),
    *(_least(row, RATE, 1.05, 1.25) for row in BULK_ROWS),
    _least("keep-alive, 32 clients", "req/s", 1.5, 2.0),
    _least("connection: close, 32 clients", "conn/s", 1.3, 1.6),
    *(_most(f"ping-pong {size}", "p50 us", 1.0, 0.8) for size in ("1 B", "1 KiB")),
    *(
        Target(row, "p99 ms", _ratio(0.25, SSH), Limit(30, "over", DIRECT, against_row=KEY_IDLE))
        for row in (KEY_UP, KEY_DOWN)
    ),
    *(_least(row, "Mbit/s", 0.9, 0.98, DIRECT) for row in LONG_ROWS),
    _absolute("10,000 idle streams", "MB a proxy", 20, 8),
    _absolute("resume, 10,000 streams", "last byte ms", 1000, 300),
    _absolute("resume, 1 stream", "first byte ms", 100, 20),
    _absolute("start of --stdio", "first byte ms", 150, 80),
)


def check(results: Results) -> list[dict]:
    """Every promise with its figure and verdict: aim, must, short, or `not measured`."""
    return [_verdict(results, target) for target in TARGETS]


def _verdict(results: Results, target: Target) -> dict:
    must_value = target.must.value(results, target.row, target.metric)
    aim_value = target.aim.value(results, target.row, target.metric)
    mine = results.figure(target.row, MPROXY, target.metric)
    if must_value is None:
        verdict = "not measured"
    elif aim_value is not None and target.must.holds(must_value) and target.aim.holds(aim_value):
        verdict = "aim"
    else:
        verdict = "must" if target.must.holds(must_value) else "SHORT"
    return {
        "row": target.row,
        "metric": target.metric,
        "mproxy": mine.median if mine else None,
        "value": must_value,
        "aim_value": aim_value,
        "must": str(target.must),
        "aim": str(target.aim),
        "verdict": verdict,
    }


def target_table(verdicts: list[dict]) -> list[str]:
    lines = [["promise", "figure", "mproxy", "must", "is", "aim", "is", "reached"]]
    for verdict in verdicts:
        cells = [verdict["row"], verdict["metric"], _cell(verdict["mproxy"])]
        cells += [verdict["must"], _cell(verdict["value"]), verdict["aim"], _cell(verdict["aim_value"])]
        lines.append([*cells, verdict["verdict"]])
    return markdown(lines)


def _cell(value: float | None) -> str:
    return "-" if value is None else number(value)
