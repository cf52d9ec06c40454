"""Workload: a file over a long fat path, 200 ms round trip and 300 Mbit/s, nothing lost.

Goal: window, pacing and slow start fill it.
Method: the path of workloads/datagram_path.py with a queue of bandwidth times round trip (7.5 MB). 1 GB, which takes
27 s at the path's rate: start, handshake, and slow start are in the figure. A quick run sends 300 MB, of which the
start is a larger part.
srt-file-transmit is stopped after 25 s, and what has arrived by then makes its rate.
Limits: three rounds, because it takes long; the path is the same program for everyone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from harness import transfer
from harness.bench import Bench, Case, Workload
from harness.contenders import MPROXY, PATH, SRT

from workloads.datagram_path import BadPath, Load, PathRuns, own_directory

ROW = "1 GB, 200 ms, 300 Mbit/s"
PATH_200_MS = BadPath(300, 200)
FULL_BYTES, QUICK_BYTES = 1_000_000_000, 300_000_000
FULL_ROUNDS = 3
LIMIT_SECONDS, OTHERS_LIMIT_SECONDS = 120.0, 25.0


def cases(bench: Bench, stack: ExitStack) -> Iterator[Case]:
    size = bench.plan.pick(FULL_BYTES, QUICK_BYTES)
    directory = own_directory(stack, bench.plan.work, size)
    source = transfer.make_source(directory, size)
    runs = PathRuns(bench, directory)
    rounds = min(bench.plan.rounds, bench.plan.pick(FULL_ROUNDS, 1))
    for contender in bench.contenders():
        is_ours = contender.name == MPROXY
        file = Load(source, LIMIT_SECONDS if is_ours else OTHERS_LIMIT_SECONDS, may_stop=not is_ours)
        yield Case(ROW, contender.name, partial(runs.measure, ROW, contender.name, PATH_200_MS, file), rounds)


WORKLOAD = Workload(
    "dglong",
    "A file over a long fat path",
    cases,
    (PATH, MPROXY, SRT),
    (PATH, MPROXY),
    peer=PATH,
    note=f"srt-file-transmit is stopped after {OTHERS_LIMIT_SECONDS:g} s, and what arrived by then makes its rate; "
    f"{FULL_ROUNDS} rounds.",
)
