"""The keeper and its workers, with a small program (kept.py): deaths, signals, statuses, and what is left behind."""

import contextlib
import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
from lab import outage, until
from program import Program, PtyProgram, is_pending

from mproxy.keeper.signals import ONE_WISH_NS, passed_on

KEPT = Path(__file__).parent / "kept.py"
DEATHS = 200
ONE_WISH_S = ONE_WISH_NS / 1e9
MIB = 1 << 20


class Kept:
    """kept.py, and one connection to it."""

    def __init__(self, ends, kind, options):
        self.program = kind([sys.executable, KEPT, *options])
        ends.callback(self.program.close)
        self.log = self.program if kind is Program else Screen(self.program)
        listening = self.log.event("listening")
        self.keeper, self.port = int(listening["pid"]), int(listening["port"])
        if kind is PtyProgram:
            ends.callback(self.end)  # not the program that was started
        self.ends = ends
        if "--start" not in options:
            self.app = self.connect()

    def end(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.keeper, signal.SIGKILL)

    def connect(self):
        app = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        self.ends.callback(app.close)
        return app

    def worker(self, number=1):
        """The pid of the number-th worker."""
        return int(self.log.event("serving", number)["pid"])

    def ask(self, line, app=None):
        app = app or self.app
        app.sendall(line.encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            more = app.recv(65536)
            assert more, f"cut after {answer!r}, instead of an answer to {line!r}"
            answer += more
        return answer.decode().rstrip("\n")

    def kill(self, name="SIGKILL"):
        """End the worker by a signal; it reads nothing more."""
        os.kill(int(self.ask("pid")), getattr(signal, name))


class Screen:
    """Events of a program whose log is a terminal."""

    def __init__(self, program):
        self._program = program

    def event(self, name, count=1):
        self._program.log = self._program.out
        return self._program.event(name, count)


@pytest.fixture
def kept(ends):
    """Starts kept.py with options."""
    return lambda *options, kind=Program: Kept(ends, kind, options)


def state(pid):
    """A process's state as ps shows it; None: it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None


def private_bytes(pid):
    """Memory that is only this process's."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


@pytest.mark.parametrize("name", ["SIGKILL", "SIGABRT"])
def test_a_connection_outlives_the_worker(kept, name):
    """Goal: neither the connection nor one that waits to be accepted notices; others know the program by its keeper."""
    program = kept()
    assert program.ask("hello") == "hello"
    first = program.worker()
    program.kill(name)
    waiting = program.connect()
    assert program.ask("hello again") == "hello again"
    assert program.ask("hello too", waiting) == "hello too"
    second = program.log.event("serving", 2)
    assert first != int(second["pid"]) and program.program.running
    assert int(second["keeper"]) == int(second["main"]) == program.keeper
    died = program.log.event("worker-died")
    assert (died["pid"], died["why"], died["restart"]) == (str(first), name, "now")


def test_an_error_within_is_a_death(kept):
    program = kept("--start", "raise something", "--most", "2")
    assert program.program.wait() == 1
    assert program.log.event("worker-died")["why"] == "exit status 70"


@pytest.mark.parametrize("status", [0, 2, 3])
def test_a_worker_that_ends_is_the_end(kept, status):
    program = kept()
    program.app.sendall(f"exit {status}\n".encode())
    assert program.program.wait() == status
    assert not program.log.events("worker-died")


def test_deaths_leave_nothing(kept):
    """Goal: not a descriptor more, with the same numbers; no process; next to no memory."""
    program = kept("--young", "0")
    program.kill()
    fds = program.ask("fds")
    memory = private_bytes(program.keeper)
    for number in range(DEATHS):
        program.kill()
        assert program.ask(f"{number}") == f"{number}"
    assert program.ask("fds") == fds
    children = Path(f"/proc/{program.keeper}/task/{program.keeper}/children").read_text().split()
    assert len(children) == 1
    assert private_bytes(program.keeper) - memory < MIB


def test_who_dies_at_once_is_given_up(kept):
    """Goal: pauses grow, the last death is told on standard error, the status is a failure."""
    program = kept("--start", "kill SIGABRT", "--most", "6")
    began_at = time.monotonic()
    assert program.program.wait() == 1
    assert [event["restart"] for event in program.log.events("worker-died")] == ["now", "now", "0.1s", "0.2s", "0.4s"]
    assert time.monotonic() - began_at > 0.6
    program.program.expect("^kept: the worker has died 6 times in a row.*SIGABRT", output=program.program.log)


def test_told_to_stop_in_a_pause(kept):
    """Goal: the next worker starts at once, to end in order; as it dies instead, none follows."""
    program = kept("--start", "kill SIGABRT", "--most", "20")
    program.log.event("worker-died", 7)  # the next pause is of 1.6 s
    assert program.program.stop() == 128 + signal.SIGABRT
    assert program.log.events("worker-died")[-1]["restart"] == "never"


# ---- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop(kept, number):
    program = kept()
    worker = program.worker()
    assert program.program.stop(number) == 0
    assert program.log.event("stopping")["signal"] == number.name
    assert state(worker) is None


def test_second_signal_ends_at_once(kept):
    program = kept()
    program.ask("hang")
    program.program.signal(signal.SIGTERM)
    program.log.event("stopping")
    outage(ONE_WISH_S)
    assert program.program.stop() == 1


def test_what_comes_twice_at_once_is_one_wish(kept):
    """Goal: timeout(1) sends to the process and to its group, a terminal to all: no end is cut short by that."""
    program = kept()
    program.ask("hang")
    program.program.signal_at_once(signal.SIGTERM, signal.SIGINT)
    program.log.event("stopping")
    assert program.ask("hello") == "hello"
    outage(ONE_WISH_S)
    assert program.program.stop() == 1


def test_second_signal_while_the_interpreter_ends(kept):
    """Goal: where no handler is left, it is still the end that was asked for, and no death."""
    program = kept()
    program.ask("unhandle")
    assert program.program.stop() == 1
    assert not program.log.events("worker-died")


@pytest.mark.parametrize("deaths", [0, 1])
def test_signals_to_both_processes_count_once(kept, deaths):
    """Goal: `pkill`, or a service manager, sends to all processes of a program: that is one SIGTERM."""
    program = kept()
    for _ in range(deaths):
        program.kill()
    program.ask("hang")
    for pid in (program.worker(1 + deaths), program.keeper):
        os.kill(pid, signal.SIGTERM)
    program.log.event("stopping")
    assert program.ask("hello") == "hello"
    outage(ONE_WISH_S)
    assert program.program.stop() == 1


def test_who_dies_while_it_stops_has_no_successor(kept):
    program = kept()
    program.ask("hang")
    program.program.signal(signal.SIGTERM)
    program.log.event("stopping")
    os.kill(program.worker(), signal.SIGKILL)
    assert program.program.wait() == 128 + signal.SIGKILL
    assert program.log.event("worker-died")["restart"] == "never"


def kill_deaf(program, number):
    """The worker gets a signal from its keeper, and dies before it can do anything."""
    pid = program.worker()
    os.kill(pid, signal.SIGSTOP)
    program.program.signal(number)
    until(lambda: is_pending(pid, passed_on(number)), 10, "the keeper has passed it on")
    os.kill(pid, signal.SIGKILL)


def test_what_a_dying_worker_did_not_do_the_next_one_does(kept):
    """Goal: neither a reload nor an end is lost with the worker that was told, and each is done once."""
    program = kept()
    kill_deaf(program, signal.SIGHUP)
    program.log.event("reloaded")
    program.kill()
    program.worker(3)
    assert program.ask("hello") == "hello"
    assert len(program.log.events("reloaded")) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_dies_before_it_hears_of_the_end_has_a_successor(kept, number):
    """Goal: that one ends in order."""
    program = kept()
    kill_deaf(program, number)
    assert program.program.wait() == 0
    assert program.log.event("worker-died")["restart"] == "now"
    assert program.log.event("stopping")["signal"] == number.name


def test_a_reload_that_kills_is_not_tried_again(kept):
    """Goal: it is said, and the next one serves."""
    program = kept()
    program.ask("stumble")
    program.program.signal(signal.SIGHUP)
    program.worker(2)
    assert "died" in program.log.event("reload-failed")["why"]
    assert program.ask("hello") == "hello"
    assert len(program.log.events("reloaded")) == 1


def test_hangup_reloads_and_other_signals_are_nothing(kept):
    program = kept()
    program.worker()
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT, signal.SIGHUP):
        program.program.signal(number)
    program.log.event("reloaded")
    program.kill()
    program.worker(2)
    program.program.signal(signal.SIGHUP)
    program.log.event("reloaded", 2)
    assert program.ask("hello") == "hello"


def test_the_worker_dies_with_the_keeper(kept):
    program = kept()
    worker = program.worker()
    program.program.signal(signal.SIGKILL)
    assert program.program.wait() == -signal.SIGKILL
    until(lambda: state(worker) in (None, "Z"), 10, "the worker is gone")
    with pytest.raises(ConnectionRefusedError):
        program.connect()


@pytest.mark.parametrize("deaths", [0, 1])
def test_interrupt_from_the_terminal_comes_once(kept, deaths):
    program = kept("--job", kind=PtyProgram)
    program.worker()
    for _ in range(deaths):
        program.kill()
        program.worker(2)
    program.ask("hang")
    program.program.type("\x03")
    program.log.event("stopping")
    assert program.ask("hello") == "hello"  # a second one would have ended it
    outage(ONE_WISH_S)
    program.program.type("\x03")
    assert program.program.wait() == 1


def test_stopped_and_continued_from_the_terminal(kept):
    """Goal: Ctrl-Z stops both, as the shell sees; `fg` has both go on."""
    program = kept("--job", kind=PtyProgram)
    worker = program.worker()
    for number in (1, 2):
        program.program.type("\x1a")
        until(lambda: (state(program.keeper), state(worker)) == ("T", "T"), 10, "both are stopped")
        program.program.expect(rf"(job stopped\n(.*\n)*?){{{number}}}")
        os.kill(program.keeper, signal.SIGCONT)
        assert program.ask("hello") == "hello"
        program.program.expect(rf"(job continued\n(.*\n)*?){{{number}}}")


# ---- what a clone must not have in common with the one before


def test_each_worker_has_a_chance_of_its_own(kept):
    """Goal: OpenSSL's and Python's random numbers begin differently in each worker, whatever the keeper's state is."""
    program = kept()
    drawn = program.ask("chance").split()
    for _ in range(2):
        program.kill()
        drawn += program.ask("chance").split()
    assert len(set(drawn)) == 9


def test_libraries_know_which_process_they_are_in(kept):
    program = kept()
    for _ in range(2):
        assert program.ask("identity") == "True True True"
        program.kill()


def test_orphans_are_buried(kept):
    program = kept("--reaper")
    program.ask("orphan")
    program.kill()
    program.worker(2)
    children = Path(f"/proc/{program.keeper}/task/{program.keeper}/children")
    until(lambda: len(children.read_text().split()) == 1, 10, "only the worker is left")


def test_a_session_that_crashes_workers_is_named_to_the_next(kept):
    """Goal: the second crash in its turn condemns it; kills from outside are not held against it."""
    program = kept()
    for number, name in enumerate(["SIGKILL", "SIGKILL", "SIGABRT", "SIGABRT"], 2):
        program.ask("turn 7")
        program.kill(name)
        program.worker(number)
    assert [event["condemned"] for event in program.log.events("serving")] == ["", "", "", "", "7"]
