"""One answer of several workers: whoever asks a program with `--workers` sees one program.

Worker 0 has the control socket. It asks the others for what it was asked itself, each on a connection that it sends to
that one's inbox, and joins the answers as text: their lists of sessions are long, and nobody here has to read them. A
worker that does not answer in time is left out, and the log says so.
"""

from __future__ import annotations

import json
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any

    from mproxy.ground.shapes import Logger
    from mproxy.io._loop import Loop
    from mproxy.service.control import Command, Reply

    Facts = dict[str, Any]

# What is between what a program says of itself and its sessions, in `status.parts_of`.
LIST = ', "sessions": ['
END = "]}"

# Less than whoever asks has patience for; and how often a worker is asked that dies of it, or at it.
PATIENCE_US = 3_000_000
TRIES = 3

RECEIVE_BYTES = 1 << 20

# Of the sessions that have ended so many are shown, as by one worker.
ENDINGS = 16


class Merged:
    """The commands of a program with several workers, for worker 0. `own`: this worker's; `reach(worker, socket)` has
    that worker answer there, `others` are their numbers."""

    def __init__(self, loop: Loop, log: Logger, own: Mapping[str, Command], others: Iterable[int],
                 reach: Callable[[int, socket.socket], object]) -> None:
        self._loop = loop
        self._log = log
        self._own = own
        self._others = list(others)
        self._reach = reach

    def commands(self) -> dict[str, Command]:
        """Those that concern all, and the others as they are."""
        return {**self._own, "status": self._tell_status, "kill": self._kill}

    def _tell_status(self, request: dict[str, Any], reply: Reply) -> None:
        self._ask_others(request, lambda answers: self._own["status"](request, lambda own: reply(
            join_status(own, answers))))  # type: ignore[arg-type]  # it comes in parts

    def _kill(self, request: dict[str, Any], reply: Reply) -> None:
        """Whoever has the session answers."""
        def asked(own: Any) -> None:
            if own.get("unknown"):
                self._ask_others(request, lambda answers: reply(next(
                    (found for answer in answers if not (found := json.loads(answer)).get("unknown")), own)))
            else:
                reply(own)
        self._own["kill"](request, asked)

    def _ask_others(self, request: Mapping[str, Any], done: Callable[[list[str]], object]) -> None:
        """Call `done` with the answers of all others, as far as there are any."""
        _Round(self._loop, self._log, json.dumps(request).encode() + b"\n", self._others, self._reach, done)


class _Round:
    """One question to several workers."""

    def __init__(self, loop: Loop, log: Logger, question: bytes, workers: list[int],
                 reach: Callable[[int, socket.socket], object], done: Callable[[list[str]], object]) -> None:
        self._loop = loop
        self._log = log
        self._question = question
        self._reach = reach
        self._done = done
        self._answers: dict[int, str] = {}
        self._waiting: dict[int, Callable[[], None]] = {}  # worker -> what ends the waiting
        self._timer = loop.call_later(PATIENCE_US, self._give_up)
        for worker in workers:
            self._ask(worker, TRIES)

    def _ask(self, worker: int, tries: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._reach(worker, theirs)
        ours.setblocking(False)
        ours.send(self._question)
        ours.shutdown(socket.SHUT_WR)
        parts: list[bytes] = []
        watch = self._loop.watch(ours.fileno(), lambda _events: hear())

        def end() -> None:
            watch.close()
            ours.close()

        def hear() -> None:
            try:
                data = ours.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            parts.append(data)
            if not data:
                self._waiting.pop(worker)()
                self._heard(worker, b"".join(parts).decode(), tries)

        self._waiting[worker] = end

    def _heard(self, worker: int, answer: str, tries: int) -> None:
        if answer.endswith("\n"):
            self._answers[worker] = answer.rstrip("\n")
        elif tries > 1:  # it died; the next one answers
            self._ask(worker, tries - 1)
        else:
            self._log.warning("worker-silent", asked=worker)
        if not self._waiting:
            self._timer.cancel()
            self._done([answer for _worker, answer in sorted(self._answers.items())])

    def _give_up(self) -> None:
        for worker in list(self._waiting):
            self._log.warning("worker-silent", asked=worker)
            self._waiting.pop(worker)()
        self._done([answer for _worker, answer in sorted(self._answers.items())])


def join_status(own: Iterable[str], others: list[str]) -> Iterator[str]:
    """The parts of an answer to `status`: this worker's, and those of others, as one program's."""
    parts = iter(own)
    facts = json.loads(next(parts).removesuffix(LIST) + "}")
    lists = []
    for answer in others:
        about, _, sessions = answer.partition(LIST)
        add_facts(facts, json.loads(about + "}"))
        lists.append(sessions.removesuffix(END))
    facts["endings"] = sorted(facts["endings"], key=lambda end: end["ended_s"])[:ENDINGS]
    yield json.dumps(facts)[:-1] + LIST
    any_yet, held = False, ""
    for part in parts:
        if held:
            yield held
            any_yet = True
        held = part  # the last one is END
    for text in lists:
        if text:
            yield ", " + text if any_yet else text
            any_yet = True
    yield END


def add_facts(facts: Facts, more: Facts) -> None:
    """Have `facts` of a program include those of another worker of it."""
    facts["deaths"] = facts.get("deaths", 0) + more.get("deaths", 0)
    facts["endings"] += more["endings"]
    if more["state"] == "stopping":
        facts["state"] = "stopping"
    _add(facts["ended"], more["ended"])


def _add(sums: Facts, more: Facts) -> None:
    for name, value in more.items():
        if isinstance(value, dict):
            _add(sums[name], value)
        else:
            sums[name] = round(sums[name] + value, 3)
