"""mproxy wait: what it waits for, what it says meanwhile, and its exit status."""

import contextlib
import time

import pytest

from mproxy.programs import status_commands
from mproxy.programs.status_commands import wait_main
from tests.unit.answering import SESSION, AnsweringPrograms, sound


class Waiting(AnsweringPrograms):
    """Programs of which each pause of `mproxy wait` changes something: `then` adds what."""

    def __init__(self, directory, stack, monkeypatch, capfd):
        super().__init__(directory, stack, monkeypatch)
        self._capfd = capfd
        self._steps = []
        monkeypatch.setattr(time, "sleep", lambda _: self._steps.pop(0)())

    def then(self, *steps):
        self._steps += steps

    def laptop(self, *states, name="laptop"):
        """A cproxy with sessions in these states; returns its socket."""
        sessions = [SESSION | {"session": f"{number:08x}", "state": state} for number, state in enumerate(states)]
        return self.say("cproxy", sound("cproxy", name=name, sessions=sessions), pid=len(self.running) + 1)

    def wait(self, *words):
        """(exit status, lines on standard error); all steps were needed."""
        status = wait_main([*words])
        assert not self._steps
        return status, self._capfd.readouterr().err.splitlines()


@pytest.fixture
def waiting(tmp_path, monkeypatch, capfd):
    with contextlib.ExitStack() as stack:
        yield Waiting(tmp_path, stack, monkeypatch, capfd)


def test_it_may_begin_before_the_program(waiting):
    """Goal: that nothing of that name runs yet is said once."""
    waiting.laptop("connected", name="other")
    waiting.then(lambda: None, lambda: None, lambda: waiting.laptop("connecting"), lambda: waiting.laptop("connected"))
    assert waiting.wait("laptop") == (0, ["mproxy wait: nothing called laptop is running yet; waiting"])


def test_nothing_at_all_runs_yet(waiting):
    waiting.then(lambda: None, lambda: waiting.laptop("away"))
    assert waiting.wait("--for", "away") == (0, ["mproxy wait: nothing is running yet; waiting"])


@pytest.mark.parametrize("which", ["lapotp", "4711"])
def test_the_end_of_what_was_never_there_is_an_error(waiting, which):
    waiting.laptop("connected")
    status, lines = waiting.wait("--for", "ended", which)
    assert status == 1 and len(lines) == 1 and f"nothing called {which} is running" in lines[0]


@pytest.mark.parametrize("which", [[], ["sproxy"]])
def test_of_a_kind_of_programs_nothing_being_left_is_the_end(waiting, which):
    assert waiting.wait("--for", "ended", *which) == (0, [])


def test_the_end_of_a_session_and_of_a_program(waiting):
    first = waiting.laptop("connected")
    waiting.then(lambda: waiting.end(first))
    assert waiting.wait("--for", "ended", "laptop") == (0, [])
    waiting.laptop()
    assert waiting.wait("--for", "ended", "laptop") == (0, [])


@pytest.mark.parametrize("which", ["laptop", "cproxy", "1"])
def test_one_that_hangs_has_not_ended(waiting, which, monkeypatch):
    """Goal: a program that was seen and does not answer now is still there."""
    first = waiting.laptop("connected")

    def hang():
        waiting.end(first)
        waiting.listen("cproxy", pid=1).listen()
        for name in ("PATIENCE_S", "LEAST_PATIENCE_S"):
            monkeypatch.setattr(status_commands, name, 0.05)

    def interrupt():
        raise KeyboardInterrupt
    waiting.then(hang, lambda: None, interrupt)
    assert waiting.wait("--for", "ended", which) == (130, [])


def test_one_that_hangs_may_be_the_one(waiting):
    waiting.listen("cproxy", pid=1).listen()
    status, lines = waiting.wait("--for", "ended", "--timeout", "0", "laptop")
    assert status == 1 and "--timeout has expired" in lines[0]


@pytest.mark.parametrize("state", ["connected", "away"])
def test_of_two_with_one_name_it_is_enough_that_one_is_so(waiting, state):
    waiting.laptop("connecting")
    waiting.laptop("connecting", state)
    assert waiting.wait("--for", state, "laptop") == (0, [])


def test_two_with_one_name_have_ended_when_both_have(waiting):
    first, second = waiting.laptop("connected"), waiting.laptop("away")
    waiting.then(lambda: waiting.end(first), lambda: None, lambda: waiting.end(second))
    assert waiting.wait("--for", "ended", "laptop") == (0, [])


def test_the_time_is_over(waiting):
    waiting.laptop("connecting")
    assert waiting.wait("--timeout", "0", "laptop") == (1, ["mproxy wait: --timeout has expired"])
    status, lines = waiting.wait("--timeout", "0", "lapotp")
    assert status == 1 and len(lines) == 1 and "nothing called lapotp is running" in lines[0]
