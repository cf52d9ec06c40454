"""Workload: selective repair against Go-Back-N, by loss and round trip.

Goal: a table and a chart of what the two ways to repair losses make of the same path.
Method: the path of workloads/datagram_path.py at 100 Mbit/s, the same engine with --recovery sack and gbn, the same
losses, and the same window, fixed at 1.25 times what the path holds: so that repair alone makes the difference, and
not what a controller makes of the losses. A file of 25 MB; where that takes longer than the limit, what has arrived
by then makes the rate (whole blocks of 1 MiB).
Limits: the start is in the figure: 25 MB are two seconds at the path's rate.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from harness import transfer
from harness.bench import Bench, Case, Workload
from harness.contenders import MPROXY, MPROXY_GBN

from workloads.datagram_path import BadPath, Load, PathRuns, own_directory

LOSSES = (0, 0.1, 1, 5)
ROUND_TRIPS_MS = (10, 100)
FULL_BYTES, QUICK_BYTES = 25_000_000, 10_000_000
FULL_LIMIT_SECONDS, QUICK_LIMIT_SECONDS = 20.0, 5.0
FULL_ROUNDS = 3
WINDOW = 1.25  # times what the path holds


def row_name(round_trip_ms: int, loss: float) -> str:
    return f"repair, {round_trip_ms} ms, {loss:g} % loss"


def cases(bench: Bench, stack: ExitStack) -> Iterator[Case]:
    size = bench.plan.pick(FULL_BYTES, QUICK_BYTES)
    directory = own_directory(stack, bench.plan.work, size)
    limit_s = bench.plan.pick(FULL_LIMIT_SECONDS, QUICK_LIMIT_SECONDS)
    source = transfer.make_source(directory, size)
    runs = PathRuns(bench, directory)
    names = [contender.name for contender in bench.contenders()]
    rounds = min(bench.plan.rounds, bench.plan.pick(FULL_ROUNDS, 1))
    for round_trip_ms in ROUND_TRIPS_MS:
        for loss in LOSSES:
            row, path = row_name(round_trip_ms, loss), BadPath(100, round_trip_ms, loss)
            window = str(round(WINDOW * path.packets))
            file = Load(source, limit_s, may_stop=True, options=("--window", window))
            for name in names:
                yield Case(row, name, partial(runs.measure, row, name, path, file), rounds)


WORKLOAD = Workload(
    "dgrepair",
    "Selective repair against Go-Back-N",
    cases,
    (MPROXY, MPROXY_GBN),
    (MPROXY, MPROXY_GBN),
    peer=MPROXY_GBN,
)
