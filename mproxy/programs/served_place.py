"""One place where sproxy listens for a client (cproxy -R); all of them: served_places.py."""

from __future__ import annotations

import os

from mproxy.endpoint._app_listener import AppListener
from mproxy.ground.config import format_host_port
from mproxy.io import heirlooms
from mproxy.programs.client_record import PlaceSocket

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from mproxy.endpoint._endpoint import Endpoint
    from mproxy.ground.shapes import Spot
    from mproxy.io._accept import AcceptGate
    from mproxy.io.bind import UnixListener

EVERY_ADDRESS = ("0.0.0.0", "::")

# Of listening sockets, by which name the next build gets them.
HEIRLOOM = "place "


class ServedPlace:
    """Where sproxy listens for one client, under a number of the client's."""

    def __init__(self, number: int, mark: int, spot: Spot | None, sockets: list[socket.socket],
                 at: UnixListener | None = None) -> None:
        self.number = number
        self.mark = mark           # of the words that ask for it
        self.spot = spot           # what was asked for; None: the worker before knew
        self.sockets = sockets
        self.at = at               # of a unix socket
        self.epoch = 0             # of the carrier on which it was asked for last
        self._listeners: list[AppListener] = []

    def start(self, gate: AcceptGate, endpoint: Endpoint, accept: Callable[[int], object]) -> None:
        """Accept from now on: `accept(fd)` is told of each connection."""
        for sock in self.sockets:
            heirlooms.note(heirloom_of(sock), sock.fileno())
        self._listeners = [AppListener(gate, sock.fileno(), endpoint, b"", accept) for sock in self.sockets]

    def say(self) -> str:
        """Where that is."""
        if self.at is not None:
            return self.at.path
        return " and ".join(format_host_port(*sock.getsockname()[:2]) for sock in self.sockets)

    @property
    def target(self) -> bytes:
        """What OPEN says of a stream that came in here."""
        return f"{self.number} {self.say()}".encode()

    def leads_here(self, address: tuple[str, int]) -> bool:
        """Whether connections to that address of ours come in here."""
        places = [sock.getsockname()[:2] for sock in self.sockets if self.at is None]
        return any(port == address[1] and host in (address[0], *EVERY_ADDRESS) for host, port in places)

    def memory(self) -> list[PlaceSocket]:
        """For the next worker."""
        return [] if self.at is not None else [
            PlaceSocket(self.number, self.mark, sock.fileno(), inode_of(sock.fileno())) for sock in self.sockets]

    def close(self) -> None:
        """Stop accepting."""
        for listener in self._listeners:
            listener.close()
        for sock in self.sockets:
            heirlooms.forget(heirloom_of(sock))
            (self.at or sock).close()


def heirloom_of(sock: socket.socket) -> str:
    """By which name the next build gets it."""
    return f"{HEIRLOOM}{inode_of(sock.fileno())}"


def inode_of(fd: int) -> int:
    """What tells a socket from others as long as it is open."""
    return os.fstat(fd).st_ino & 0xFFFFFFFF
