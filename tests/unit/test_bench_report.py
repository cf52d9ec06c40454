"""The bench's tables get into the pages, each group's between its own marks, and nothing else changes."""

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
