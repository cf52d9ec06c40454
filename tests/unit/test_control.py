"""Answers on the control socket are cut into slices: however many clients ask, a turn of the loop stays short."""

import os
import socket
import threading
import time
from collections import Counter

import pytest

from mproxy.io._loop import Loop
from mproxy.service import control
from mproxy.service.log import Log
from mproxy.service.run import Program, _serve

PART_NS = 100_000
PARTS = 40


@pytest.fixture
def loop():
    made = Loop()
    made.on_error = lambda error: pytest.fail(f"{error!r}")
    return made


def busy_parts(loop, turns):
    """An answer whose parts take at least PART_NS each; `turns` counts them for each turn of the loop."""
    yield '{"parts": ['
    for number in range(PARTS):
        ends_at = time.monotonic_ns() + PART_NS
        while time.monotonic_ns() < ends_at:
            pass
        turns[loop.turns] += 1
        yield f"{', ' if number else ''}{number}"
    yield "]}"


@pytest.mark.parametrize("clients", [1, control.MOST_CLIENTS])
def test_a_turn_has_few_parts(loop, tmp_path, clients):
    """Goal: one client gets all of a turn's half millisecond, many get one part each; all answers are complete."""
    turns = Counter()
    server = control.Server(loop, str(tmp_path / "control.sock"), {
        "status": lambda _request, reply: reply(busy_parts(loop, turns))})
    answers = []

    def ask():
        answers.append(control.ask(server.path, "status"))
        if len(answers) == clients:
            loop.call_soon_threadsafe(loop.stop)
    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    loop.run()
    for thread in threads:
        thread.join()
    server.close()
    assert answers == [{"parts": list(range(PARTS))}] * clients
    assert max(turns.values()) <= max(control.SLICE_US * 1000 // PART_NS + 1, clients)


def test_a_connection_can_become_something_else(loop, tmp_path):
    """Goal: after the answer both ends have a connection of their own, that the server does not count any more."""
    taken = []

    def take(connection, pid):
        taken.append(pid)
        connection.setblocking(True)
        connection.sendall(connection.recv(5).upper())
        connection.close()
        loop.stop()
    server = control.Server(loop, str(tmp_path / "control.sock"), {
        "attach": lambda _request, reply: reply(control.Handover(take, {"ports": [6200]}))})
    got = []

    def attach():
        with socket.socket(socket.AF_UNIX) as connection, control.short_path(server.path) as short:
            connection.connect(short)
            connection.sendall(b'{"command": "attach"}\n')
            got.append(connection.recv(100))
            connection.sendall(b"hello")
            got.append(connection.recv(100))
    thread = threading.Thread(target=attach)
    thread.start()
    loop.run()
    thread.join()
    server.close()
    assert (got, taken) == ([b'{"ok": true, "ports": [6200]}\n', b"HELLO"], [os.getpid()])


NO_PROCESS = 1 << 22  # the kernel's numbers end below


def test_sockets_of_killed_programs_are_removed(tmp_path):
    """Goal: sockets that somebody listens on stay, even if no process here has their number, and so do other files."""
    def listen(name):
        listener = socket.socket(socket.AF_UNIX)
        with control.short_path(str(tmp_path / name)) as short:
            listener.bind(short)
        listener.listen(1)
        return listener

    listen(f"recv-{NO_PROCESS}.sock").close()
    listen(f"recv-{os.getpid()}.sock").close()
    (tmp_path / f"notes-{NO_PROCESS}.sock").write_text("")
    (tmp_path / "notes.sock").write_text("")
    with listen(f"sproxy-{NO_PROCESS}.sock"):
        control.sweep(str(tmp_path))
    left = sorted(os.listdir(tmp_path))
    assert f"recv-{NO_PROCESS}.sock" not in left
    assert f"sproxy-{NO_PROCESS}.sock" in left and f"recv-{os.getpid()}.sock" in left and "notes.sock" in left


def test_the_socket_is_there_when_a_program_says_that_it_listens(loop, tmp_path, monkeypatch):
    """Goal: whoever has read `listening` in the log can ask at once."""
    class Listening(Program):
        reached = False

        def start(self):
            with socket.socket(socket.AF_UNIX) as asker:
                asker.connect(str(tmp_path / "mproxy" / f"cproxy-{os.getpid()}.sock"))
                self.reached = True
            loop.call_soon_threadsafe(loop.stop)

        def commands(self):
            return {"status": lambda _request, reply: reply({})}

    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    program = Listening()
    _serve("cproxy", program, Log("info", "text"), loop)
    assert program.reached
    assert not list((tmp_path / "mproxy").iterdir())
