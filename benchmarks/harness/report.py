"""What a run of a group leaves behind: tables, JSON and chart in benchmarks/results/, and the tables in the docs.

The files are named after the group, so that measuring one group leaves the others' figures alone. Quick and partial
runs (`session-quick.json`, `session-part.json`) never replace those of a whole run, and only whole runs get into
the docs.

In the pages a pair of lines marks where a group's tables go, as they are, or only its promises, or the table of one
of its grids, which has a file of its own:

    <!-- bench session tables -->      <!-- bench session promises -->      <!-- bench datagram-repair grid -->
    <!-- end of bench -->              <!-- end of bench -->                <!-- end of bench -->

`<!-- bench summary -->` is the place of the ten lines of `harness.summary`.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from harness import chart, environment, grid, summary
from harness.group import WorkloadGroup
from harness.results import Results, row_table
from harness.targets import check, target_table

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "benchmarks" / "results"
DOCS = (REPOSITORY / "README.md", REPOSITORY / "docs" / "performance.md", REPOSITORY / "docs" / "datagram.md")
END_MARK = "<!-- end of bench -->"
PROMISES_HEAD = "| promise"
SUMMARY_MARK = "<!-- bench summary -->"


@dataclass(frozen=True)
class Report:
    """One group's results after a run. `about` is where and how they were taken; `kind`: full, quick or part."""

    group: WorkloadGroup
    results: Results
    about: dict
    kind: str

    def document(self) -> dict:
        return {
            "group": self.group.name,
            "about": self.about,
            "figures": self.results.as_json(),
            "promises": check(self.results, self.group.targets),
            "left_out": self.results.left_out,
        }

    def text(self) -> str:
        head = f"{environment.summary(self.about)}; {self.kind} run, {self.about['rounds']} rounds, medians (min..max)"
        verdicts = check(self.results, self.group.targets)
        peers = {workload.name: workload.peer for workload in self.group.workloads}
        lines = [head, ""]
        for row in self.results.rows:
            lines += [*row_table(self.results, row, peers[self.results.workload_of[row]]), ""]
        for workload in self.group.workloads:
            if workload.note and workload.name in self.results.workload_of.values():
                lines += [f"{workload.title}: {workload.note}", ""]
        lines += target_table([verdict for verdict in verdicts if verdict["verdict"] != "not measured"])
        if missing := [verdict["row"] for verdict in verdicts if verdict["verdict"] == "not measured"]:
            lines += ["", "Not measured in this run: " + "; ".join(dict.fromkeys(missing))]
        if self.results.left_out:
            lines += ["", "Left out:", ""]
            lines += [f"* {entry['row']}, {entry['contender']}: {entry['why']}" for entry in self.results.left_out]
        return "\n".join(lines)

    def save(self) -> None:
        """Write JSON, Markdown and chart."""
        stem = self.group.name if self.kind == "full" else f"{self.group.name}-{self.kind}"
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{stem}.json").write_text(json.dumps(self.document(), indent=1) + "\n")
        (RESULTS / f"{stem}.md").write_text(self.text() + "\n")
        subtitle = environment.summary(self.about)
        if not chart.draw(self.results, self.group, subtitle, RESULTS / f"{stem}.svg"):
            print("no chart: matplotlib is not installed, or no charted row was measured", file=sys.stderr)
        for item in self.group.grids:
            if item.is_measured(self.results):
                part = stem.replace(self.group.name, item.name, 1)
                (RESULTS / f"{part}.md").write_text("\n".join(grid.table(self.results, item)) + "\n")
                grid.draw(self.results, item, subtitle, RESULTS / f"{part}.svg")


def update_docs() -> list[str]:
    """Write the tables of the last whole run of every group between its markers; returns what was written."""
    written = []
    for page in DOCS:
        text = page.read_text()
        for name, part in re.findall(r"<!-- bench ([\w-]+) (tables|promises|grid) -->", text):
            source = RESULTS / f"{name}.md"
            if source.exists():
                text = _replaced(text, f"<!-- bench {name} {part} -->", _part(source.read_text(), part))
                written.append(f"{page.name}: {name} {part}")
        if SUMMARY_MARK in text:
            text = _replaced(text, SUMMARY_MARK, "\n".join(summary.table(RESULTS)))
            summary.draw(RESULTS, RESULTS / "summary.svg")
            written.append(f"{page.name}: summary")
        page.write_text(text)
    return written


def _part(tables: str, part: str) -> str:
    if part != "promises":
        return tables.strip()
    promises = tables[tables.index(PROMISES_HEAD) :]
    return promises.partition("\n\n")[0].strip()


def _replaced(text: str, begin_mark: str, tables: str) -> str:
    begin = text.index(begin_mark) + len(begin_mark)
    end = text.find(END_MARK, begin)
    if end < 0:
        raise SystemExit(f"no {END_MARK} after {begin_mark}: nothing written")
    return f"{text[:begin]}\n{tables}\n\n{text[end:]}"
