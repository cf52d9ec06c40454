"""Listening sockets of the rules. The supervisor binds and keeps them, the workers get duplicates, so that no caller is
lost when a worker dies or the rules change.

TCP: one socket, for which all workers wait; one without room leaves the caller to the others. UDP: one socket for each
worker (SO_REUSEPORT), so that the kernel always brings a client to the same worker.

A port that somebody else uses must be an error, although SO_REUSEPORT would share it with another program of the same
user: so the first socket of a listener is bound without it.
"""

from __future__ import annotations

import contextlib
import errno
import socket

from mproxy.io.bind import BACKLOG, TCP, UDP, bind_everywhere, bind_socket, cannot_listen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mproxy.ground.errors import MproxyError
    from mproxy.ground.shapes import ListenAddress
    from mproxy.relay.rules import Rule

_SO_RCVBUFFORCE = 33

# As a worker asks for (udp/_udp_listener.pyx): set here for workers without the right to it.
UDP_QUEUE_BYTES = 4 << 20


class RuleSockets:
    """The sockets of one (protocol, host, port), closed when the last reference is gone: after each worker has them."""

    def __init__(self, shared: Iterable[socket.socket] = (), apart: Iterable[socket.socket] = (),
                 workers: int = 1) -> None:
        self._shared = list(shared)  # one for all workers
        self._apart = list(apart)    # one for each worker; the service manager may have given fewer or more
        self._workers = workers

    def __del__(self) -> None:
        for sock in self.sockets:
            sock.close()

    @property
    def sockets(self) -> list[socket.socket]:
        return self._shared + self._apart

    @property
    def port(self) -> int:
        """The real port, where the rule says 0."""
        port: int = self.sockets[0].getsockname()[1]
        return port

    def fds(self, worker: int) -> list[int]:
        """Descriptors for worker number `worker`."""
        return [sock.fileno() for sock in self._shared + self._apart[worker::self._workers]]


def open_listener(rule: Rule, workers: int, given: Sequence[socket.socket] = (), replaces: Sequence[socket.socket] = (),
                  anywhere: bool = False) -> RuleSockets:
    """The RuleSockets of a rule; MproxyError with the reason if that fails.

    given: bound sockets of the service manager for this address, taken instead of new ones. replaces: sockets of ours
    on this port that are closed afterwards; for a moment both exist, so that callers find one of them. anywhere: this
    host need not have the address yet.
    """
    protocol, host, port = rule.listener
    kind = TCP if protocol == "tcp" else UDP
    try:
        for sock in replaces:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if kind == TCP:
            sockets = list(given) or [_bind(kind, host, port, bool(replaces), anywhere)]
            for sock in sockets:
                _prepare_tcp(sock)
            return RuleSockets(shared=sockets)
        return _open_udp(host, port, workers, list(given), bool(replaces), anywhere)
    except OSError as error:
        raise _cannot_listen(rule, error) from None


def check_free(rule: Rule, anywhere: bool = False) -> None:
    """MproxyError if a program listens where the rule wants to, or (without `anywhere`) this host lacks the address."""
    protocol, host, port = rule.listener
    try:
        _bind(TCP if protocol == "tcp" else UDP, host, port, False, anywhere).close()
    except OSError as error:
        raise _cannot_listen(rule, error) from None


def _cannot_listen(rule: Rule, error: OSError) -> MproxyError:
    protocol, _, port = rule.listener
    return cannot_listen(f"{protocol} {rule.listen_text}", error, port, (
        "; with --wait-addresses the relay starts anyway" if error.errno == errno.EADDRNOTAVAIL else ""))


def _open_udp(host: str, port: int, workers: int, sockets: list[socket.socket], reuse: bool,
              anywhere: bool) -> RuleSockets:
    if not sockets:
        sockets = [_bind(UDP, host, port, reuse, anywhere)]
        port = sockets[0].getsockname()[1]
    sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        while len(sockets) < workers:
            sockets.append(_bind(UDP, host, port, True, anywhere))
    except OSError as error:
        # The service manager's socket belongs to another user, with whom ports are not shared: fewer workers serve it.
        if error.errno != errno.EADDRINUSE:
            raise
    for sock in sockets:
        with contextlib.suppress(OSError):  # only the privileged may; workers without the right leave it as it is
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, UDP_QUEUE_BYTES)
    return RuleSockets(apart=sockets, workers=workers)


def _bind(kind: int, host: str, port: int, shared: bool, anywhere: bool = False) -> socket.socket:
    """A bound socket; host "" is IPv6 and IPv4 together if this host has both."""
    if host:
        return bind_socket(kind, host, port, shared=shared, anywhere=anywhere)
    return bind_everywhere(kind, port, shared=shared)


def _prepare_tcp(sock: socket.socket) -> None:
    """Listen; options that connections inherit are set by the workers (tcp/_relaying.pyx)."""
    sock.setblocking(False)
    sock.listen(BACKLOG)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)  # was needed to replace another; nobody shares this one


# ---- from the service manager

def take_given(rule: Rule, given: dict[ListenAddress, list[socket.socket]]) -> list[socket.socket]:
    """Take out of `given`, {name: [socket, ...]}, those that are for `rule`."""
    protocol, host, port = rule.listener
    hosts = ("::", "0.0.0.0") if host == "" else (host,)
    return [sock for name in hosts for sock in given.pop((protocol, name, port), [])]
