"""All programs are asked at once: whatever one of them does or fails to do, the others' answers arrive."""

import contextlib
import json
import os
import select
import socket
import threading
import time

import pytest

from mproxy.service import survey
from tests.unit.answering import HERE, AnsweringPrograms, sound

# What a busy machine may add.
SLOWNESS_S = 3


class Programs(AnsweringPrograms):
    """With how long it took to ask them."""

    def ask(self, patience_s=0.3):
        """{name: whether it has answered}; those that have not go by their program."""
        began = time.monotonic()
        found = {one.facts["name"] if one.facts else one.program: one.facts is not None
                 for one in survey.survey(patience_s)}
        assert time.monotonic() - began < patience_s + SLOWNESS_S
        return found


@pytest.fixture
def programs(tmp_path, monkeypatch):
    with contextlib.ExitStack() as stack:
        yield Programs(tmp_path, stack, monkeypatch)


def is_over(connection, within):
    """Whether who asked has hung up, or does within so many seconds."""
    return bool(select.select([connection], [], [], within)[0])


def in_pieces(facts):
    def answer(connection):
        assert json.loads(connection.recv(4096)) == {"command": "status"}
        said = json.dumps(facts).encode() + b"\n"
        for at in range(0, len(said), 50):
            connection.sendall(said[at:at + 50])
            is_over(connection, 0.001)
    return answer


def hangs(connection):
    connection.recv(4096)
    threading.Event().wait(20)


def trickles(connection):
    for _ in range(2000):
        connection.sendall(b" ")
        is_over(connection, 0.01)


STRANGE = {
    "hangs": hangs, "trickles": trickles, "ends": lambda connection: None,
    "half": lambda connection: connection.sendall(b'{"program": "spr'),
    "text": lambda connection: connection.sendall(b"hello\n"), "list": lambda connection: connection.sendall(b"[1]\n"),
    "deep": lambda connection: connection.sendall(b"[" * 200_000)}


def test_each_has_its_answer_and_strange_ones_have_none(programs):
    for name, answer in STRANGE.items():
        programs.add(name, answer)
        programs.add("recv", in_pieces(sound("recv", name=f"good-{name}")))
    assert programs.ask() == {f"good-{name}": True for name in STRANGE} | dict.fromkeys(STRANGE, False)


def test_what_a_killed_program_left_is_passed_over(programs):
    programs.listen("killed")  # bound, and nobody listens
    programs.running.append(("gone", HERE, "/nowhere/gone-1.sock"))
    assert programs.ask() == {}


def test_one_that_ends_while_it_is_asked_is_passed_over(programs):
    programs.add("ending", lambda connection: os.unlink(programs.running[0][2]))
    assert programs.ask() == {}


def test_one_with_all_its_places_taken_is_silent(programs):
    listener = programs.listen("busy")
    listener.listen(0)
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(programs.running[0][2])
        assert programs.ask() == {"busy": False}


def test_owner(programs):
    programs.say("recv", sound("recv"))
    (one,) = survey.survey(1)
    assert (one.uid, one.pid, one.facts) == (os.geteuid(), HERE, sound("recv"))


def test_an_answer_of_another_program_is_none(programs):
    programs.say("sproxy", sound("recv"))
    (one,) = survey.survey(1)
    assert one.facts is None and "this release" in one.why


def test_more_than_are_asked_at_once(programs, monkeypatch):
    monkeypatch.setattr(survey, "AT_ONCE", 3)
    for number in range(10):
        programs.say("recv", sound("recv", name=f"p{number}"))
    assert programs.ask() == {f"p{number}": True for number in range(10)}


@pytest.mark.parametrize(("which", "asked"), [
    ("cproxy", ["cproxy"]), ("recv", ["recv", "recv"]), ("a process", ["recv"]), ("inbox", ["cproxy", "recv", "recv"]),
    ("relay", ["cproxy", "recv", "recv"]), (None, ["cproxy", "recv", "recv"])])
def test_only_those_are_asked_that_may_be_meant(programs, which, asked):
    """Goal: who asks for one of several is not told of thousands of streams of the others, nor waits for them."""
    programs.say("cproxy", sound("cproxy"))
    programs.say("recv", sound("recv"))
    programs.say("recv", sound("recv"), pid=HERE + 1)
    found = survey.survey(5, False, str(HERE + 1) if which == "a process" else which, streams=True)
    assert sorted(one.program for one in found) == asked and len(programs.requests) == len(asked)
