"""Talking to a service manager: sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3).

It takes only environment variables and datagrams; nothing of systemd needs to be installed.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping, MutableMapping, Sequence

from mproxy.io.bind import bound_as
from mproxy.io.manager_socket import MOST_FDS, ManagerSocket
from mproxy.keeper.main_process import main_pid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.ground.shapes import ListenAddress

_FIRST_FD = 3
_STORE_NAME = "mproxy-relay"


class Notifier:
    """Tells the service manager how the service is doing. Without a manager the methods do nothing."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._manager = ManagerSocket(environ)
        self.watchdog_us = _watchdog_us(environ) if self._manager.is_there else 0

    def ready(self, status: str) -> None:
        """It serves, at the start or again after a reload. MAINPID: a daemon is not the process that was started."""
        self._send(f"READY=1\nMAINPID={main_pid()}\nSTATUS={status}")

    def reloading(self) -> None:
        """New rules are being read."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """It finishes what is under way and accepts nothing new."""
        self._send("STOPPING=1\nSTATUS=stopping")

    def keep(self, fds: Sequence[int]) -> None:
        """Have the manager hold these sockets until the service has ended, and give them to the next run if there is
        one (FileDescriptorStoreMax= in the unit): meanwhile callers wait."""
        for start in range(0, len(fds), MOST_FDS):
            self._send(f"FDSTORE=1\nFDNAME={_STORE_NAME}", fds[start:start + MOST_FDS])

    def keep_no_more(self) -> None:
        """The sockets that a former run had kept have been taken over."""
        self._send(f"FDSTOREREMOVE=1\nFDNAME={_STORE_NAME}")

    def watchdog(self) -> None:
        """A sign of life, due twice in `watchdog_us`."""
        self._send("WATCHDOG=1")

    def _send(self, text: str, fds: Sequence[int] = ()) -> None:
        if self._manager.is_there:
            with contextlib.suppress(OSError):  # the manager is being restarted; the next message will reach it
                self._manager.tell(text.encode(), fds)


def _watchdog_us(environ: Mapping[str, str]) -> int:
    """Microseconds of silence that count as a failure; 0: any."""
    if environ.get("WATCHDOG_PID", str(main_pid())) != str(main_pid()):
        return 0
    text = environ.get("WATCHDOG_USEC", "")
    return int(text) if text.isdigit() else 0


def given_sockets(
    environ: MutableMapping[str, str] = os.environ,
) -> tuple[dict[ListenAddress, list[socket.socket]], list[str]]:
    """Sockets that the service manager has bound for us, by address, and the names of descriptors that are not sockets.

    Removes the variables, which are not for our children.
    """
    count, pid = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return {}, []
    given: dict[ListenAddress, list[socket.socket]] = {}
    strange = []
    for fd in range(_FIRST_FD, _FIRST_FD + int(count)):
        try:
            sock = socket.socket(fileno=fd)
        except OSError:
            strange.append(f"descriptor {fd}")
            continue
        sock.set_inheritable(False)
        name = bound_as(sock)
        if name is None:
            strange.append(f"descriptor {fd}")
            sock.close()
        else:
            given.setdefault(name, []).append(sock)
    return given, strange
