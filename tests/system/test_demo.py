"""The demo as its users run it: privileged or not, with and without `ip`, into a pipe, several at once, interrupted."""

import os
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from lab import until

from mproxy.programs import demo
from mproxy.programs.demo import DemoConfig, Screen, Verdict, spans

DEMO = [sys.executable, "-m", "mproxy.programs.main", "demo"]
SHORT = ["--outage", "600ms", "--heartbeat", "100ms"]

# How each form is started: prefix, options, PATH.
FORMS = {
    "plain": ([], SHORT, None),
    "three changes": ([], [*SHORT, "--changes", "3"], None),
    "cut": ([], [*SHORT, "--cut"], None),
    "no ip": ([], SHORT, "/nonexistent"),
}
if shutil.which("setpriv"):
    # To map its own uid root needs CAP_SETFCAP, others need nothing (user_namespaces(7)).
    FORMS["no privileges"] = (["setpriv", "--bounding-set=-all,+setfcap", "--inh-caps=-all"], SHORT, None)


class Run:
    """One demo; `token` in its environment marks all that it starts."""

    def __init__(self, *options, prefix=(), path=None, home=None):
        self.token = f"MPROXY_DEMO_TEST={uuid.uuid4()}"
        name, _, value = self.token.partition("=")
        environment = {**os.environ, name: value, "PATH": path or os.environ["PATH"]}
        environment |= {"TMPDIR": str(home)} if home else {}
        self.process = subprocess.Popen(
            [shutil.which(word) or word for word in prefix] + [*DEMO, *options], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    def end(self):
        """(exit status, output, complaints)."""
        output, complaints = self.process.communicate(timeout=60)
        return self.process.returncode, output, complaints

    def read_until(self, word):
        """The output up to the first line with `word`."""
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if word in line:
                break
        return "".join(lines)

    def processes(self):
        """{pid: command line} of the processes that it started and that are still running."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if self.token.encode() in (process / "environ").read_bytes().split(b"\0"):
                    found[int(process.name)] = (process / "cmdline").read_bytes().decode()
            except OSError:
                continue  # gone meanwhile
        return found


@pytest.fixture(scope="module")
def ended():
    """{form: (exit status, output, stderr)}; all run at the same time, since they must not collide."""
    runs = {form: Run(*options, prefix=prefix, path=path) for form, (prefix, options, path) in FORMS.items()}
    return {form: run.end() for form, run in runs.items()}


@pytest.mark.parametrize("form", FORMS)
def test_passes_in_every_form(ended, form):
    """Goal: exit status 0, a good verdict and no complaint; at most 80 columns, and no colours in a pipe."""
    status, output, complaints = ended[form]
    assert (status, complaints) == (0, ""), output + complaints
    assert output.startswith("Numbers are lines")
    assert "PASSED: nothing lost" in output
    assert "gaps          none" in output
    changes = 3 if form == "three changes" else 1
    assert output.count("TAKEN: ") == output.count("GIVEN: ") == changes
    assert output.count("cproxy resumed: ") >= changes, "over the first carrier that works, then perhaps over UDP"
    assert "\x1b" not in output
    assert max(map(len, output.splitlines())) <= 80


def test_says_how_it_takes_the_network_away(ended):
    for form in ended.keys() & {"cut", "no ip"}:
        assert "cutting connections instead of changing an address" in ended[form][1]
    assert "iproute2" in ended["no ip"][1]


def test_changes_the_address_where_it_may(ended, lab):
    """Goal: as root, or in a user namespace of its own, it changes an address instead of only cutting connections."""
    for form in ended.keys() & {"plain", "no privileges"}:
        output = ended[form][1]
        assert "a virtual cable" in output, output
        assert "sproxy resumed: after=" in output and "peer=198.51.100.12:" in output


@pytest.mark.parametrize("options", [[], ["--cut"]], ids=["cable", "cut"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_interrupted_it_leaves_nothing_behind(options, number, tmp_path):
    """Goal: however the demo is ended, its programs end, and its networks with them; its keys go too, unless it was
    killed."""
    run = Run(*options, home=tmp_path)
    run.read_until("cproxy connected")
    assert len(run.processes()) == 3
    run.process.send_signal(number)
    status, _, complaints = run.end()
    assert status == (-number if number == signal.SIGKILL else 128 + number)
    assert ("interrupted" in complaints) == (number != signal.SIGKILL)
    until(lambda: not run.processes(), 20, "the programs of the demo are gone")
    assert number == signal.SIGKILL or not os.listdir(tmp_path)


def test_reader_of_the_output_goes():
    """Goal: `mproxy demo | head -1` ends soon and quietly."""
    run = Run()
    assert run.process.stdout.readline()
    run.process.stdout.close()
    assert run.process.wait(10) == 1
    assert run.process.stderr.read() == ""
    run.process.stderr.close()
    until(lambda: not run.processes(), 8, "the programs of the demo are gone")


def test_death_of_a_proxy_is_no_success():
    run = Run("--outage", "2s")
    run.read_until("TAKEN")
    sproxy = next(pid for pid, command in run.processes().items() if "programs.sproxy" in command)
    os.kill(sproxy, signal.SIGKILL)
    status, output, complaints = run.end()
    assert status == 1
    assert complaints == "mproxy demo: sproxy exited with status -9: no output\n"
    assert "PASSED" not in output


@pytest.mark.parametrize("options", [["--outage", "soon"], ["--changes", "0"], ["--heartbeat", "1us"], ["telnet"]])
def test_wrong_options_are_one_line(options):
    status, output, complaints = Run(*options).end()
    assert (status, output) == (2, "")
    assert complaints.startswith("mproxy demo: ") and options[-1] in complaints and complaints.count("\n") == 1


def lines(*numbers):
    return [f"{number} 08:00:00.000" for number in numbers]


SENT = lines(1, 2, 3, 4, 5)

BAD = {
    "lost": (lines(1, 2, 5), None, [0.1], "gaps          3-4"),
    "lost at the end": (lines(1, 2, 3, 4), None, [0.1], "gaps          5"),
    "repeated": (lines(1, 2, 2, 3, 4, 5), None, [0.1], "repeated      2"),
    "out of order": (lines(1, 3, 2, 4, 5), None, [0.1], "out of order  2"),
    "damaged": ([*SENT[:4], "5 08:00:00.0"], None, [0.1], "damaged       1 line"),
    "died": (SENT, "Connection reset by peer", [0.1], "connection    Connection reset by peer"),
    "never came back": (SENT, None, [0.1, None], "first byte    0.100 s, never after"),
    "nothing at all": ([], None, [], "numbers       0 received of 5"),
}


def shown(verdict):
    """What a screen would show of it."""
    reading, writing = os.pipe()
    Screen(writing).conclude(verdict)
    os.close(writing)
    with open(reading) as pipe:
        return pipe.read()


def test_verdict_is_good_when_all_came_in_order():
    verdict = Verdict(SENT, SENT, None, [0.012])
    assert verdict.good
    assert "PASSED" in shown(verdict) and "5 received of 5 sent" in shown(verdict) and "0.012 s after" in shown(verdict)


@pytest.mark.parametrize("what", BAD)
def test_verdict_is_bad(what, monkeypatch):
    """Goal: each kind of damage is found and named, and gives exit status 1."""
    received, died, delays_s, finding = BAD[what]
    verdict = Verdict(SENT, received, died, delays_s)
    assert not verdict.good
    assert "FAILED" in shown(verdict) and finding in shown(verdict)
    monkeypatch.setattr(demo.Story, "run", lambda story: verdict)
    assert demo.run(DemoConfig(cut=True)) == 1


def test_spans():
    assert spans([1, 2, 3, 7, 9, 10]) == ["1-3", "7", "9-10"]
    assert spans([3, 2]) == ["3", "2"]
    assert spans(["8", "?", "9"]) == ["8", "?", "9"]
    assert spans([]) == []


def test_colours_are_for_terminals(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    screen, terminal = os.openpty()
    Screen(terminal).tell("no address", "TAKEN: ", demo.RED)
    coloured = b"\x1b[" + demo.RED.encode() + b"mTAKEN: \x1b[m"
    assert coloured in os.read(screen, 1000)
    monkeypatch.setenv("NO_COLOR", "")  # as if it were not set: no-color.org
    Screen(terminal).tell("no address", "TAKEN: ", demo.RED)
    assert coloured in os.read(screen, 1000)
    monkeypatch.setenv("NO_COLOR", "1")
    Screen(terminal).tell("no address", "TAKEN: ", demo.RED)
    told = os.read(screen, 1000)
    assert b"TAKEN: " in told and b"\x1b" not in told
    os.close(terminal)
    os.close(screen)
