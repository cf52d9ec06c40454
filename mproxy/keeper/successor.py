"""The next build's part in an upgrade: it starts as ever, but with what the one before has; it says that it is ready,
loads the sessions, and serves when the main process says so. Until then its end costs nothing.
"""

from __future__ import annotations

import os
import signal
import socket

from mproxy import __version__
from mproxy._dump import OLDEST, VERSION
from mproxy.io import heirlooms
from mproxy.io._process import die_with_parent
from mproxy.keeper.giving import receive_sessions
from mproxy.keeper.handing_over import LOG
from mproxy.keeper.loading import load_apart
from mproxy.keeper.main_process import take_place
from mproxy.keeper.upgrade_messages import hear, say
from mproxy.keeper.upgrades import PATIENCE_S, SUCCESSOR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from mproxy.keeper.loading import Judge


class Successor:
    """Of the program that runs, whose main process is `main`. `main_socket`: where that one speaks, now and later."""

    def __init__(self, program: str) -> None:
        fd, main_fd, main = map(int, os.environ.pop(SUCCESSOR).split(","))
        self._socket = socket.socket(fileno=fd)
        self.main_socket = socket.socket(fileno=main_fd)
        self.serves = False  # it has taken over
        self.main = main
        for each in (self._socket, self.main_socket):
            each.set_inheritable(False)
        die_with_parent(main)
        heard = hear(self._socket)
        if heard is None:
            os._exit(0)
        self._facts, fds = heard
        self.vows: dict[str, Any] = self._facts.get("vows", {})
        self.workers: int = self._facts.get("workers", 1)  # of the other one
        self.upgrades: int = self._facts["upgrades"] + 1   # with this one
        heirlooms.give(dict(zip(self._facts["things"], fds, strict=True)))
        log = heirlooms.take(LOG)
        if log is not None:
            os.dup2(log, 2)
            os.close(log)
        if self._facts["program"] != program:
            self.fail(f"what is installed is {program}, not {self._facts['program']}")

    def fail(self, why: object) -> NoReturn:
        """End, and have the other one say why."""
        try:
            say(self._socket, {"failed": str(why)})
        except OSError:
            pass  # it has ended itself
        os._exit(1)

    def take_over(self, judge: Judge) -> list[int]:
        """Get the sessions, and leave them in the arena for the first worker; returns their descriptors.

        `judge(record)`: whether the program understands what it has kept with a session.
        """
        signal.alarm(PATIENCE_S)
        say(self._socket, {"oldest": OLDEST, "newest": VERSION})
        received = receive_sessions(self._socket)
        if received is None:
            os._exit(0)
        dump, descriptors = received
        why = load_apart(dump, descriptors, judge)
        if why:
            self.fail(why)
        os.close(dump)
        say(self._socket, {"loaded": __version__})
        self._wait_for_word()
        self.begin(self._facts["deaths"])
        heirlooms.close_rest()
        return descriptors

    def ask_for_all(self, sockets: list[socket.socket]) -> None:
        """Where several workers run: have each of them give its sessions on one of these."""
        signal.alarm(PATIENCE_S)
        say(self._socket, {"oldest": OLDEST, "newest": VERSION}, [sock.fileno() for sock in sockets])

    def wait_for_word(self, wait: Callable[[int], object]) -> None:
        """Wait until the main process says that all of the other one have ended; `wait(fd)` until there is something to
        read, or raises an error."""
        wait(self.main_socket.fileno())
        self._wait_for_word()

    def begin(self, deaths: int) -> None:
        """From now on this process has the other one's place, of whose workers so many had died."""
        signal.alarm(0)
        take_place(self.main, deaths, self.upgrades)
        self._socket.close()
        self.serves = True

    def _wait_for_word(self) -> None:
        """Wait until the main process says that the other one has ended."""
        while True:
            heard = hear(self.main_socket)
            if heard is None:
                os._exit(0)
            if "go" in heard[0]:
                return

