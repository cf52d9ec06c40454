"""Workload: selective repair against Go-Back-N, by loss and round trip.

Goal: a table and a chart of what the two ways to repair losses make of the same path.
Method: the path of workloads/datagram_path.py at 100 Mbit/s, the same engine with --recovery sack and gbn, the same
losses, and the same window, fixed at 1.25 times what the path holds: so that repair alone makes the difference, and
not what a controller makes of the losses. A file of 16 MB; where that takes longer than 4 s, what has arrived by then
makes the rate.
Limits: the start is in the figure: 16 MB are 1.3 seconds at the path's rate.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from harness import transfer
from harness.bench import Bench, Case, Workload
from harness.contenders import MPROXY, MPROXY_GBN
from harness.grid import Grid, Line

from workloads.datagram_path import RATE, BadPath, Load, PathRuns, own_directory

LOSSES = (0, 0.1, 1, 5)
ROUND_TRIPS_MS = (10, 100)
FULL_BYTES, QUICK_BYTES = 16_000_000, 8_000_000
LIMIT_SECONDS = 4.0
FULL_ROUNDS = 3
WINDOW = 1.25  # times what the path holds


def row_name(round_trip_ms: int, loss: float) -> str:
    return f"repair, {round_trip_ms} ms, {loss:g} % loss"


def cases(bench: Bench, stack: ExitStack) -> Iterator[Case]:
    size = bench.plan.pick(FULL_BYTES, QUICK_BYTES)
    directory = own_directory(stack, bench.plan.work, size)
    source = transfer.make_source(directory, size)
    runs = PathRuns(bench, directory)
    names = [contender.name for contender in bench.contenders()]
    rounds = min(bench.plan.rounds, bench.plan.pick(FULL_ROUNDS, 1))
    for round_trip_ms in ROUND_TRIPS_MS:
        for loss in LOSSES:
            row, path = row_name(round_trip_ms, loss), BadPath(100, round_trip_ms, loss)
            window = str(round(WINDOW * path.packets))
            file = Load(source, LIMIT_SECONDS, may_stop=True, options=("--window", window))
            for name in names:
                yield Case(row, name, partial(runs.measure, row, name, path, file), rounds)


WORKLOAD = Workload(
    "dgrepair",
    "Selective repair against Go-Back-N",
    cases,
    (MPROXY, MPROXY_GBN),
    (MPROXY, MPROXY_GBN),
    peer=MPROXY_GBN,
    note=f"files of {FULL_BYTES // 10**6} MB, stopped after {LIMIT_SECONDS:g} s, and what arrived by then makes the "
    f"rate; {FULL_ROUNDS} rounds.",
)

GRID = Grid(
    "datagram-repair",
    "16 MB over 100 Mbit/s, selective repair and Go-Back-N with the same window",
    RATE,
    "loss in each direction",
    tuple(f"{loss:g} %" for loss in LOSSES),
    tuple(
        Line(
            f"{label}, {round_trip_ms} ms",
            contender,
            tuple(row_name(round_trip_ms, loss) for loss in LOSSES),
            colour=colour,
            dash=dash,
        )
        for dash, round_trip_ms in enumerate(ROUND_TRIPS_MS)
        for colour, (label, contender) in enumerate((("sack", MPROXY), ("gbn", MPROXY_GBN)))
    ),
)
