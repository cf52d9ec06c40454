"""quick-start begins to log in to a host of which nothing is known, as `mproxy connect` would."""

import os
import subprocess
from pathlib import Path

import pytest

from mproxy.policy import via_start
from mproxy.policy.host_record import HostRecord
from mproxy.programs.connect import parse
from mproxy.programs.push_script import QUICK

QUICK_START = Path(__file__).resolve().parents[2] / QUICK
PATIENCE_S = 30

SAYS_WORDS = """#!/bin/sh
printf '%s\\0' "${0##*/}" "$MPROXY_BOOTSTRAP" "$@"
"""
# In place of Python: what has been begun says.
HEARS = """#!/bin/sh
set -- $MPROXY_BEGUN
[ $# = 0 ] || cat <&"$2"
"""
USUAL = ["ann@server:22", "server"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory with an `ssh` that prints its words, and a home."""
    for name, text in (("ssh", SAYS_WORDS), ("python", HEARS)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    return tmp_path


def begun(place, words, **options):
    """What is run, as its words; none if nothing is."""
    done = subprocess.run([QUICK_START, place / "python", place / "mproxy", "connect", *words], check=True,
                          timeout=PATIENCE_S, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, **options)
    return done.stdout.split(b"\0")[:-1]


@pytest.mark.parametrize("words", [
    USUAL, ["ann@10.1.0.2:2222", "a.B_c"], ["--ssh", "ssh -F /x/y -o A=b -i a+b", "x-y.z_1@a-b.c:1", "n"]], ids=str)
def test_it_runs_what_python_would_run(place, words):
    by_python = subprocess.run(["sh", "-c", parse(words).via], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               check=True, timeout=PATIENCE_S).stdout.split(b"\0")[:-1]
    assert begun(place, words) == by_python
    assert by_python[:2] == [b"ssh", b"1"]


@pytest.mark.parametrize("words", [
    [], ["ann@server:22"], ["server:22", "server"], ["ann@server", "server"], ["ann@Server:22", "server"],
    ["ann@server:0", "x"], ["ann@server:70000", "x"], ["-ann@server:22", "x"], ["ann@-x:22", "x"], ["ann@x:22", "-x"],
    ["ann@::1:22", "x"], ["ann@010.0.0.1:22", "x"], ["ann@1.0.02.1:22", "x"], [*USUAL, "more"],
    ["--idle", "0", *USUAL], ["--ssh", "'s s'", *USUAL], ["--ssh", "", *USUAL], ["--ssh"], ["an n@x:22", "x"],
    ["--help"]], ids=str)
def test_what_is_unusual_is_for_python(place, words):
    assert begun(place, words) == []


def test_a_host_that_is_known_is_for_python(place):
    """Goal: there may be a port that is tried first; and nobody is asked for a password in vain."""
    config = parse(USUAL)
    HostRecord(config.state_dir, config.name).learn(6200, f"SHA256:{'x' * 43}")
    assert begun(place, USUAL) == []
    assert begun(place, ["ann@other:22", "other"]) != []


@pytest.mark.parametrize("variable, value", [
    ("STATE_DIRECTORY", "{home}/own:/x"), ("XDG_STATE_HOME", "{home}/xdg")])
def test_the_record_is_where_python_keeps_it(place, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value.format(home=place))
    config = parse(USUAL)
    HostRecord(config.state_dir, config.name).learn(6200, f"SHA256:{'x' * 43}")
    assert begun(place, USUAL) == []


def test_ssh_calls_itself_for_the_bootstrap(place, monkeypatch):
    monkeypatch.setenv("MPROXY_BOOTSTRAP", "1")
    assert begun(place, USUAL) == []


def test_python_takes_it_over(place, monkeypatch):
    """Goal: its socket, its standard error and its end; what was told is told once."""
    sock, theirs = via_start.socket.socketpair()
    errors, writer = os.pipe()
    with theirs:
        process = subprocess.Popen(["sh", "-c", "echo out; echo err >&2"], stdout=theirs, stderr=writer)
    os.close(writer)
    monkeypatch.setenv(via_start.BEGUN, f"{process.pid} {sock.detach()} {errors}")
    assert via_start.take_over_early("the command")
    assert not via_start.take_over_early("the command")
    child = via_start.start("the command", False)
    assert process.wait(PATIENCE_S) == 0
    assert (child.pid, child.has_terminal) == (process.pid, False)
    assert child.sock.recv(100) == b"out\n" and os.read(child.errors, 100) == b"err\n"
    assert not child.sock.get_inheritable() and not os.get_inheritable(child.errors)
    child.sock.close()
    os.close(child.errors)
