"""The plan of a run and the interleaving: every contender of a workload is up, then round by round each takes
a turn.

A workload gives cases; a case is one contender on one row of the table, and measuring it once gives one
number per metric. The order of the cases moves on by one every round, so that nobody always runs after the
same neighbour.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from harness.chain import Chain
from harness.contenders import HAPROXY, TABLE, Contender
from harness.process import Group, StartError
from harness.results import Results

Measure = Callable[[], dict[str, float]]
MANY = 3


class MeasureError(Exception):
    """A contender is up but does not do the work; the text says what is missing."""


@dataclass(frozen=True)
class Case:
    """One contender on one row; `rounds` overrides the plan's number for measurements that are dear, or cheap."""

    row: str
    contender: str
    measure: Measure
    rounds: int | None = None


@dataclass(frozen=True)
class Plan:
    """How long and how often to measure."""

    quick: bool
    rounds: int
    work: Path
    wanted: frozenset[str] = frozenset()  # contender names; empty means all

    def pick(self, full, quick):
        return quick if self.quick else full

    @property
    def many_rounds(self) -> int:
        """For rows of short measurements: single ones differ by more than what the row is to tell."""
        return self.pick(MANY * self.rounds, self.rounds)


@dataclass(frozen=True)
class Workload:
    """One section of the table. `quick` names the contenders that stay in a quick run, `peer` is whom the ratio
    columns compare with."""

    name: str
    title: str
    cases: Callable[[Bench, ExitStack], Iterator[Case]]
    contenders: tuple[str, ...]
    quick: tuple[str, ...]
    needs_root: bool = False
    peer: str = HAPROXY
    note: str = ""  # a line under its tables: what a reader must know to compare the figures


@dataclass
class Bench:
    """Runs workloads after a plan and collects their results."""

    plan: Plan
    results: Results = field(default_factory=Results)
    workload: Workload | None = None
    latest: dict[str, Group] = field(default_factory=dict)  # whose logs explain a failure

    def run(self, workload: Workload) -> None:
        self.workload = workload
        begun_at = time.monotonic()
        with ExitStack() as stack:
            try:
                cases = list(workload.cases(self, stack))
                self._interleave(cases)
            except (StartError, MeasureError, OSError, RuntimeError) as error:
                self._left_out(workload.name, "whole workload", error)
        _say(f"{workload.name}: {time.monotonic() - begun_at:.0f} s")

    def contenders(self) -> Iterator[Contender]:
        """The contenders of the current workload that can run here; the others are noted as left out."""
        for name in self.plan.pick(self.workload.contenders, self.workload.quick):
            contender = TABLE[name]
            if self.plan.wanted and name not in self.plan.wanted:
                continue
            if missing := contender.missing():
                self._left_out(self.workload.name, name, f"not here: {', '.join(missing)}")
                continue
            yield contender

    def start(self, stack: ExitStack, contender: Contender, chain: Chain) -> Group | None:
        """Start a contender until the stack unwinds; None, and a note in the results, if it does not come
        up."""
        try:
            return self.start_or_raise(stack, contender, chain)
        except (StartError, OSError) as error:
            self._left_out(self.workload.name, contender.name, error)
            return None

    def start_or_raise(self, stack: ExitStack, contender: Contender, chain: Chain) -> Group:
        group = contender.start(chain, self.plan.work)
        self.latest[contender.name] = group
        stack.callback(group.stop)
        return group

    def _interleave(self, cases: list[Case]) -> None:
        broken: set[tuple[str, str]] = set()
        for number in range(max((self._rounds(case) for case in cases), default=0)):
            shift = number % len(cases)
            for case in cases[shift:] + cases[:shift]:
                key = (case.row, case.contender)
                if number < self._rounds(case) and key not in broken and not self._measure(case):
                    broken.add(key)

    def _rounds(self, case: Case) -> int:
        return case.rounds or self.plan.rounds

    def _measure(self, case: Case) -> bool:
        try:
            figures = case.measure()
        except (MeasureError, StartError, OSError, EOFError, RuntimeError) as error:
            self._left_out(case.row, case.contender, error)
            for process in self.latest[case.contender].processes if case.contender in self.latest else ():
                _say(f"    {Path(process.command[0]).name}: {process.tail() or '(no log)'}")
            return False
        self.results.add(self.workload.name, case.row, case.contender, figures)
        return True

    def _left_out(self, row: str, contender: str, why) -> None:
        if isinstance(why, Exception) and not isinstance(why, (StartError, MeasureError)):
            why = traceback.format_exception_only(why)[-1].strip()
        self.results.left_out.append({"row": row, "contender": contender, "why": str(why)})
        _say(f"{row}: {contender} left out: {why}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
