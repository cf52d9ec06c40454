"""Accepts for Python, as slow work of the loop: however many strangers call, sessions come first."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from mproxy.ground.shapes import Sockaddr
    from mproxy.io._accept import AcceptGate
    from mproxy.io._loop import Loop

ACCEPTS_A_TURN = 4


class SlowAcceptor:
    """Gives each connection to the listening socket, which is its own from now on, to `accepted(sock, address)`."""

    def __init__(self, loop: Loop, gate: AcceptGate, listener: socket.socket,
                 accepted: Callable[[socket.socket, Sockaddr], object]) -> None:
        self._loop = loop
        self._gate = gate
        self._listener = listener
        self._accepted = accepted
        self._watch = loop.watch(listener.fileno(), lambda _events: self._queue())

    def close(self) -> None:
        """Stop accepting."""
        self._gate.forget(self)
        self._watch.close()
        self._listener.close()

    def start(self) -> None:
        """Accept, now that the gate is open."""
        self._watch.set(read=True)

    def suspend(self) -> None:
        """Wait for the gate."""
        self._watch.set()

    def _queue(self) -> None:
        self.suspend()
        self._loop.call_slow(self._accept)

    def _accept(self) -> None:
        if self._listener.fileno() < 0:
            return
        for _ in range(ACCEPTS_A_TURN):
            try:
                sock, address = self._listener.accept()
            except OSError as error:
                if self._gate.is_short(self, error.errno or 0):
                    return
                break
            self._accepted(sock, address)
        self.start()
