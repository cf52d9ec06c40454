#!/usr/bin/env python3
"""The whole-system benchmark: mproxy beside its peers, on the same machine, in the same minutes.

Starts the peers itself (Debian's haproxy, nginx, socat, stunnel4, ssh; wrk and iperf3 as load), measures every
contender of a workload in turn, round by round, and prints medians with min..max, ratios, and which promises
hold. Workloads come in groups; each group's results go to benchmarks/results/ as JSON, Markdown and a chart,
and from there into the docs. Each module in benchmarks/workloads/ says what it measures and how far it can be
trusted. Run it on an otherwise quiet machine, as root for the workloads that need namespaces.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from groups import ALL
from harness import environment, load, places, report
from harness.bench import Bench, Plan, Workload
from harness.group import WorkloadGroup
from harness.report import Report

QUIET_LOAD = 0.7
FULL_ROUNDS, QUICK_ROUNDS = 5, 2
WORKLOADS = [workload.name for group in ALL.values() for workload in group.workloads]


def main() -> int:
    arguments = parse_arguments()
    if arguments.update_docs:
        print("\n".join(report.update_docs()) or "nothing to write")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwind: namespaces outlive a process
    load.raise_descriptor_limit()
    private = places.is_root() and places.enter_private_network()
    about = environment.describe(private) | {"rounds": arguments.rounds}
    if about["load_before"] > QUIET_LOAD:
        print(f"load average {about['load_before']:.1f}: other programs will show in the figures", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="bench-") as work:
        plan = Plan(arguments.quick, arguments.rounds, Path(work), frozenset(arguments.contender))
        for name in arguments.group:
            workloads = [item for item in ALL[name].workloads if not arguments.only or item.name in arguments.only]
            if workloads:
                run_group(ALL[name], workloads, plan, about)
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--group", nargs="+", metavar="NAME", default=list(ALL), choices=ALL, help=f"default all: {', '.join(ALL)}")
    add("--only", nargs="+", metavar="WORKLOAD", default=[], choices=WORKLOADS, help=", ".join(WORKLOADS))
    add("--contender", nargs="+", metavar="NAME", default=[], help="measure only these")
    add("--quick", action="store_true", help="fewer contenders, short turns: the session group in under two minutes")
    add("--rounds", type=int, help=f"default {FULL_ROUNDS}, quick {QUICK_ROUNDS}")
    add("--update-docs", action="store_true", help="measure nothing; write the tables of whole runs into the docs")
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (QUICK_ROUNDS if arguments.quick else FULL_ROUNDS)
    return arguments


def run_group(group: WorkloadGroup, workloads: list[Workload], plan: Plan, about: dict) -> None:
    """Measure the workloads of one group and report on it."""
    bench = Bench(plan)
    for workload in workloads:
        if workload.needs_root and not places.is_root():
            print(f"{workload.name}: needs root for network namespaces, left out", file=sys.stderr)
            continue
        bench.run(workload)
    is_part = bool(plan.wanted) or len(workloads) < len(group.workloads)
    kind = "part" if is_part else "quick" if plan.quick else "full"
    outcome = Report(group, bench.results, about, kind)
    print(f"\n{group.title}\n\n{outcome.text()}", flush=True)
    outcome.save()


if __name__ == "__main__":
    sys.exit(main())
