"""All programs are asked at once: whatever one of them does or fails to do, the others' answers arrive."""

import contextlib
import json
import os
import socket
import threading
import time

import pytest

from mproxy.service import survey

HERE = os.getpid()

# What a busy machine may add.
SLOWNESS_S = 3


class Programs:
    """Control sockets in a directory; `add` has one answered by a function, in a thread."""

    def __init__(self, directory, stack, monkeypatch):
        self._directory = directory
        self._stack = stack
        self.running = []
        monkeypatch.setattr(survey, "find_running", lambda: self.running)

    def listen(self, name, pid=HERE):
        listener = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        path = self._directory / f"{name}-{pid}.sock"
        listener.bind(str(path))
        self.running.append((name, pid, str(path)))
        return listener

    def add(self, name, answer, pid=HERE):
        listener = self.listen(name, pid)
        listener.listen()

        def serve():
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    answer(connection)
        threading.Thread(target=serve, daemon=True).start()

    def ask(self, patience_s=0.3):
        """{name: facts}"""
        began = time.monotonic()
        found = {one.program: one.facts for one in survey.survey(patience_s)}
        assert time.monotonic() - began < patience_s + SLOWNESS_S
        return found


@pytest.fixture
def programs(tmp_path, monkeypatch):
    with contextlib.ExitStack() as stack:
        yield Programs(tmp_path, stack, monkeypatch)


def healthy(facts, pause_s=0.0):
    def answer(connection):
        assert json.loads(connection.recv(4096)) == {"command": "status"}
        for byte in json.dumps(facts).encode() + b"\n":
            connection.sendall(bytes([byte]))
            time.sleep(pause_s)
    return answer


def hangs(connection):
    connection.recv(4096)
    threading.Event().wait(20)


def trickles(connection):
    for _ in range(2000):
        connection.sendall(b" ")
        time.sleep(0.01)


STRANGE = {
    "hangs": hangs, "trickles": trickles, "ends": lambda connection: None,
    "half": lambda connection: connection.sendall(b'{"program": "spr'),
    "text": lambda connection: connection.sendall(b"hello\n"), "list": lambda connection: connection.sendall(b"[1]\n"),
    "deep": lambda connection: connection.sendall(b"[" * 200_000)}


def test_each_has_its_answer_and_strange_ones_have_none(programs):
    for name, answer in STRANGE.items():
        programs.add(name, answer)
        programs.add(f"good-{name}", healthy({"name": name}, 0.001))
    assert programs.ask() == {f"good-{name}": {"name": name} for name in STRANGE} | dict.fromkeys(STRANGE)


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
        assert programs.ask() == {"busy": None}


def test_owner(programs):
    programs.add("mine", healthy({}))
    (one,) = survey.survey(1)
    assert (one.uid, one.pid, one.facts) == (os.geteuid(), HERE, {})


def test_more_than_are_asked_at_once(programs, monkeypatch):
    monkeypatch.setattr(survey, "AT_ONCE", 3)
    for number in range(10):
        programs.add(f"p{number}", healthy({"number": number}))
    assert programs.ask() == {f"p{number}": {"number": number} for number in range(10)}
