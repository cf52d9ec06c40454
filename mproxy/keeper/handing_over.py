"""The worker's part in an upgrade: it gives the next build all that there is, between two turns of its loop, and ends;
or it goes on, and says why.

Nothing that it does before its end changes anything, so it may also die on the way.
"""

from __future__ import annotations

import json
import os
import signal
import socket

from mproxy._dump import OLDEST, VERSION, dump_sessions
from mproxy._inherit import kept_own_record
from mproxy.ground.errors import LocalError
from mproxy.ground.words import escaped
from mproxy.io import heirlooms
from mproxy.io.manager_socket import MOST_FDS
from mproxy.io.sealed_file import make_sealed
from mproxy.keeper.deaths import HANDED_OVER
from mproxy.keeper.main_process import main_pid, upgrades, worker_deaths
from mproxy.keeper.upgrade_messages import hear, say
from mproxy.keeper.upgrades import PATIENCE_S

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mproxy.ground.shapes import Logger
    from mproxy.io._loop import Loop, Watch

# By which name the next build gets where this one's log goes.
LOG = "log"

# What a socket does not take at once it takes within this time.
SLOW_S = PATIENCE_S + 1


class HandingOver:
    """In a worker. `vows()`: what the next build has to know before it is ready."""

    def __init__(self, loop: Loop, log: Logger, program: str, main_socket: socket.socket,
                 vows: Callable[[], dict[str, Any]]) -> None:
        self._loop = loop
        self._log = log
        self._program = program
        self._vows = vows
        self._main_socket = main_socket
        self._refusal = ""              # why there can be no upgrade now
        self._pid: int | None = None    # of the next build, as long as it is not known how it went
        self._socket: socket.socket | None = None  # to it
        self._watch: Watch | None = None
        self._askers: list[socket.socket] = []  # who wants to know
        loop.watch(main_socket.fileno(), self._hear_main)

    def refuse(self, why: str) -> None:
        """From now on there is no upgrade."""
        self._refusal = why

    def ask(self, asker: socket.socket) -> None:
        """Begin one; `asker` is told in the end how it went, in a line of JSON."""
        asker.setblocking(False)
        self._askers.append(asker)
        if self._refusal:
            self._fail(self._refusal)
        else:
            os.kill(main_pid(), signal.SIGUSR2)

    def _hear_main(self, _events: int) -> None:
        try:
            heard = hear(self._main_socket, socket.MSG_DONTWAIT)  # the next build waits at the same one
        except BlockingIOError:
            return
        if heard is None:
            return
        message, fds = heard
        if "successor" in message and fds:
            self._begin(message["successor"], socket.socket(fileno=fds[0]))
        elif "ended" in message and (self._pid is not None or self._askers):
            self._fail(message["ended"])

    def _begin(self, pid: int, sock: socket.socket) -> None:
        """The next build has been started: tell it what it may need until it is ready."""
        self._pid, self._socket = pid, sock
        if self._refusal:
            self._fail(self._refusal)
            return
        sock.settimeout(SLOW_S)
        things = {LOG: 2, **heirlooms.noted()}
        try:
            say(sock, {"program": self._program, "deaths": worker_deaths(), "upgrades": upgrades(),
                       "vows": self._vows(), "things": list(things)}, list(things.values()))
        except OSError as error:
            message = self._next_word() or {}  # it has ended already, and perhaps said why
            self._fail(str(message.get("failed", f"it does not listen: {error.strerror}")))
            return
        self._watch = self._loop.watch(sock.fileno(), self._hear)

    def _hear(self, _events: int) -> None:
        message = self._next_word()
        if message is None:
            self._hang_up()  # the main process says how it has ended
        elif "failed" in message:
            self._fail(str(message["failed"]))
        else:
            self._give(message)

    def _next_word(self) -> dict[str, Any] | None:
        """What the next build says; None: it has ended, or hangs."""
        assert self._socket is not None
        try:
            heard = hear(self._socket)
        except OSError:
            return None
        return heard[0] if heard is not None else None

    def _give(self, wishes: dict[str, Any]) -> None:
        """It is ready: give it all; returns only if it did not get that, or cannot use it."""
        assert self._socket is not None
        version = min(VERSION, wishes.get("newest", 0))
        if version < max(OLDEST, wishes.get("oldest", 0)):
            self._fail(f"it reads dumps of version {wishes.get('oldest')} to {wishes.get('newest')}, and this build"
                       f" writes {OLDEST} to {VERSION}")
            return
        try:
            dump, descriptors = make_dump(version)
        except (OSError, LocalError, MemoryError) as error:
            self._fail(f"the sessions cannot be dumped: {error}")
            return
        try:
            say(self._socket, {"descriptors": len(descriptors)}, [dump])
            for start in range(0, len(descriptors), MOST_FDS):
                say(self._socket, {"more": True}, descriptors[start:start + MOST_FDS])
        except OSError as error:
            self._fail(f"it did not take all descriptors: {error.strerror}")
            return
        finally:
            os.close(dump)
        answer = self._next_word()
        if answer is None:
            self._hang_up()
        elif "loaded" in answer:
            self._answer({"ok": True, "lines": [], "done": f"version {answer['loaded']} has taken over"})
            os._exit(HANDED_OVER)
        else:
            self._fail(str(answer.get("failed")))

    def _fail(self, why: str) -> None:
        """There is no upgrade; everything goes on."""
        self._hang_up()
        self._pid = None
        why = escaped(why)
        self._log.error("upgrade-failed", why=f"{why}; the running one continues")
        self._answer({"ok": False, "lines": [f"no upgrade: {why}; the running one continues"]})

    def _hang_up(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _answer(self, what: dict[str, Any]) -> None:
        while self._askers:
            with self._askers.pop() as asker:
                try:
                    asker.send(json.dumps(what).encode() + b"\n")
                except OSError:
                    pass  # it has gone


def make_dump(version: int) -> tuple[int, list[int]]:
    """All sessions in a file without a name that nobody can change any more, and the descriptors that go with them."""
    return make_sealed("mproxy-dump", lambda room: dump_sessions(version, kept_own_record(), room))
