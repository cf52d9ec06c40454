"""Figures of a run: medians with their range, ratios, JSON, and the printed tables."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Figure:
    """All measurements of one metric of one contender on one row."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        return f"{number(self.median)} ({number(min(self.values))}..{number(max(self.values))})"


@dataclass
class Results:
    """row -> contender -> metric -> values, in the order of measuring, and whoever could not take part."""

    rows: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)
    workload_of: dict[str, str] = field(default_factory=dict)
    left_out: list[dict[str, str]] = field(default_factory=list)

    def add(self, workload: str, row: str, contender: str, figures: dict[str, float]) -> None:
        self.workload_of[row] = workload
        metrics = self.rows.setdefault(row, {}).setdefault(contender, {})
        for metric, value in figures.items():
            metrics.setdefault(metric, []).append(value)

    def figure(self, row: str, contender: str, metric: str) -> Figure | None:
        values = self.rows.get(row, {}).get(contender, {}).get(metric)
        return Figure(tuple(values)) if values else None

    def metrics(self, row: str) -> list[str]:
        """In the order of the contender that has most of them (direct has no CPU figure)."""
        return list(max(self.rows[row].values(), key=len))

    def as_json(self) -> list[dict]:
        """One record per row, contender and metric."""
        return [
            {
                "workload": self.workload_of[row],
                "row": row,
                "contender": contender,
                "metric": metric,
                "median": statistics.median(values),
                "min": min(values),
                "max": max(values),
                "values": values,
            }
            for row, contenders in self.rows.items()
            for contender, metrics in contenders.items()
            for metric, values in metrics.items()
        ]


def number(value: float) -> str:
    """Three significant digits, thousands with a separator."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def row_table(results: Results, row: str, peer: str) -> list[str]:
    """A Markdown table of one row: contenders down, metrics across, each with its ratio to the peer."""
    metrics = results.metrics(row)
    has_peer = peer in results.rows[row]
    heads = [row]
    for metric in metrics:
        heads += [metric, f"/ {peer}"] if has_peer else [metric]
    lines = [heads]
    for contender in sorted(results.rows[row], key=_table_order):
        cells = [contender]
        for metric in metrics:
            figure = results.figure(row, contender, metric)
            cells.append(str(figure) if figure else "-")
            if has_peer:
                cells.append(_ratio_cell(figure, results.figure(row, peer, metric)))
        lines.append(cells)
    return markdown(lines)


def _ratio_cell(figure: Figure | None, peer: Figure | None) -> str:
    return f"{figure.median / peer.median:.2f}" if figure and peer and peer.median else "-"


def _table_order(contender: str) -> int:
    from harness.contenders import TABLE

    names = list(TABLE)
    return names.index(contender) if contender in names else len(names)


def markdown(lines: list[list[str]]) -> list[str]:
    """Aligned Markdown rows; the first line is the head, the first column is text, the others are numbers."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [_line(cells, widths) for cells in (lines[0], rule, *lines[1:])]


def _line(cells: list[str], widths: list[int]) -> str:
    first = cells[0].ljust(widths[0])
    rest = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
    return "| " + " | ".join([first, *rest]) + " |"
