"""mproxy top on a terminal of tmux, with real sessions."""

import os
import pty
import re
import shutil
import signal
import subprocess

import pytest
from asking import ask, session_of, streams_of
from lab import until
from proxies import CPROXY_PORT
from relays import MPROXY
from traffic import Traffic, ends_by_reset

pytestmark = pytest.mark.skipif(not shutil.which("tmux"), reason="no tmux")


class Tmux:
    """A separate terminal on a host, with one program in it."""

    def __init__(self, host, *command, columns=110, lines=24):
        self.host = host
        self.server = ("tmux", "-f", "/dev/null", "-S", host.home / "tmux.sock")
        quoted = " ".join(f"'{word}'" for word in map(str, command))
        self.tmux("new-session", "-d", "-x", columns, "-y", lines, f"{quoted}; echo status $?; sleep 1000")

    def tmux(self, *words):
        return self.host.run(*self.server, *words)

    @property
    def text(self):
        return self.tmux("capture-pane", "-p")

    def keys(self, *names):
        self.tmux("send-keys", *names)

    def shows(self, *words, within=20):
        return until(lambda: all(word in (text := self.text) for word in words) and text, within,
                     f"{words} in {self.text}")

    def close(self):
        self.tmux("kill-server")


@pytest.fixture
def top(pair, ends):
    def start(*options, host=pair.lab.client, **size):
        terminal = Tmux(host, MPROXY, "top", "--delay", "200ms", *options, **size)
        ends.callback(terminal.close)
        return terminal
    return start


@pytest.mark.parametrize(("environment", "is_red"), [("NO_COLOR=", True), ("NO_COLOR=1", False)])
def test_colours_are_for_those_who_want_them(pair, ends, environment, is_red):
    pair.start_cproxy("--eager")
    pair.cproxy.event("dial-failed")
    terminal = Tmux(pair.lab.client, "env", environment, MPROXY, "top")
    ends.callback(terminal.close)
    terminal.shows("connecting")
    until(lambda: bool(re.search(r"\x1b\[(?:\d+;)*31m", terminal.tmux("capture-pane", "-e", "-p"))) == is_red, 10,
          f"colours with {environment}")


def test_it_shows_sorts_explains_and_kills(pair, served, top):
    """Goal: it shows a session with its outage and streams, and kills a stream or the session on request, but never
    without asking first."""
    name = session_of(pair.lab.client, "cproxy")["session"]
    terminal = top()
    text = terminal.shows("laptop", name, "connected", "1 session (0 away)", "DOWN/s")
    assert text.splitlines()[1].startswith("PROGRAM")
    pair.lab.wifi.cut()
    terminal.shows("away", "(1 away)")
    pair.lab.wifi.mend()
    terminal.shows("connected", "(0 away)")
    other = pair.app()
    terminal.keys("Enter")
    terminal.shows("away", "ago for", "heard", f"stream {name}/1", f"stream {name}/2")
    terminal.keys("Down", "k")
    terminal.shows(f"kill stream {name}/2?")
    terminal.keys("n")
    until(lambda: "kill stream" not in terminal.text, 10, "the question has gone")
    assert len(streams_of(pair.lab.client, "cproxy")) == 2
    terminal.keys("k", "y")
    assert ends_by_reset(other)
    terminal.keys("Escape")
    terminal.shows("PROGRAM")
    terminal.keys("k", "y")
    assert ends_by_reset(served)
    assert "mproxy top" in pair.sproxy.event("ended")["why"]
    terminal.keys("q")
    terminal.shows("status 0")


def test_one_that_hangs_hides_no_other(pair, served, top):
    """Goal: the programs that answer are shown at once and stay up to date; `status` names the one that hangs."""
    other = pair.start_cproxy("--name", "hung", port=CPROXY_PORT + 1)
    control = pair.lab.client.home / "runtime" / "mproxy" / f"cproxy-{other.process.pid}.sock"
    until(lambda: "hung" in pair.lab.client.run(MPROXY, "status"), 30, "its answer")
    other.signal(signal.SIGSTOP)
    try:
        terminal = top("laptop")
        terminal.shows("laptop", "connected", within=5)
        pair.lab.wifi.cut()
        terminal.shows("away", within=15)
        status = pair.lab.client.start(MPROXY, "status")
        assert status.wait(within=20) == 1
        assert "laptop" in status.out.text and str(control) in status.log.text
    finally:
        other.signal(signal.SIGCONT)
        pair.lab.wifi.mend()


def test_rates_and_order(pair, served, top):
    traffic = Traffic([pair.app()])
    terminal = top("--sort", "up/s")
    until(lambda: any("M " in line for line in terminal.text.splitlines()[2:3]), 20, "megabytes a second")
    terminal.keys(">", "r")
    traffic.goes_on()
    traffic.finish()


def test_any_size(pair, served, top):
    """Goal: small screens show the most important columns, tiny ones one word; a resize takes effect at once."""
    terminal = top(columns=40, lines=8)
    terminal.shows("SESSION", "STATE", "connected")
    assert "OUTAGES" not in terminal.text
    terminal.tmux("resize-window", "-x", 150, "-y", 30)
    terminal.shows("OUTAGES", "LONGEST", "laptop")
    for columns, lines in ((10, 2), (1, 1), (19, 5), (30, 3), (25, 4)):
        terminal.tmux("resize-window", "-x", columns, "-y", lines)
    terminal.tmux("resize-window", "-x", 80, "-y", 12)
    terminal.shows("SESSION", "connected")
    terminal.keys("Enter")
    terminal.tmux("resize-window", "-x", 20, "-y", 5)
    terminal.tmux("resize-window", "-x", 80, "-y", 12)
    terminal.shows("heartbeat")
    terminal.keys("q")
    terminal.shows("status 0")


@pytest.mark.parametrize(("columns", "lines"), [(1, 1), (10, 3), (20, 4)])
def test_it_begins_on_a_tiny_terminal(pair, served, top, columns, lines):
    terminal = top(columns=columns, lines=lines)
    terminal.tmux("resize-window", "-x", 80, "-y", 12)
    terminal.shows("SESSION", "connected")
    terminal.keys("q")
    terminal.shows("status 0")


@pytest.mark.parametrize("setting", [["TERM=nonsense"], ["TERM=dumb"], ["TERM=unknown"], ["TERM="], ["-u", "TERM"]],
                         ids=" ".join)
def test_a_terminal_that_cannot_do_it_is_an_error_of_one_line(pair, ends, setting):
    terminal = Tmux(pair.lab.client, "env", *setting, MPROXY, "top", columns=200)
    ends.callback(terminal.close)
    text = terminal.shows("status 2")
    first, second, *_ = text.splitlines()
    assert first.startswith("mproxy top: TERM ") and "mproxy status --watch" in first and second == "status 2", text


ENDS = {"q": ("q", 0), "Ctrl-C": ("C-c", 0), "SIGTERM": (signal.SIGTERM, 143), "SIGHUP": (signal.SIGHUP, 129),
        "SIGQUIT": (signal.SIGQUIT, 131)}


@pytest.mark.parametrize(("end", "status"), ENDS.values(), ids=ENDS)
def test_the_terminal_is_given_back(pair, served, ends, tmp_path, end, status):
    """Goal: its settings, and what stood on it, whatever ends the program."""
    file = tmp_path / "pid"
    terminal = Tmux(pair.lab.client, "sh", "-c", (
        f'set -m; stty -g; sh -c "echo \\$\\$ > {file}; exec \\"\\$0\\" top" "$0"; echo ended $?; stty -g'), MPROXY,
        columns=200)
    ends.callback(terminal.close)
    terminal.shows("laptop", "connected")
    if isinstance(end, str):
        terminal.keys(end)
    else:
        os.kill(int(file.read_text()), end)
    text = terminal.shows(f"ended {status}", "status 0")
    before, ended, after, *_ = text.splitlines()
    assert before == after and ended == f"ended {status}", text


def test_it_ends_when_the_terminal_has_gone():
    """Goal: also where nobody sends SIGHUP it does not go on reading from nothing."""
    ours, theirs = pty.openpty()
    program = subprocess.Popen([MPROXY, "top"], stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, text=True,
                               env=os.environ | {"TERM": "xterm"}, start_new_session=True)
    os.close(theirs)
    os.read(ours, 1)
    os.close(ours)
    assert program.communicate(timeout=20)[1] == "mproxy top: the terminal has gone\n"
    assert program.returncode == 1


def test_without_a_terminal(pair):
    program = pair.lab.client.start(MPROXY, "top")
    assert program.wait() == 2
    assert "not a terminal" in program.log.text and len(program.log.text.splitlines()) == 1
    for words in (["--sort", "colour"], ["--delay", "0"], ["--delay", "2h"], ["--delay", "soon"]):
        program = pair.lab.client.start(MPROXY, "top", *words)
        assert program.wait() == 2 and len(program.log.text.splitlines()) == 1
        assert " ".join(words) in program.log.text
    assert "--sort" in ask(pair.lab.client, "top", "--help")
