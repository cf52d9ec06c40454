"""The tables of the benchmarks go into the pages, each between the marks of its group; nothing else changes."""

import sys

import pytest

from tests.meta.sources import ROOT

PAGE = """head
<!-- bench relay tables -->
old relay
<!-- end of bench -->
between
<!-- bench session tables -->
old session
<!-- end of bench -->
<!-- bench session promises -->
<!-- end of bench -->
foot
"""
TABLES = """where and when

| row | x |

| promise | figure |
| --- | --- |
| row | 1 |

Left out:
"""


@pytest.fixture
def report(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from harness import report

    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(report, "DOCS", (tmp_path / "page.md",))
    yield report
    for name in [name for name in sys.modules if name.split(".")[0] in ("harness", "groups", "workloads")]:
        del sys.modules[name]


def test_a_group_without_results_keeps_its_tables(report, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    (tmp_path / "session.md").write_text(TABLES)
    assert report.update_docs() == ["page.md: session tables", "page.md: session promises"]
    text = page.read_text()
    assert text.startswith("head\n<!-- bench relay tables -->\nold relay\n<!-- end of bench -->\nbetween\n")
    assert "old session" not in text and text.count("Left out:") == 1 and text.endswith("foot\n")
    promises = text[text.index("<!-- bench session promises -->") :]
    assert "| row | 1 |" in promises and "| row | x |" not in promises
    report.update_docs()
    assert page.read_text() == text


def test_a_mark_without_its_end_changes_nothing(report, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace("<!-- end of bench -->", ""))
    (tmp_path / "session.md").write_text(TABLES)
    with pytest.raises(SystemExit, match="no <!-- end of bench -->"):
        report.update_docs()
    assert "old session" in page.read_text()


def test_a_grid_is_a_table_and_a_chart(report, tmp_path):
    from harness import grid
    from harness.results import Results

    results = Results()
    for loss in (0, 1):
        for contender, rate in (("ours", 90), ("theirs", 40)):
            for value in (rate - loss - 1, rate - loss, rate - loss + 5):
                results.add("work", f"{loss} %", contender, {"Mbit/s": value})
    rows = ("0 %", "1 %")
    lines = (grid.Line("us", "ours", rows), grid.Line("them", "theirs", rows, colour=1))
    both = grid.Grid("some-grid", "Rates", "Mbit/s", "loss", rows, lines)
    assert both.is_measured(results) and not both.is_measured(Results())
    head, rule, first, second = grid.table(results, both)
    assert [cell.strip() for cell in head.split("|")[1:-1]] == ["Mbit/s by loss", "us", "them"]
    assert [cell.strip() for cell in second.split("|")[1:-1]] == ["1 %", "89.0 (88.0..94.0)", "39.0 (38.0..44.0)"]
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- bench some-grid grid -->\n<!-- end of bench -->\nb\n")
    (tmp_path / "some-grid.md").write_text("\n".join([head, rule, first, second]) + "\n")
    assert report.update_docs() == ["page.md: some-grid grid"]
    assert second in page.read_text()


def test_notes_stand_under_the_tables(report, monkeypatch):
    from dataclasses import replace

    from groups import ALL
    from harness.results import Results

    results = Results()
    group = ALL["datagram"]
    results.add(group.workloads[1].name, "some row", "mproxy", {"Mbit/s": 1.0})
    about = {"rounds": 1, "load_before": 0.0}
    outcome = report.Report(replace(group, targets=()), results, about, "part")
    monkeypatch.setattr(report.environment, "summary", lambda _about: "here")
    text = outcome.text()
    assert group.workloads[1].note in text and group.workloads[0].note not in text


def test_a_chart_gets_smaller_and_keeps_its_figures(report):
    """Goal: coordinates have one decimal, names and styles are stored once, and no figure that is shown is cut."""
    from harness.plot import smaller
    text = "<text style=\"font: 7px sans\" x=\"3\">0.8376</text>\n"
    drawn = ('<svg><metadata>\n who\n</metadata><style></style>\n <g id="a">\n'
             '  <path d="M 1.23456 2 \nL 3 4.5678 \n"/>\n'
             f'  </g>\n<g id="kept"><use href="#kept"/></g>\n{text * 3}</svg>')
    small = smaller(drawn)
    assert small.count(">0.8376</text>") == 3 and "who" not in small and 'id="a"' not in small and 'id="kept"' in small
    assert "M 1.2 2" in small and "L 3 4.5" in small
    assert small.count("font: 7px sans") == 1 and small.count('class="s0"') == 3
