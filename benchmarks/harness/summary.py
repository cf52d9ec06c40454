"""Ten lines of all groups for the README: a table, and a chart of how many times better than whom.

Taken from the promises in the tables of the last whole runs, so that no figure stands there that is not in
docs/performance.md, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.plot import prepare, save


@dataclass(frozen=True)
class Line:
    """One promise of one group in a reader's words; `peer` is whom its must or aim is against."""

    text: str
    group: str
    row: str
    metric: str
    peer: str
    said: str


LINES = (
    Line("session: copying, CPU time", "session", "bulk up", "CPU s/GB", "x haproxy", "two haproxies"),
    Line("session: requests on 32 connections", "session", "keep-alive, 32 clients", "req/s", "x haproxy",
         "two haproxies"),
    Line("session: key stroke beside a copy, slowest of 100", "session", "key stroke beside download", "p99 ms",
         "x ssh -L", "ssh -L"),
    Line("encrypted session: copying, rate", "tls", "bulk up", "Gbit/s", "x the best of stunnel, ssh -L",
         "the better of stunnel and ssh -L"),
    Line("encrypted session: copying, CPU time", "tls", "bulk up", "CPU s/GB", "x haproxy tls",
         "two haproxies with TLS"),
    Line("relay: copying, CPU time", "relay", "relay bulk up", "CPU s/GB", "x the best of",
         "the best of haproxy, nginx, socat"),
    Line("relay: UDP packets a CPU second, between hosts", "relay", "UDP 1400 B, between hosts", "k packets / CPU s",
         "x nginx stream udp", "nginx stream"),
    Line("relay in the kernel: rate", "relay", "relay over veth, bulk up", "Gbit/s", "x the best of",
         "the best of all relays"),
    Line("1 GB file over loopback, sealed: rate", "datagram", "1 GB file, loopback", "Gbit/s", "x srt-file-transmit",
         "srt-file-transmit, unsealed"),
    Line("file at 5 % loss, 20 ms: rate", "datagram", "50 MB, 20 ms, 5 % loss", "Mbit/s", "x the best of",
         "the best of SRT and kcptun"),
)

OURS = "#1f6f4a"


def measured(results: Path) -> list[tuple[Line, str, float]]:
    """(line, our figure, how many times better) of every line that the last whole runs have."""
    found = []
    for line in LINES:
        source = results / f"{line.group}.md"
        for cells in _promises(source.read_text() if source.exists() else ""):
            row, metric, ours, must, value = cells[:5]
            if (row, metric) == (line.row, line.metric) and line.peer in must:
                ratio = float(value.replace(",", ""))
                found.append((line, f"{ours} {metric}", 1 / ratio if must.startswith("<=") else ratio))
                break
    return found


def _promises(text: str) -> list[list[str]]:
    table = text[text.index("| promise") :] if "| promise" in text else ""
    rows = [line for line in table.split("\n\n")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def table(results: Path) -> list[str]:
    """The table in Markdown."""
    lines = ["| what | mproxy | beside | better |", "| --- | ---: | --- | ---: |"]
    for line, ours, better in measured(results):
        lines.append(f"| {line.text} | {ours} | {line.said} | {better:.1f} x |")
    return lines


def draw(results: Path, path: Path) -> bool:
    """The chart; False without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    prepare(matplotlib)
    from matplotlib import pyplot

    rows = measured(results)
    figure, axis = pyplot.subplots(figsize=(9, 0.42 * len(rows) + 0.8))
    names = [f"{line.text}\nbeside {line.said}" for line, _, _ in rows]
    values = [better for _, _, better in rows]
    axis.barh(names, values, color=OURS, height=0.6)
    axis.set_xscale("log")
    axis.set_xlim(0.8, max(values) * 1.6)
    axis.axvline(1, color="#555555", linewidth=0.8)
    for position, value in enumerate(values):
        axis.text(value * 1.04, position, f"{value:.1f} x", va="center", fontsize=8)
    axis.invert_yaxis()
    axis.tick_params(labelsize=7)
    axis.xaxis.set_visible(False)
    for side in ("top", "right", "bottom", "left"):
        axis.spines[side].set_visible(False)
    axis.set_title("how many times better (1 is as good)", fontsize=9, loc="left")
    figure.tight_layout()
    save(figure, path)
    pyplot.close(figure)
    return True
