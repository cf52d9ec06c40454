"""The form of the source: lint, length, and words that do not belong in it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.meta.sources import ROOT, source_files

MOST_LINES = 600
MOST_COLUMNS = 120
SOURCES = source_files(".py", ".pyx", ".pxd", ".pyi", under=ROOT)
TEXTS = [path for path in SOURCES + source_files(".md", ".toml", ".in", under=ROOT) + sorted((ROOT / ".ci").iterdir())
         + [ROOT / "Makefile"] if path.is_file()]

PAGES = [path for path in source_files(".md", under=ROOT) if path.parent.name != "results"]

# What cannot be broken, or is written by a program: tables, code, the report of a benchmark.
NO_PROSE = re.compile(r"<!-- bench .*?<!-- end of bench -->|^ *```.*?^ *```$|^ *\|.*?$|^ {4}.*?$",
                      re.DOTALL | re.MULTILINE)

# The project speaks of what it is and does: not of the work on it, nor of the places where that was done. (Brackets
# keep the patterns from finding themselves.)
FOREIGN_WORDS = re.compile(
    r"\bTOD[O]\b|\bFIXM[E]\b|\bpart \d+ of \d|\bissue \d|(?<![\w.~-])/(?:work|home|Users)/"
    r"|\blanguage[ ]model|\bas discusse[d]\b|\bthe use[r] asked", re.IGNORECASE)


def relative(path):
    return str(path.relative_to(ROOT))


def is_content(*command):
    """Run a tool that is installed beside this Python."""
    tools = Path(sys.executable).parent
    done = subprocess.run([tools / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True,
                          env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"})
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff():
    is_content("ruff", "check", "--no-cache", "--output-format=concise", ".")


@pytest.mark.long
def test_mypy(tmp_path):
    is_content("mypy", "--cache-dir", tmp_path)


def test_cython_lint():
    is_content("cython-lint", "mproxy")


def test_files_are_not_too_long():
    counts = {relative(path): path.read_text().count("\n") for path in SOURCES}
    wrong = [f"{name} has {count} lines" for name, count in counts.items() if count > MOST_LINES]
    assert not wrong, f"at {MOST_LINES} lines there are two files in one:\n" + "\n".join(wrong)


def test_prose_has_lines_that_fit():
    wrong = []
    for path in PAGES:
        prose = NO_PROSE.sub(lambda found: "\n" * found[0].count("\n"), path.read_text()).split("\n")
        wrong += [f"{relative(path)}:{number}" for number, line in enumerate(prose, 1) if len(line) > MOST_COLUMNS]
    assert not wrong, f"above {MOST_COLUMNS} columns:\n" + "\n".join(wrong)


def test_texts_speak_of_the_project_alone():
    wrong = [f"{relative(path)}:{number}: {found[0]!r}" for path in TEXTS
             for number, line in enumerate(path.read_text().split("\n"), 1) if (found := FOREIGN_WORDS.search(line))]
    assert not wrong, "\n".join(wrong)


def test_make_help_lists_every_goal():
    makefile = (ROOT / "Makefile").read_text()
    goals = set(" ".join(re.findall(r"^\.PHONY: (.*)", makefile, re.MULTILINE)).split())
    told = subprocess.run(["make", "--silent", "help", f"PYTHON={sys.executable}"], cwd=ROOT, capture_output=True,
                          text=True, check=True).stdout
    assert {line.split()[1] for line in told.splitlines()} == goals
