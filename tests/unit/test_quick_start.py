"""quick-start: the start of `mproxy ssh` and `mproxy connect` without Python."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mproxy.programs.next_ssh import standby_name
from mproxy.programs.push_script import QUICK, launcher
from mproxy.programs.ssh import compose

ROOT = Path(__file__).resolve().parents[2]
QUICK_START = ROOT / QUICK
PATIENCE_S = 30

SAYS_WORDS = """#!/bin/sh
printf '%s\\0' "${0##*/}" "$@"
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with an `ssh`, a `python` and an `mproxy` that only print their words."""
    directory = tmp_path_factory.mktemp("quick")
    for name in ("ssh", "python", "mproxy"):
        (directory / name).write_text(SAYS_WORDS)
        (directory / name).chmod(0o755)
    return directory


def quick(place, *words, **options):
    """What is run instead: its words."""
    environment = {**os.environ, "PATH": f"{place}:/usr/bin:/bin", **options.pop("env", {})}
    done = subprocess.run([QUICK_START, place / "python", place / "mproxy", *words], env=environment, check=True,
                          timeout=PATIENCE_S, stdout=subprocess.PIPE, **options)
    return [word.decode(errors="surrogateescape") for word in done.stdout.split(b"\0")[:-1]]


@pytest.mark.parametrize("words", [
    ["server"], ["ann@server", "ls", "-l"], ["-p22", "-Tp", "2222", "server", "--", "-x"], ["--", "server", "-4"],
    ["-i", "my key", "-4", "server"], ["-J", "gate", "server"], ["-oProxyJump=gate", "server"], ["-Jgate", "server"],
    ["-o", "ControlMaster auto", "-o", "Port=1", "-o", " = proxyCOMMAND  x", "server"], ["server", "-F", "%d/it's"],
    ["-o"], ["-p"], ["-"], ["-", "-4", "server"], ["-o", "=", "server"], ["-z", "server"], ["-4A6", "server", ""],
    ["-oSessionTypeX=1", "-oPort 7", "server"], ["--helpless", "server"], ["-h", "server"]])
def test_ssh_gets_the_words_that_python_would_give_it(place, words):
    assert quick(place, "ssh", *words) == compose(words, [str(place / "mproxy")])


WORD = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=6)
OPTION = st.builds(lambda letters, value: f"-{letters}{value}", st.text("46AoiFJpLTtvWz", min_size=1, max_size=3), WORD)
SETTING = st.sampled_from(["-o", "-oProxyCommand=x", "-o", "ProxyJump=a", "ControlPath=%C", "Port=5", "-J", "-F", "--"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.one_of(WORD, OPTION, SETTING), min_size=1, max_size=6))
def test_whatever_the_words_are(place, words):
    if words in (["-h"], ["--help"], ["--help-all"]):
        return
    assert quick(place, "ssh", *words) == compose(words, [str(place / "mproxy")])


@pytest.mark.parametrize("words", [["ssh"], ["ssh", "--help"], ["ssh", "-h"], ["connect"], ["connect", "ann@server:22"],
                                   ["relay", "80"]])
def test_everything_else_is_for_python(place, words):
    assert quick(place, *words) == ["python", "-IS", str(place / "mproxy"), *words]


def test_a_program_of_pip_s_is_run_itself(place):
    """Goal: it is no launcher of ours, and finds its packages in its own way."""
    done = subprocess.run([QUICK_START, "-", place / "mproxy", "connect", "ann@server:22"], timeout=PATIENCE_S,
                          check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert done.stdout == b"mproxy\0connect\0ann@server:22\0"
    done = subprocess.run([QUICK_START, "-", place / "missing", "connect", "x"], timeout=PATIENCE_S, check=False,
                          stderr=subprocess.PIPE)
    assert done.returncode == 127 and done.stderr.endswith(b"missing: No such file or directory\n")


def test_ssh_calls_a_program_of_pip_s_through_it(place):
    """Goal: ssh's ProxyCommand needs no Python to find who waits."""
    program = place / "pip" / "mproxy"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
                       "from mproxy.programs.start import mproxy\nsys.exit(mproxy())\n")
    program.chmod(0o755)
    done = subprocess.run([program, "ssh", "server"], env={**os.environ, "PATH": f"{place}:/usr/bin:/bin"}, check=True,
                          timeout=PATIENCE_S, stdout=subprocess.PIPE)
    assert done.stdout.decode().split("\0")[:-1] == [
        "ssh", "-o", f"ProxyCommand={QUICK_START} - {program} connect %r@%h:%p %n", "server"]


def test_a_missing_ssh_is_for_python_to_explain(place, tmp_path):
    assert quick(place, "ssh", "server", env={"PATH": str(tmp_path)})[0] == "python"


# --- whoever waits for the next ssh

WORDS = ["--ssh", "ssh -F none", "ann@server:22", "server"]


@pytest.fixture
def waiting(tmp_path, monkeypatch):
    """A socket at which somebody waits for a `mproxy connect` with WORDS."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    directory = tmp_path / "mproxy"
    directory.mkdir(0o700)
    monkeypatch.chdir(directory)  # for paths that are longer than an address may be
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(standby_name(WORDS))
        listener.listen()
        listener.settimeout(PATIENCE_S)
        yield listener


def start(place, words=WORDS, by=None, **options):
    command = [QUICK_START, place / "python", place / "mproxy"] if by is None else by
    return subprocess.Popen([*command, "connect", *words],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


BY_PYTHON = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
             "from mproxy.programs.start import mproxy\nsys.exit(mproxy())"]


@pytest.mark.parametrize("by", [None, BY_PYTHON], ids=["quick-start", "python"])
def test_who_waits_gets_all_three(place, waiting, by):
    """Goal: the pipes themselves change hands: what is written to them never passes a third process. Where a program of
    pip's has started Python it is the same."""
    with start(place, by=by) as program:
        guest, _ = waiting.accept()
        guest.settimeout(PATIENCE_S)
        guest.sendall(b"+")
        byte, fds, _flags, _address = socket.recv_fds(guest, 1, 3)
        assert byte == b"+" and len(fds) == 3
        program.stdin.write(b"hello")
        program.stdin.flush()
        assert os.read(fds[0], 5) == b"hello"
        os.write(fds[1], b"hallo")
        os.write(fds[2], b"servus")
        for fd in fds:
            os.close(fd)
        assert program.stdout.read() == b"hallo", "and its own copy is closed"
        assert program.poll() is None, "it stays as long as it is served"
        guest.close()
        assert program.wait(PATIENCE_S) == 0
        assert program.stderr.read() == b"servus"


@pytest.mark.parametrize("why", ["refused", "silent", "others", "in the way", "bootstrap"])
def test_without_an_answer_python_does_it(place, waiting, why):
    """Goal: also when somebody else could get into the directory."""
    words, env = WORDS, dict(os.environ)
    if why == "others":
        words = [*WORDS[:-1], "other"]
    elif why == "in the way":
        os.chmod(os.getcwd(), 0o755)
    elif why == "bootstrap":
        env["MPROXY_BOOTSTRAP"] = "1"
    with start(place, words, env=env) as program:
        if why in ("refused", "silent"):
            guest, _ = waiting.accept()
            if why == "refused":
                guest.close()
        assert program.stdout.read().split(b"\0")[0] == b"python"
        assert program.wait(PATIENCE_S) == 0


def test_no_pipe_is_for_python(place, waiting, tmp_path):
    """Goal: a file keeps its place in it, and its own mode."""
    with open(tmp_path / "file", "w+b") as file:
        assert quick(place, "connect", *WORDS, stdin=file)[0] == "python"


@pytest.mark.parametrize("odd", ["", "sp ace", "quo'te", "back\\slash"])
def test_the_launcher_is_for_sh_and_python(tmp_path, odd):
    """Goal: whatever the path is; without quick-start Python does everything."""
    root = tmp_path / f"root{odd}"
    (root / "mproxy" / "programs").mkdir(parents=True)
    (root / "mproxy" / "__init__.py").touch()
    (root / "mproxy" / "programs" / "__init__.py").touch()
    (root / "mproxy" / "programs" / "start.py").write_text("def mproxy():\n    import sys\n    print(sys.argv[1:])\n")
    program = tmp_path / "mproxy"
    program.write_text(launcher(sys.executable, str(root), "mproxy", "# Written by a test."))
    program.chmod(0o755)
    for words in (["ssh", "a b"], ["connect"], ["relay"], []):
        done = subprocess.run([program, *words], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
        assert (done.stdout, done.stderr) == (f"{words}\n", "")
