"""docs/doctor.md has a row for each check of `mproxy doctor`, and for each fact of its JSON."""

import ast
import re

from tests.meta.sources import PACKAGE, ROOT

PAGE = (ROOT / "docs" / "doctor.md").read_text()
SOURCES = [PACKAGE / "programs" / name for name in ("examination.py", "between.py", "trial.py")]
COMMON = {"check", "verdict", "text", "advice"}


def findings():
    """Calls of `CheckResult` in the source."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "CheckResult":
                yield node


def facts():
    """Names in the source of what a finding has besides: keywords, and keys of the `facts` that several have."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict) and node.target.id == "facts":
                yield from (key.value for key in node.value.keys)
    for call in findings():
        yield from (keyword.arg for keyword in call.keywords if keyword.arg)


def first_cells(heading):
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.split("\n") if line.startswith("| `")]
    return {name for cell in rows for name in re.findall(r"`(\w+)`", cell)}


def test_every_check_has_its_row():
    assert first_cells("What it looks at") == {call.args[0].value for call in findings()}


def test_every_fact_has_its_row():
    assert first_cells("As JSON") == set(facts()) - COMMON
