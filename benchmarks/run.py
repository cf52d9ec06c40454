#!/usr/bin/env python3
"""The whole-system benchmark: mproxy beside its peers, on the same machine, in the same minutes.

Starts the peers itself (Debian's haproxy, nginx, socat, stunnel4, ssh; wrk as HTTP load), measures every
contender of a workload in turn, round by round, and prints medians with min..max, ratios, and which promises
hold. Results go to benchmarks/results/ as JSON, Markdown and a chart. Each module in benchmarks/workloads/
says what it measures and how far it can be trusted. Run it on an otherwise quiet machine, as root for the
workloads that need namespaces.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from pathlib import Path

from harness import chart, environment, load, places
from harness.bench import Bench, Plan, Workload
from harness.results import Results, row_table
from harness.targets import NAMED_PEER, check, target_table
from workloads import ALL

RESULTS = Path(__file__).resolve().parent / "results"
QUIET_LOAD = 0.7
FULL_ROUNDS, QUICK_ROUNDS = 5, 2


def main() -> int:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwind: namespaces outlive a process
    load.raise_descriptor_limit()
    private = places.is_root() and places.enter_private_network()
    about = environment.describe(private)
    if about["load_before"] > QUIET_LOAD:
        print(f"load average {about['load_before']:.1f}: other programs will show in the figures", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="bench-") as work:
        plan = Plan(arguments.quick, arguments.rounds, Path(work), frozenset(arguments.contender))
        bench = Bench(plan)
        for workload in chosen(arguments.only):
            if workload.needs_root and not places.is_root():
                print(f"{workload.name}: needs root for network namespaces, left out", file=sys.stderr)
                continue
            bench.run(workload)
    about |= {"quick": arguments.quick, "rounds": arguments.rounds}
    report(bench.results, about, arguments)
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    names = [workload.name for workload in ALL]
    parser.add_argument(
        "--quick", action="store_true", help="fewer contenders, short turns: under two minutes"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[], choices=names, help=", ".join(names))
    parser.add_argument(
        "--contender", nargs="+", metavar="NAME", default=[], help="measure only these, and direct"
    )
    parser.add_argument("--rounds", type=int, help=f"default {FULL_ROUNDS}, quick {QUICK_ROUNDS}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (QUICK_ROUNDS if arguments.quick else FULL_ROUNDS)
    return arguments


def chosen(only: list[str]) -> list[Workload]:
    return [workload for workload in ALL if not only or workload.name in only]


def report(results: Results, about: dict, arguments: argparse.Namespace) -> None:
    """Print the tables; write JSON, Markdown and chart. A partial run never replaces the files of a whole
    one."""
    verdicts = check(results)
    text = tables(results, about, verdicts)
    print(text)
    document = {
        "about": about,
        "figures": results.as_json(),
        "promises": verdicts,
        "left_out": results.left_out,
    }
    stem = "part" if arguments.only or arguments.contender else "quick" if arguments.quick else "bench"
    RESULTS.mkdir(exist_ok=True)
    encoded = json.dumps(document, indent=1) + "\n"
    for path in (RESULTS / f"{stem}.json", arguments.json):
        if path:
            path.write_text(encoded)
    (RESULTS / f"{stem}.md").write_text(text + "\n")
    if not chart.draw(results, environment.summary(about), RESULTS / f"{stem}.svg"):
        print("no chart: matplotlib is not installed, or no charted row was measured", file=sys.stderr)


def tables(results: Results, about: dict, verdicts: list[dict]) -> str:
    kind = "quick run" if about["quick"] else "full run"
    lines = [f"{environment.summary(about)}; {kind}, {about['rounds']} rounds, medians (min..max)", ""]
    for row in results.rows:
        lines += [*row_table(results, row, NAMED_PEER), ""]
    lines += target_table([verdict for verdict in verdicts if verdict["verdict"] != "not measured"])
    if missing := [verdict["row"] for verdict in verdicts if verdict["verdict"] == "not measured"]:
        lines += ["", "Not measured in this run: " + "; ".join(dict.fromkeys(missing))]
    if results.left_out:
        lines += ["", "Left out:"]
        lines += [f"* {entry['row']}, {entry['contender']}: {entry['why']}" for entry in results.left_out]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
