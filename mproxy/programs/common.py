"""What cproxy and sproxy share: listeners, draining at the end, words for the log."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

from mproxy._wire import ResetCode
from mproxy.ground.config import format_host_port, say_address
from mproxy.io.bind import listen_on
from mproxy.service.log import Seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mproxy.endpoint._endpoint import Endpoint
    from mproxy.ground.config import ProgramConfig, SproxyConfig
    from mproxy.io._loop import Loop
    from mproxy.service.log import Log


def open_listeners(config: ProgramConfig) -> list[socket.socket]:
    """Listening sockets for the configured addresses, all on one port; an IPv6 one takes IPv6 only. MproxyError."""
    return listen_at(config.bind_addresses, config.port or 0, named=bool(config.bind))


def listen_at(hosts: Sequence[str], port: int, *, named: bool, outlive: bool = True) -> list[socket.socket]:
    """The same for any addresses and port."""
    return listen_on(hosts, port, named=named, prepare=_prepare_listener, outlive=outlive)


def _prepare_listener(listener: socket.socket) -> None:
    """Set what its connections inherit. Without the second an urgent byte (telnet sends some) would not be read."""
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


class Drain:
    """Waits until endpoints have nothing left to deliver: buffers empty, and no byte moved for a while.

    Meanwhile applications are still read, because what they wrote before the end may be in the kernel.
    """

    # From one look to the next; and how many of them without a byte mean that the applications have no more.
    LOOK_US = 20_000
    QUIET_LOOKS = 5

    def __init__(self, loop: Loop, endpoints: Callable[[], Sequence[Endpoint]], patience_us: int,
                 done: Callable[[], object]) -> None:
        self._loop = loop
        self._endpoints = endpoints
        self._deadline = loop.now() + patience_us
        self._done = done
        self._moved: int | None = None
        self._quiet = 0
        self._look()

    def _look(self) -> None:
        endpoints = self._endpoints()
        moved = sum(e.session.streams.out_bytes + e.session.streams.in_bytes for e in endpoints)
        self._quiet = self._quiet + 1 if moved == self._moved else 0
        self._moved = moved
        drained = all(e.drained for e in endpoints)
        if (drained and self._quiet >= self.QUIET_LOOKS) or not endpoints or self._loop.now() >= self._deadline:
            self._done()
        else:
            self._loop.call_later(self.LOOK_US, self._look)


def say_carrier(endpoint: Endpoint, peer: str | None = None) -> dict[str, Any]:
    """The endpoint's carrier as the log shows it: its description, and its kind where that is datagrams. `peer`: who is
    at its other end, where that may be a balancer's."""
    facts = endpoint.carrier.describe() if endpoint.carrier is not None else {}
    if facts.get("kind") == "datagram":
        facts["carrier"] = "datagram"
    said = {name: say_address(value) if isinstance(value, tuple) else value
            for name, value in facts.items() if name != "kind"}
    if peer is not None and said.get("peer", peer) != peer:
        said |= {"peer": peer, "through": said["peer"]}
    return said


def advertised_address(config: SproxyConfig, listening: Sequence[tuple[str, int]]) -> bytes:
    """What --advertise has WELCOME say; `listening`: where sproxy listens, [(host, port)]."""
    if config.advertise is None or not config.may_take_udp:
        return b""
    host, port = config.advertise
    return format_host_port(host, port or listening[0][1]).encode()


def say_session(session_id: bytes) -> str:
    """A session as the log names it: the beginning of its id, which gives no rights."""
    return session_id[:4].hex()


def log_killed(log: Log, endpoint: Endpoint, stream: int, why: str) -> None:
    """Log that the other side has ended one stream on request. `why` is in its words."""
    log.warning("stream-killed", session=say_session(endpoint.session.session_id), stream=stream,
                why=f"at the other end: {why or 'ended by mproxy kill'}")


def log_reset(log: Log, endpoint: Endpoint, stream: int, code: int, why: str, warn: Callable[..., None]) -> None:
    """Log that sproxy has reset a stream, unless its daemon has, as daemons do. `why` is in sproxy's words."""
    session = say_session(endpoint.session.session_id)
    if code == ResetCode.WHILE_AWAY:
        log.info("stream-reset", session=session, stream=stream,
                 why="the daemon reset its connection while there was no carrier")
    elif code == ResetCode.KILLED:
        log_killed(log, endpoint, stream, why)
    elif code != ResetCode.APPLICATION:
        warn("stream-reset", session=session, stream=stream, why=say_reset(code))


def say_seconds(us: int) -> Seconds:
    """A duration as the log shows it: `6.213s`, in JSON 6.213."""
    return Seconds(us / 1e6)


_RESET_REASONS: dict[int, str] = {
    ResetCode.APPLICATION: "the daemon reset its connection",
    ResetCode.REFUSED: "the daemon refused the connection",
    ResetCode.UNREACHABLE: "sproxy cannot reach the daemon",
    ResetCode.TIMED_OUT: "the daemon did not answer",
    ResetCode.NOT_ALLOWED: "sproxy does not allow this target (see its --allow)",
    ResetCode.UNKNOWN_STREAM: "sproxy no longer knows the stream",
    ResetCode.STREAM_LIMIT: "sproxy has reached its limit of streams per session (--max-streams)",
    ResetCode.ENDED: "the session ended",
    ResetCode.LOCAL_ERROR: "sproxy has run out of file descriptors or memory",
}


def say_reset(code: int) -> str:
    """Why sproxy has reset a stream."""
    return _RESET_REASONS.get(code, "unknown reason")
