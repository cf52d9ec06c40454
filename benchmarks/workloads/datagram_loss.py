"""Workload: a file of 50 MB over a path of 20 ms and 100 Mbit/s that loses packets.

Goal: random loss, as on radio, costs the lost packets again and no more.
Method: the path of workloads/datagram_path.py, loss in both directions; rate from the start of the sender to the whole
file. kcptun carries a TCP connection, once with its defaults (a window of 128 packets) and once with windows for this
path; it seals its packets and sends 3 of redundancy with 10 of data.
Where the limit of 40 s ends a transfer, what has arrived by then makes the rate.
Limits: everything runs on two cores, the path too. kcptun has no congestion control in its usual modes: alone on a path
of known rate it looks better than it would in company.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from harness import transfer
from harness.bench import Bench, Case, Workload
from harness.contenders import KCPTUN, KCPTUN_BARE, KCPTUN_DEFAULT, MPROXY, MPROXY_CUBIC, PATH, SRT

from workloads.datagram_path import BadPath, Load, PathRuns, own_directory

LOSSES = (0, 1, 5, 10)
FULL_BYTES, QUICK_BYTES = 50_000_000, 20_000_000
FULL_ROUNDS = 3
FULL_LIMIT_SECONDS, QUICK_LIMIT_SECONDS = 40.0, 20.0


def row_name(loss: float) -> str:
    return f"50 MB, 20 ms, {loss:g} % loss"


def cases(bench: Bench, stack: ExitStack) -> Iterator[Case]:
    size = bench.plan.pick(FULL_BYTES, QUICK_BYTES)
    directory = own_directory(stack, bench.plan.work, size)
    limit_s = bench.plan.pick(FULL_LIMIT_SECONDS, QUICK_LIMIT_SECONDS)
    file = Load(transfer.make_source(directory, size), limit_s, may_stop=True)
    runs = PathRuns(bench, directory)
    names = [contender.name for contender in bench.contenders()]
    rounds = min(bench.plan.rounds, bench.plan.pick(FULL_ROUNDS, 1))
    for loss in LOSSES:
        row, path = row_name(loss), BadPath(100, 20, loss)
        for name in names:
            yield Case(row, name, partial(runs.measure, row, name, path, file), rounds)


WORKLOAD = Workload(
    "dgloss",
    "A file over a path that loses packets",
    cases,
    (PATH, MPROXY, MPROXY_CUBIC, SRT, KCPTUN, KCPTUN_BARE, KCPTUN_DEFAULT),
    (PATH, MPROXY, SRT, KCPTUN_BARE),
    peer=PATH,
)
