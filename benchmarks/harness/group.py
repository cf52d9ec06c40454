"""A group of workloads: measured, reported and documented together."""

from __future__ import annotations

from dataclasses import dataclass

from harness.bench import Workload
from harness.grid import Grid
from harness.targets import Target

Panel = tuple[str, str, str]  # row, metric, what is better


@dataclass(frozen=True)
class WorkloadGroup:
    """`name` is what --group takes and what the files in results/ are called."""

    name: str
    title: str
    workloads: tuple[Workload, ...]
    targets: tuple[Target, ...]
    panels: tuple[Panel, ...] = ()  # of the chart
    grids: tuple[Grid, ...] = ()  # each a table and a chart of its own beside the group's
