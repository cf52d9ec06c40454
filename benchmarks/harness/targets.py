"""What must hold, and what is aimed at: promises, checked against the medians of a run.

Each group lists its own, made with the few functions at the end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.contenders import HAPROXY, MPROXY
from harness.results import Results, markdown, number


@dataclass(frozen=True)
class Limit:
    """A bound on our median: divided by the best of some peers (`ratio`), less it (`over`), or taken alone.

    The peers are measured on the same row, or on `against_row`.
    """

    bound: float
    kind: str = "absolute"
    against: tuple[str, ...] = ()
    against_row: str | None = None
    at_least: bool = False

    def value(self, results: Results, row: str, metric: str, ours: str) -> float | None:
        mine = results.figure(row, ours, metric)
        if mine is None or self.kind == "absolute":
            return mine.median if mine else None
        figures = [results.figure(self.against_row or row, peer, metric) for peer in self.against]
        medians = [figure.median for figure in figures if figure]
        if not medians:
            return None
        best = max(medians) if self.at_least else min(medians)
        return mine.median / best if self.kind == "ratio" else mine.median - best

    def holds(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        peers = self.against[0] if len(self.against) == 1 else f"the best of {', '.join(self.against)}"
        where = {"ratio": f"x {peers}", "over": f"over {peers}", "absolute": ""}[self.kind]
        return f"{sign} {self.bound:g} {where}".strip()


@dataclass(frozen=True)
class Target:
    """One promise: a metric on a row of the results, what must hold and what is aimed at (None: nothing more)."""

    row: str
    metric: str
    must: Limit
    aim: Limit | None
    ours: str = MPROXY


def ratio(bound: float, *against: str, at_least: bool = False) -> Limit:
    """At most (or at least) so many times the best of these peers."""
    return Limit(bound, "ratio", against, at_least=at_least)


def at_most(row: str, metric: str, must: float, aim: float | None, *against: str, ours: str = MPROXY) -> Target:
    """Less is better: bounds on the ratio to the best of `against` (haproxy when nobody is named)."""
    peers = against or (HAPROXY,)
    return Target(row, metric, ratio(must, *peers), None if aim is None else ratio(aim, *peers), ours)


def at_least(row: str, metric: str, must: float, aim: float | None, *against: str, ours: str = MPROXY) -> Target:
    """More is better: the same the other way round."""
    peers = against or (HAPROXY,)
    limits = [None if bound is None else ratio(bound, *peers, at_least=True) for bound in (must, aim)]
    return Target(row, metric, *limits, ours)


def absolute(row: str, metric: str, must: float, aim: float | None = None, ours: str = MPROXY) -> Target:
    """At most so much, whatever anybody else needs."""
    return Target(row, metric, Limit(must), None if aim is None else Limit(aim), ours)


def check(results: Results, targets: Iterable[Target]) -> list[dict]:
    """Every promise with its figure and verdict: aim, must, SHORT, or `not measured`."""
    return [_verdict(results, target) for target in targets]


def _verdict(results: Results, target: Target) -> dict:
    must_value = target.must.value(results, target.row, target.metric, target.ours)
    aim_value = target.aim and target.aim.value(results, target.row, target.metric, target.ours)
    mine = results.figure(target.row, target.ours, target.metric)
    if must_value is None:
        verdict = "not measured"
    elif not target.must.holds(must_value):
        verdict = "SHORT"
    else:
        verdict = "aim" if aim_value is not None and target.aim.holds(aim_value) else "must"
    return {
        "row": target.row,
        "metric": target.metric,
        "mproxy": mine.median if mine else None,
        "value": must_value,
        "aim_value": aim_value,
        "must": str(target.must),
        "aim": str(target.aim or "-"),
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
