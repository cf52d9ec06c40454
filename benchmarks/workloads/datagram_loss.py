"""Workload: a file of 50 MB over a path of 20 ms and 100 Mbit/s that loses packets.

Goal: random loss, as on radio, costs the lost packets again and no more.
Method: the path of workloads/datagram_path.py, loss in both directions; rate from the start of the sender to the whole
file. kcptun carries a TCP connection, once with its defaults (a window of 128 packets, 3 packets of redundancy with 10
of data) and once with windows for this path and without redundancy, its fastest way here; it seals its packets.
All but our default are stopped after 6 s, half as long again as the path would take, and their rate is what has arrived
by then: some would need a minute. Nobody loses by that whose rate lasts; who starts fast and falls off gains.
Limits: everything runs on two cores, the path too. kcptun has no congestion control in its usual modes: alone on a path
of known rate it looks better than it would in company.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from harness import transfer
from harness.bench import Bench, Case, Workload
from harness.contenders import KCPTUN_BARE, KCPTUN_DEFAULT, MPROXY, MPROXY_CUBIC, PATH, SRT

from workloads.datagram_path import BadPath, Load, PathRuns, own_directory

LOSSES = (0, 1, 5, 10)
FULL_BYTES, QUICK_BYTES = 50_000_000, 20_000_000
FULL_ROUNDS = 3
LIMIT_SECONDS = 20.0
OTHERS_LIMIT_SECONDS = 6.0


def row_name(loss: float) -> str:
    return f"50 MB, 20 ms, {loss:g} % loss"


def cases(bench: Bench, stack: ExitStack) -> Iterator[Case]:
    size = bench.plan.pick(FULL_BYTES, QUICK_BYTES)
    directory = own_directory(stack, bench.plan.work, size)
    source = transfer.make_source(directory, size)
    runs = PathRuns(bench, directory)
    names = [contender.name for contender in bench.contenders()]
    rounds = min(bench.plan.rounds, bench.plan.pick(FULL_ROUNDS, 1))
    for loss in LOSSES:
        row, path = row_name(loss), BadPath(100, 20, loss)
        for name in names:
            file = Load(source, LIMIT_SECONDS if name == MPROXY else OTHERS_LIMIT_SECONDS, may_stop=True)
            yield Case(row, name, partial(runs.measure, row, name, path, file), rounds)


WORKLOAD = Workload(
    "dgloss",
    "A file over a path that loses packets",
    cases,
    (PATH, MPROXY, MPROXY_CUBIC, SRT, KCPTUN_BARE, KCPTUN_DEFAULT),
    (PATH, MPROXY, SRT, KCPTUN_BARE),
    peer=PATH,
    note=f"all but mproxy's default are stopped after {OTHERS_LIMIT_SECONDS:g} s, and what arrived by then makes their "
    f"rate; {FULL_ROUNDS} rounds.",
)
