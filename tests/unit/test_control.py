"""The control socket's slices: whoever asks, and however many, a turn of the loop has little to do with answers."""

import os
import socket
import threading
import time
from collections import Counter

import pytest

from mproxy.io._loop import Loop
from mproxy.service import control

PART_NS = 100_000
PARTS = 40


@pytest.fixture
def loop():
    made = Loop()
    made.on_error = lambda error: pytest.fail(f"{error!r}")
    return made


def busy_parts(loop, turns):
    """An answer each part of which takes PART_NS at least; `turns` counts them by the loop's turns."""
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
    """Goal: one client gets the half millisecond of a turn, many get a part each; the answers are whole."""
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


NO_PROCESS = 1 << 22  # the kernel's numbers end below


def test_sockets_of_killed_programs_are_removed(tmp_path):
    """Goal: neither one that somebody listens on, though its number is that of no process here, nor another file."""
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
