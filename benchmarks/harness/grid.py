"""A metric over two parameters, as one table and one chart: the rows of a workload that differ in two numbers only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.plot import prepare, save
from harness.results import Results, markdown, number

MARKERS = "osD^"
LINES = ("-", "--", ":", "-.")
COLOURS = ("#1f6f4a", "#b1563a", "#9aa5b1", "#4a6fa5")


@dataclass(frozen=True)
class Line:
    """One column of the table, one line of the chart: a contender on the rows that lie along the grid."""

    label: str
    contender: str
    rows: tuple[str, ...]
    colour: int = 0  # lines of one colour differ in their dashes
    dash: int = 0


@dataclass(frozen=True)
class Grid:
    """`name` is what the files in results/ are called, `along` the values under the lines' rows, one each."""

    name: str
    title: str
    metric: str
    along_title: str
    along: tuple[str, ...]
    lines: tuple[Line, ...]

    def is_measured(self, results: Results) -> bool:
        return all(results.figure(row, line.contender, self.metric) for line in self.lines for row in line.rows)


def table(results: Results, grid: Grid) -> list[str]:
    """Medians with their range, the parameter down, the lines across."""
    cells = [[f"{grid.metric} by {grid.along_title}", *(line.label for line in grid.lines)]]
    for at, value in enumerate(grid.along):
        figures = (results.figure(line.rows[at], line.contender, grid.metric) for line in grid.lines)
        cells.append([value, *(str(figure) if figure else "-" for figure in figures)])
    return markdown(cells)


def draw(results: Results, grid: Grid, subtitle: str, path: Path) -> bool:
    """A line for each column of the table; False where matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        return False
    prepare(matplotlib)
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8, 4.2))
    for line in grid.lines:
        _draw_line(axis, results, grid, line)
    axis.set_xticks(range(len(grid.along)), grid.along)
    axis.set_xlabel(grid.along_title)
    axis.set_ylabel(grid.metric)
    axis.set_ylim(bottom=0)
    axis.set_title(f"{grid.title}, medians with min to max", fontsize=11)
    axis.legend(fontsize=8)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    figure.text(0.5, 0.005, subtitle, ha="center", fontsize=4, color="#555555")
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    save(figure, path)
    pyplot.close(figure)
    return True


def _draw_line(axis, results: Results, grid: Grid, line: Line) -> None:
    figures = [results.figure(row, line.contender, grid.metric) for row in line.rows]
    medians = [figure.median for figure in figures]
    reach = [
        [figure.median - min(figure.values) for figure in figures],
        [max(figure.values) - figure.median for figure in figures],
    ]
    style = LINES[line.dash % len(LINES)] + MARKERS[line.dash % len(MARKERS)]
    colour = COLOURS[line.colour % len(COLOURS)]
    places = range(len(medians))
    axis.errorbar(places, medians, yerr=reach, fmt=style, color=colour, label=line.label, capsize=2, markersize=4)
    for place, median in zip(places, medians, strict=True):
        axis.annotate(number(median), (place, median), xytext=(4, 4), textcoords="offset points", fontsize=6)
