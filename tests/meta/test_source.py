"""The look of the source: lint, length, and words that belong elsewhere."""

import re
import subprocess
import sys
import tomllib

import pytest

from tests.meta.sources import ROOT, source_files

MOST_LINES = 600
MOST_COLUMNS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["line-length"]
SOURCES = source_files(".py", ".pyx", ".pxd", ".pyi", under=ROOT)
TEXTS = [path for path in SOURCES + source_files(".md", ".toml", ".in", under=ROOT) + sorted((ROOT / ".ci").iterdir())
         + [ROOT / "Makefile"] if path.is_file()]

# The project speaks of what it is and does: not of the work on it, nor of the places where that was done. (Brackets
# keep the patterns from finding themselves.)
FOREIGN_WORDS = re.compile(
    r"\bTOD[O]\b|\bFIXM[E]\b|\bpart \d+ of \d|\bissue \d|(?<![\w.~-])/(?:work|home|Users)/"
    r"|\blanguage[ ]model|\bas discusse[d]\b|\bthe use[r] asked", re.IGNORECASE)


def relative(path):
    return str(path.relative_to(ROOT))


def run(*command):
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)


def test_ruff_is_content():
    done = run("ruff", "check", "--no-cache", "--output-format=concise", ".")
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_is_content(tmp_path):
    done = run("mypy", "--cache-dir", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_file_is_not_too_long(path):
    count = path.read_text().count("\n")
    assert count <= MOST_LINES, f"{relative(path)} has {count} lines; at {MOST_LINES} there are two files in one"


@pytest.mark.parametrize("path", [path for path in SOURCES if path.suffix in (".pyx", ".pxd")], ids=relative)
def test_cython_keeps_the_line_length(path):
    """ruff reads Python alone."""
    wrong = [f"{relative(path)}:{number}: {len(line)} columns, {line[:40]!r}..."
             for number, line in enumerate(path.read_text().split("\n"), 1)
             if len(line) > MOST_COLUMNS or line != line.rstrip() or "\t" in line]
    assert not wrong, f"longer than {MOST_COLUMNS} columns, blanks at the end, or tabs:\n" + "\n".join(wrong)


@pytest.mark.parametrize("path", TEXTS, ids=relative)
def test_text_speaks_of_the_project_alone(path):
    wrong = [f"{relative(path)}:{number}: {found[0]!r}" for number, line in enumerate(path.read_text().split("\n"), 1)
             if (found := FOREIGN_WORDS.search(line))]
    assert not wrong, "\n".join(wrong)
