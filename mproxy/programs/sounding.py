"""Why nobody answers, as far as the network tells: a connected UDP socket gets what the path's ICMP messages say.

The user is told, but it changes nothing: anybody on the path can forge an ICMP message, and a receiver may be started a
moment later.
"""

from __future__ import annotations

import errno
import os
import socket

from mproxy.ground.config import format_host_port
from mproxy.transport._packet import BASE_PACKET_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mproxy.ground.shapes import Address, Sockaddr
    from mproxy.io._loop import Loop

# When to look, after the packet: a router's answer takes a round trip, a missing neighbour 3 s (ARP).
_LOOKS_US = (0, 50_000, 250_000, 700_000, 2_500_000, 3_000_000)

# linux/in.h, linux/in6.h: not in Python's socket module.
_IP_RECVERR, _IPV6_RECVERR = 11, 25
_IP_MTU, _IPV6_MTU = 14, 24
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_DO = 10, 23, 2

# Level, and options to get every error, forbid fragments and know the path's largest packet; bytes of both headers.
_FAMILIES: dict[int, tuple[int, int, int, int, int]] = {
    socket.AF_INET: (socket.IPPROTO_IP, _IP_RECVERR, _IP_MTU_DISCOVER, _IP_MTU, 28),
    socket.AF_INET6: (socket.IPPROTO_IPV6, _IPV6_RECVERR, _IPV6_MTU_DISCOVER, _IPV6_MTU, 48)}


class Sounding:
    """Probes `addresses` [(family, sockaddr)] after `delay_us`, unless closed before; `tell(text)` at most once for
    each finding."""

    def __init__(self, loop: Loop, addresses: Sequence[Address], delay_us: int, tell: Callable[[str], object]) -> None:
        self._loop, self._addresses, self._tell = loop, addresses, tell
        self._sockets: list[tuple[socket.socket, int, Sockaddr]] = []  # (socket, family, sockaddr)
        self._told: set[str] = set()
        self._looks = list(_LOOKS_US)
        self._closed = False
        self._loop.call_later(delay_us, self._begin)

    def close(self) -> None:
        """Stop probing and close the sockets."""
        self._closed = True
        for sock, *_ in self._sockets:
            sock.close()
        self._sockets = []

    def _begin(self) -> None:
        if self._closed:
            return
        for family, sockaddr in self._addresses:
            try:
                sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            except OSError as error:
                self._say(sockaddr, error.errno or 0)
                continue
            self._sockets.append((sock, family, sockaddr))
            level, hear_all, discover, _mtu, _headers = _FAMILIES[family]
            try:
                sock.setsockopt(level, hear_all, 1)
                sock.setsockopt(level, discover, _PMTUDISC_DO)
                sock.connect(sockaddr)
                sock.send(bytes(BASE_PACKET_BYTES))
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    self._say(sockaddr, error.errno or 0)
        self._look()

    def _look(self) -> None:
        if self._closed or not self._looks:
            return
        for sock, family, sockaddr in self._sockets:
            self._say(sockaddr, sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
            self._check_size(sock, family, sockaddr)
        self._loop.call_later(self._looks.pop(0), self._look)

    def _check_size(self, sock: socket.socket, family: int, sockaddr: Sockaddr) -> None:
        level, _hear_all, _discover, mtu, headers = _FAMILIES[family]
        try:
            carries = sock.getsockopt(level, mtu)
        except OSError:
            return  # not connected: there is no route at all
        if carries < BASE_PACKET_BYTES + headers:
            self._once(f"the path to {sockaddr[0]} carries packets of at most {carries} bytes, but"
                       f" {BASE_PACKET_BYTES + headers} are needed (MTU)")

    def _say(self, sockaddr: Sockaddr, error: int) -> None:
        where = format_host_port(sockaddr[0], sockaddr[1])
        if error == errno.ECONNREFUSED:
            self._once(f"nothing is listening at {where} (port unreachable)")
        elif error in (errno.EPERM, errno.EACCES):
            self._once(f"a firewall blocks the path to {where} ({os.strerror(error)})")
        elif error not in (0, errno.EMSGSIZE, errno.EAGAIN):
            self._once(f"there is no route to {where} ({os.strerror(error)})")

    def _once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._tell(text)
