"""The control socket's slices: whoever asks, and however many, a turn of the loop has little to do with answers."""

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
