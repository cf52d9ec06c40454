"""The start of `mproxy copy`: which command lines need no parser, and when ssh is started before all else."""

import subprocess
import sys
from pathlib import Path

import pytest

from mproxy.programs.copy_options import parse_copy, split, split_plain
from mproxy.programs.copy_start import needs_ssh

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("words", [
    ["a", "h:"], ["--quiet", "a", "b", "ann@h:dir/"], ["-r", "-p", "h:a", "."], ["-P", "2222", "a", "h:"],
    ["--ssh", "ssh -F 'my config'", "--remote-mproxy", "/opt/mproxy", "a", "h:x"]])
def test_without_a_parser_it_is_the_same(words):
    plain = split_plain(words)
    assert plain is not None
    given, rest = split(words)
    assert plain[1] == rest
    assert {**plain[0], "force": True, "datagram": {}} == {**given, "force": True}


@pytest.mark.parametrize("words", [
    [], ["a"], ["--quiet", "a"], ["a", "h:", "--quiet"], ["--qui", "a", "h:"], ["-P", "x", "a", "h:"], ["-P"],
    ["-P22", "a", "h:"],
    ["--ssh", "", "a", "h:"], ["-", "h:"], ["--", "a", "h:"], ["--delete", "a", "h:"], ["-rp", "a", "h:"]])
def test_whatever_else_there_is_is_for_the_parser(words):
    assert split_plain(words) is None


def test_ssh_is_started_early_if_it_is_needed_for_sure(tmp_path, monkeypatch):
    """Goal: nobody types a password, and is told then that there is no such file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").touch()
    assert needs_ssh(parse_copy(["here", "h:"]))
    assert not needs_ssh(parse_copy(["here", "missing", "h:"]))
    assert not needs_ssh(parse_copy(["--dry-run", "here", "h:"]))
    assert needs_ssh(parse_copy(["--dry-run", "--delete", "here", "h:"]))
    assert needs_ssh(parse_copy(["-", "h:x"]))
    assert needs_ssh(parse_copy(["h:x", "."]))
    assert not needs_ssh(parse_copy(["h:x", "h:y", "nowhere"]))


@pytest.mark.parametrize(("module", "words"), [
    ("connect", ["ann@127.0.0.1:22"]), ("copying", ["--quiet", __file__, "127.0.0.1:x"])])
def test_ssh_logs_in_while_the_rest_is_imported(module, words, tmp_path):
    """Goal: this many modules are imported before it is started, and nothing of sessions, transfers or parsers."""
    look = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from mproxy.policy import via_start
def started(command, has_terminal):
    ours = [name for name in sys.modules if name.startswith("mproxy.")]
    heavy = ("argparse", "json", "threading", "mproxy._session", "mproxy.io._loop", "mproxy.programs.cproxy")
    print(len(ours), *[name for name in heavy if name in sys.modules])
    sys.stdout.flush()
    import os
    os._exit(0)
via_start.ViaChild = started
import mproxy.programs.{module} as program
program.main({words!r})
"""
    done = subprocess.run([sys.executable, "-IS", "-c", look], capture_output=True, text=True, timeout=60, check=False,
                          env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"})
    count, *heavy = done.stdout.split()
    assert not heavy and int(count) <= 21, done.stdout + done.stderr
