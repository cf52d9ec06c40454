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
from mproxy.keeper.handing_over import LOG
from mproxy.keeper.loading import load_apart
from mproxy.keeper.main_process import take_place
from mproxy.keeper.upgrade_messages import hear, say
from mproxy.keeper.upgrades import PATIENCE_S, SUCCESSOR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from mproxy.keeper.loading import Judge


class Successor:
    """Of the program that runs. `main_socket`: where the main process speaks, now and later."""

    def __init__(self, program: str) -> None:
        fd, main_fd, main = map(int, os.environ.pop(SUCCESSOR).split(","))
        self._socket = socket.socket(fileno=fd)
        self.main_socket = socket.socket(fileno=main_fd)
        self.serves = False  # it has taken over
        self._main = main
        for each in (self._socket, self.main_socket):
            each.set_inheritable(False)
        die_with_parent(main)
        heard = hear(self._socket)
        if heard is None:
            os._exit(0)
        self._facts, fds = heard
        self.vows: dict[str, Any] = self._facts.get("vows", {})
        heirlooms.give(dict(zip(self._facts["things"], fds, strict=True)))
        log = heirlooms.take(LOG)
        if log is not None:
            os.dup2(log, 2)
            os.close(log)
        if self._facts["program"] != program:
            self.fail(f"it is {program}, not {self._facts['program']}")

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
        heard = hear(self._socket)
        if heard is None:
            os._exit(0)
        message, (dump,) = heard
        descriptors: list[int] = []
        while len(descriptors) < message["descriptors"]:
            more = hear(self._socket)
            if more is None or not more[1]:
                os._exit(0)
            descriptors += more[1]
        why = load_apart(dump, descriptors, judge)
        if why:
            self.fail(why)
        os.close(dump)
        say(self._socket, {"loaded": __version__})
        self._wait_for_word()
        signal.alarm(0)
        take_place(self._main, self._facts["deaths"], self._facts["upgrades"] + 1)
        heirlooms.close_rest()
        self._socket.close()
        self.serves = True
        return descriptors

    def _wait_for_word(self) -> None:
        """Wait until the main process says that the other one has ended."""
        while True:
            heard = hear(self.main_socket)
            if heard is None:
                os._exit(0)
            if "go" in heard[0]:
                return

