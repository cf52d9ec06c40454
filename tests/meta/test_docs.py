"""The documentation: links lead somewhere, and the options page has every option and no other."""

import ast
import re
import subprocess
import sys

import pytest

from mproxy.programs import main
from tests.meta.sources import ROOT, source_files

PAGES = [ROOT / "README.md", *source_files(".md", under=ROOT / "docs")]
OPERATIONS = ROOT / "docs" / "operations.md"
RELAY = ROOT / "docs" / "relay.md"
LINK = re.compile(r"\]\(([^)\s]+)[^)]*\)|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)  # [](here), ![](here), [name]: here
PROGRAMS = [name if name in ("cproxy", "sproxy") else f"mproxy {name}" for name in main.PROGRAMS if name != "relay"]
LOG_PAGES = [OPERATIONS, RELAY, ROOT / "docs" / "transfer.md"]
LEVELS = ("debug", "info", "warning", "error")
FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+\s+(.*?)\s*$", re.MULTILINE)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def page_name(path):
    return str(path.relative_to(ROOT))


def prose(path):
    """The page without its blocks of code."""
    return FENCED.sub("", path.read_text())


def anchors(path):
    """The anchors that a web view of the page gives its headings."""
    slugs = (re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(prose(path)))
    return set(slugs)


def broken(page):
    """The links of `page` that lead nowhere on this disk."""
    for groups in LINK.findall(prose(page)):
        link = "".join(groups)
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        if not file.exists():
            yield f"{page_name(page)}: {link}: no such file"
        elif anchor and anchor not in anchors(file):
            yield f"{page_name(page)}: {link}: no such heading"


def options_of(program):
    """Every option that `./program --help` shows, or `mproxy program --help`."""
    program, *word = program.split()
    command = [sys.executable, "-m", "mproxy.programs.main", *word] if word else [ROOT / program]
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=30, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(OPTION.findall(done.stdout))


def documented(page=OPERATIONS):
    """The options that have a row of their own in a page: they stand in its first cell."""
    rows = (line for line in prose(page).split("\n") if line.startswith("|"))
    return {option for row in rows for option in OPTION.findall(row.split("|")[1])}


def test_the_pages_are_there():
    missing = [name for name in ("README.md", "docs/protocol.md", "docs/architecture.md", "docs/operations.md")
               if not (ROOT / name).exists()]
    assert not missing, f"not written: {', '.join(missing)}"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page):
    assert not list(broken(page)), "\n".join(broken(page))


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_option_has_its_row(program):
    missing = options_of(program) - documented()
    assert not missing, f"{program} --help shows, docs/operations.md has no row for: {' '.join(sorted(missing))}"


def test_the_relay_has_its_own_page():
    shown = options_of("mproxy relay") | options_of("mproxy relay status")
    page = documented(RELAY)
    assert page == shown, f"only in --help or only in docs/relay.md: {' '.join(sorted(page ^ shown))}"


def test_every_row_has_its_option():
    unknown = documented().difference(*map(options_of, PROGRAMS))
    assert not unknown, f"docs/operations.md has rows for, no --help shows: {' '.join(sorted(unknown))}"


def logged_events():
    """(event, where) of every line that a program can log under a name that stands in its source."""
    for path in source_files(".py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS
                    and node.args and isinstance(node.args[0], ast.Constant)):
                yield node.args[0].value, f"{path.relative_to(ROOT)}:{node.lineno}"


def documented_events():
    """Events with a row of their own in a table of events: those of which the second column is a level."""
    rows = [line.split("|") for page in LOG_PAGES for line in page.read_text().split("\n") if line.startswith("| `")]
    first_cells = [row[1] for row in rows if row[2].strip().split(",")[0] in LEVELS]
    return {event for cell in first_cells for event in re.findall(r"`([a-z-]+)`", cell)}


def test_every_event_has_its_row():
    documented = documented_events()
    missing = [f"{event} ({where})" for event, where in logged_events() if event not in documented]
    assert not missing, f"logged, and in no table of events: {', '.join(missing)}"


def test_every_row_has_its_event():
    source = "".join(path.read_text() for path in source_files(".py"))
    unknown = [event for event in documented_events() if f'"{event}"' not in source]
    assert not unknown, f"in a table of events, and logged by nobody: {', '.join(unknown)}"
