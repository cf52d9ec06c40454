"""One attempt to connect: the ways to sproxy race, the first that connects wins (RFC 8305).

Ways known from before start at once; those that a lookup finds join them. Calls back once, unless cancelled.
"""

from __future__ import annotations

import errno
import os
import socket

from mproxy.io.socket_close import give_up
from mproxy.policy.network import preferred_source
from mproxy.policy.paths import Way
from mproxy.policy.resolver import interleave
from mproxy.policy.stagger import NEXT_US, Stagger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mproxy.ground.shapes import Address
    from mproxy.io._loop import Loop, Timer, Watch
    from mproxy.policy.paths import Paths
    from mproxy.policy.resolver import Request, Resolved

    Connected = Callable[["DialAttempt", socket.socket, Way, int], object]
    Failed = Callable[["DialAttempt", str], object]


class DialAttempt:
    """`connect(way)` starts a connection and returns its non-blocking socket, or raises OSError.

    `on_connected(attempt, sock, way, took_us)`; `on_failed(attempt, why)`.
    """

    def __init__(self, loop: Loop, paths: Paths, timeout_us: int, connect: Callable[[Way], socket.socket],
                 on_connected: Connected,
                 on_failed: Failed) -> None:
        self._loop = loop
        self._paths = paths
        self._timeout_us = timeout_us
        self._connect = connect
        self._on_connected: Connected | None = on_connected
        self._on_failed: Failed | None = on_failed
        self._ways: Stagger[Way] = Stagger(loop, self._begin_way, self._fail_if_over, paths.pause_us)
        self._racing: dict[socket.socket, tuple[Watch, Way, int]] = {}  # socket -> (Watch, Way, began at)
        self._tried: set[Way] = set()
        self._request: Request | None = None  # a lookup under way
        self._timer: Timer | None = None
        self._errors: list[str] = []

    def begin(self, known: list[Way], look_up: Callable[[Resolved], Request] | None) -> None:
        """Race the known ways; `look_up(callback)` starts a lookup and returns its request; None: no lookup is
        needed."""
        self._timer = self._loop.call_later(self._timeout_us, self._time_out)
        if look_up is not None:
            self._request = look_up(self._resolved)
        self._ways.left = list(known)
        if look_up is not None and (not known or self._paths.is_sour(known[0])):
            self._ways.wait()  # the lookup may find something better
        else:
            self._ways.go_on()

    def cancel(self) -> None:
        """Stop, without calling the observer."""
        if self._request is not None:
            self._request.cancel()
            self._request = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._ways.stop()
        for sock in list(self._racing):
            self._drop(sock)
        self._on_connected = self._on_failed = None

    def misplaced(self) -> bool:
        """Whether its addresses are ones that the kernel would no longer choose (or it has not begun)."""
        return bool(self._racing) and all(
            not well_placed(sock, way) for sock, (_watch, way, _at) in self._racing.items())

    def _resolved(self, addresses: list[Address], error: str | None) -> None:
        self._request = None
        if error is not None:
            self._errors.append(error)
        found = [Way(family, address) for family, address in interleave(addresses)]
        left = self._paths.in_order(found + self._ways.left)
        self._ways.left = left = [way for way in left if way not in self._tried]
        pause_us = self._paths.pause_us(left[0]) if left else 0
        if self._racing and pause_us > NEXT_US:
            self._ways.wait(pause_us)
        else:
            self._ways.go_on()

    def _begin_way(self, way: Way) -> bool:
        """Start on a way, unless that was done before."""
        if way in self._tried:
            return False
        self._tried.add(way)
        try:
            self._start(way)
        except OSError as error:
            self._errors.append(f"{reason_of(error)} ({_say(way)})")
            return False
        return True

    def _start(self, way: Way) -> None:
        sock = self._connect(way)
        try:
            watch = self._loop.watch(sock.fileno(), lambda _events: self._connected(sock), read=False, write=True)
        except OSError:
            sock.close()
            raise
        self._racing[sock] = watch, way, self._loop.now()

    def _connected(self, sock: socket.socket) -> None:
        if sock not in self._racing:
            return
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        watch, way, began_at = self._racing.pop(sock)
        watch.close()
        if code:
            sock.close()
            self._errors.append(f"{os.strerror(code)} ({_say(way)})")
            self._ways.go_on()
            return
        report = self._on_connected
        self.cancel()
        if report is not None:
            report(self, sock, way, self._loop.now() - began_at)

    def _drop(self, sock: socket.socket) -> None:
        watch, _way, _at = self._racing.pop(sock)
        watch.close()
        give_up(sock)  # it may have connected just now

    def _time_out(self) -> None:
        within = f"within {self._timeout_us / 1e6:g}s"
        if self._racing:
            where = ", ".join(_say(way) for _watch, way, _at in self._racing.values())
            self._fail(f"no answer {within} ({where})")
        else:
            self._fail(f"no answer from the name service {within}")

    def _fail_if_over(self) -> None:
        if not self._racing and self._request is None:
            self._fail("; ".join(dict.fromkeys(self._errors)) or "no address found")

    def _fail(self, why: str) -> None:
        report = self._on_failed
        self.cancel()
        if report is not None:
            report(self, why)


def connect_to(way: Way, segment_bytes: int = 0) -> socket.socket:
    """Start to connect; returns the non-blocking socket. Raises OSError."""
    sock = socket.socket(way.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if way.device is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, way.device.encode() + b"\0")
        if segment_bytes:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment_bytes)
        code = sock.connect_ex(way.address)
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
    except OSError:
        sock.close()
        raise
    return sock


def bind_to_device(sock: socket.socket, device: str | None) -> bool:
    """Have a connection keep to the device that it uses now, wherever the routes lead; whether that was possible."""
    try:
        if device is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode() + b"\0")
    except OSError:  # before Linux 5.7 this takes CAP_NET_RAW
        return False
    return device is not None


def reason_of(error: OSError) -> str:
    """The system's words for an OSError."""
    return os.strerror(error.errno) if error.errno else str(error)


def well_placed(sock: socket.socket, way: Way) -> bool:
    """Whether the kernel would still choose the local address that `sock` has."""
    local = local_host(sock)
    return local is not None and local == preferred_source(way.address, way.device)


def local_host(sock: socket.socket) -> str | None:
    """The local address that `sock` has; None where there is no telling."""
    try:
        host: str = sock.getsockname()[0]
        return host
    except OSError:
        return None


def _say(way: Way) -> str:
    text = f"{way.address[0]} port {way.address[1]}"
    return f"{text} via {way.device}" if way.device else text
