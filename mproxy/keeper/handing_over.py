"""The worker's part in an upgrade: it gives the next build all that there is, between two turns of its loop, and ends;
or it goes on, and says why.

Nothing that it does before its end changes anything, so it may also die on the way. Then the next worker hears of the
end of an upgrade that it has not begun: it asks for another one, or says that there was none (orders.py).
"""

from __future__ import annotations

import json
import os
import signal
import socket

from mproxy._dump import OLDEST, VERSION
from mproxy.ground.errors import LocalError
from mproxy.ground.words import escaped
from mproxy.io import heirlooms
from mproxy.keeper.deaths import HANDED_OVER
from mproxy.keeper.giving import give_sessions
from mproxy.keeper.main_process import main_pid, upgrades, worker_deaths
from mproxy.keeper.upgrade_messages import hear, look, say
from mproxy.keeper.upgrades import PATIENCE_S

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mproxy.ground.shapes import Logger
    from mproxy.io._loop import Loop, Watch
    from mproxy.keeper.handing_out import HandingOut
    from mproxy.keeper.orders import Orders

# By which name the next build gets where this one's log goes.
LOG = "log"

# What a socket does not take at once it takes within this time.
SLOW_S = PATIENCE_S + 1


class HandingOver:
    """In a worker; of several in the first one, which speaks for all. `vows()`: what the next build has to know before
    it is ready. `orders`: where the next worker finds that there was one. `handing_out`: how several give it their
    sessions."""

    def __init__(self, loop: Loop, log: Logger, program: str, main_socket: socket.socket, orders: Orders,
                 vows: Callable[[], dict[str, Any]], handing_out: HandingOut | None = None) -> None:
        self._loop = loop
        self._log = log
        self._program = program
        self._vows = vows
        self._main_socket = main_socket
        self._orders = orders
        self._handing_out = handing_out
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
        # A message is there until it is done, or noted: the next worker has it if this one dies meanwhile.
        message = look(self._main_socket)
        if message is None:
            return
        if "successor" in message:
            self._orders.begin_upgrade()
        elif "ended" in message:
            self._hear_end(message)
        try:
            heard = hear(self._main_socket, socket.MSG_DONTWAIT)  # the next build waits at the same one
        except BlockingIOError:
            return
        if heard is not None and heard[1]:
            self._begin(message["successor"], socket.socket(fileno=heard[1][0]))

    def _hear_end(self, message: dict[str, Any]) -> None:
        """An upgrade has ended, perhaps long after this worker has said so; or it could not begin."""
        if self._pid is not None or self._askers or not message.get("begun", True):
            self._fail(message["ended"])
        elif self._orders.is_upgrading:  # and the worker that has begun it is dead
            if self._orders.try_again():
                os.kill(main_pid(), signal.SIGUSR2)
            else:
                self._fail(f"the worker has died meanwhile; {message['ended']}")

    def _begin(self, pid: int, sock: socket.socket) -> None:
        """The next build has been started: tell it what it may need until it is ready."""
        self._pid, self._socket = pid, sock
        if self._refusal:
            self._fail(self._refusal)
            return
        sock.settimeout(SLOW_S)
        things = {LOG: 2, **heirlooms.noted()}
        workers = {}
        if self._handing_out is not None:
            things = self._handing_out.common(things)
            workers = {"workers": self._handing_out.workers}
        try:
            say(sock, {"program": self._program, "deaths": worker_deaths(), "upgrades": upgrades(),
                       "vows": self._vows(), "things": list(things), **workers}, list(things.values()))
        except OSError as error:
            message, _fds = self._next_word() or ({}, [])  # it has ended already, and perhaps said why
            self._fail(str(message.get("failed", f"it does not listen: {error.strerror}")))
            return
        self._watch = self._loop.watch(sock.fileno(), self._hear)

    def _hear(self, _events: int) -> None:
        heard = self._next_word()
        if heard is None:
            self._hang_up()  # the main process says how it has ended
            return
        message, fds = heard
        if "failed" in message:
            self._fail(str(message["failed"]))
        else:
            self._give(message, fds)

    def _next_word(self) -> tuple[dict[str, Any], list[int]] | None:
        """What the next build says; None: it has ended, or hangs."""
        assert self._socket is not None
        try:
            return hear(self._socket)
        except OSError:
            return None

    def _give(self, wishes: dict[str, Any], fds: list[int]) -> None:
        """It is ready: give it all; returns only if it did not get that, or cannot use it, or several give it."""
        assert self._socket is not None
        version = min(VERSION, wishes.get("newest", 0))
        if version < max(OLDEST, wishes.get("oldest", 0)):
            for fd in fds:
                os.close(fd)
            self._fail(f"it reads dumps of version {wishes.get('oldest')} to {wishes.get('newest')}, and this build"
                       f" writes {OLDEST} to {VERSION}")
        elif self._refusal:  # whose listeners are closed by now
            self._fail(self._refusal)
        elif self._handing_out is not None:
            why = self._handing_out.hand_out(version, fds)
            if why:
                self._fail(why)
        else:
            try:
                answer = give_sessions(self._socket, version)
            except LocalError as error:
                self._fail(str(error))
                return
            if answer is None:
                self._hang_up()
            elif "loaded" in answer:
                self.succeed(answer["loaded"])
                os._exit(HANDED_OVER)
            else:
                self._fail(str(answer.get("failed")))

    def succeed(self, version: str) -> None:
        """The next build, of that version, has all; this process is about to end."""
        if self._handing_out is not None:
            self._orders.end_upgrade()  # if it comes to nothing the main process says so
        self._answer({"ok": True, "lines": [], "done": f"version {version} has taken over"})

    def _fail(self, why: str) -> None:
        """There is no upgrade; everything goes on."""
        self._hang_up()
        self._pid = None
        why = escaped(why)
        self._log.error("upgrade-failed", why=f"{why}; the running one continues")
        self._answer({"ok": False, "lines": [f"no upgrade: {why}; the running one continues"]})
        self._orders.end_upgrade()

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
