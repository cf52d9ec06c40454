"""The chart of a run: one panel per headline figure, a bar per contender at the median, a whisker from min to
max."""

from __future__ import annotations

from pathlib import Path

from harness.contenders import MPROXY, TABLE
from harness.group import WorkloadGroup
from harness.plot import prepare, save
from harness.results import Results, number

COLUMNS = 3
OURS, OTHERS, NO_PROXY = "#1f6f4a", "#9aa5b1", "#d5dae0"


def draw(results: Results, group: WorkloadGroup, subtitle: str, path: Path) -> bool:
    """Write the chart; False without matplotlib or without any of the rows."""
    try:
        import matplotlib
    except ImportError:
        return False
    prepare(matplotlib)
    from matplotlib import pyplot

    panels = [panel for panel in group.panels if panel[0] in results.rows]
    if not panels:
        return False
    lines = -(-len(panels) // COLUMNS)
    figure, axes = pyplot.subplots(lines, COLUMNS, figsize=(15, 3.2 * lines), squeeze=False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        _draw_panel(axis, results, *panel)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    figure.suptitle(f"{group.title}, medians with min to max", fontsize=13)
    figure.text(0.5, 0.005, subtitle, ha="center", fontsize=6, color="#555555")
    figure.tight_layout(rect=(0, 0.015, 1, 0.99))
    save(figure, path)
    pyplot.close(figure)
    return True


def _draw_panel(axis, results: Results, row: str, metric: str, better: str) -> None:
    names = [name for name in TABLE if results.figure(row, name, metric)]
    figures = [results.figure(row, name, metric) for name in names]
    medians = [figure.median for figure in figures]
    whiskers = [
        [figure.median - min(figure.values) for figure in figures],
        [max(figure.values) - figure.median for figure in figures],
    ]
    colours = [
        OURS if name.startswith(MPROXY) else OTHERS if TABLE[name].hops else NO_PROXY for name in names
    ]
    axis.barh(names, medians, xerr=whiskers, color=colours, error_kw={"elinewidth": 0.8, "capsize": 2})
    axis.invert_yaxis()
    room = max(medians) * 0.02
    for position, figure in enumerate(figures):
        axis.text(max(figure.values) + room, position, number(figure.median), va="center", fontsize=7)
    axis.set_xlim(0, max(max(figure.values) for figure in figures) * 1.18)
    axis.set_title(f"{row}: {metric} ({better})", fontsize=9)
    axis.tick_params(labelsize=7)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
