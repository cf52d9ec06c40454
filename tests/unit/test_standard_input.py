"""Programs that read standard input, and have none."""

import os
import subprocess

import pytest

from tests.meta.sources import ROOT

PROGRAMS = [
    ["cproxy", "--stdio", "127.0.0.1", "1"], ["sproxy", "--attach"], ["connect", "user@host"], ["copy", "--other-end"],
    ["send", "-", "127.0.0.1", "1"], ["certify", "--show", "-"], ["message-client", "127.0.0.1", "1"]]


@pytest.mark.parametrize("words", PROGRAMS, ids=lambda words: words[0])
@pytest.mark.parametrize("given, why", [
    ("<&-", "is closed"), ("0>/dev/null", "is open for writing only"), ("</", "is a directory")])
def test_one_line_says_what_is_wrong(tmp_path, words, given, why):
    """Goal: before anything begins, as for other mistakes of the command line."""
    done = subprocess.run(["sh", "-c", f'exec "$@" {given}', "sh", ROOT / "bin/mproxy", *words], cwd=tmp_path,
                          env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]}, capture_output=True, text=True,
                          timeout=60, check=False)
    assert done.returncode == 2, done
    assert done.stderr.count("\n") == 1 and done.stderr.endswith(f"standard input {why}\n"), done


@pytest.mark.parametrize("program", ["cproxy", "sproxy"])
def test_a_directory(tmp_path, program):
    """Goal: no launcher leaves that to Python, which ends with a dump of its state."""
    done = subprocess.run(["sh", "-c", 'exec "$0" --version </', ROOT / program], stderr=subprocess.PIPE, text=True,
                          timeout=60, check=False)
    assert (done.returncode, done.stderr) == (2, f"{program}: standard input is a directory\n")
