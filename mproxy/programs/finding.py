"""Finding the sender that has a code, in the same network: the receiver asks everybody, by multicast, and the sender
with that number answers with its port. Neither says anything of the code's words; who answers falsely wins nothing but
one guess of them.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time

from mproxy.ground.errors import MproxyError
from mproxy.programs.transfer import find_addresses
from mproxy.service.exit import complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mproxy.ground.shapes import Address
    from mproxy.io._loop import Loop, Watch
    from mproxy.programs.transfer_config import TransferConfig

PORT = 6199
GROUP, GROUP6 = "239.255.61.99", "ff12::6199"  # for this site, and for this link; neither is assigned for good

QUESTION, ANSWER = b"mproxy: who has the code ", b"mproxy: I have the code "
QUESTION_BYTES = 64  # no answer is longer, so nobody can be flooded with answers

ASK_EVERY_S, TELL_AFTER_S = 0.5, 2.0
OTHERS_S = 0.3  # after the first answer: the sender may have several addresses

# Interfaces come and go.
JOIN_EVERY_US = 5_000_000



def _interfaces() -> list[int]:
    return [index for index, _name in socket.if_nameindex()]


def _membership(index: int) -> bytes:
    """An ip_mreqn, ip(7)."""
    return struct.pack("@4s4si", socket.inet_aton(GROUP), bytes(4), index)


def _membership6(index: int) -> bytes:
    """An ipv6_mreq, ipv6(7)."""
    return struct.pack("@16sI", socket.inet_pton(socket.AF_INET6, GROUP6), index)


class CodeOffer:
    """Answers who asks for the code with this number: it can be had at `port`."""

    def __init__(self, loop: Loop, number: int, port: int) -> None:
        self._loop = loop
        self._question = question(number)
        self._answer = ANSWER + f"{number} {port}".encode()
        self._sockets: list[socket.socket] = []
        self._watches: list[Watch] = []
        for family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError):
                self._listen(family)
        self._join()

    def _listen(self, family: int) -> None:
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(("", PORT))
        except OSError:
            sock.close()
            raise
        self._sockets.append(sock)
        self._watches.append(self._loop.watch(sock.fileno(), lambda _events: self._answer_all(sock)))

    def _join(self) -> None:
        for sock in self._sockets:
            for index in _interfaces():
                with contextlib.suppress(OSError):  # it is a member already, or the interface has just gone
                    if sock.family == socket.AF_INET:
                        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, _membership(index))
                    else:
                        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, _membership6(index))
        if self._sockets:
            self._loop.call_later(JOIN_EVERY_US, self._join)

    def _answer_all(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                asked, sender = sock.recvfrom(QUESTION_BYTES + 1)
                if asked == self._question:
                    sock.sendto(self._answer, sender)

    def close(self) -> None:
        """Answer nobody any more."""
        for watch in self._watches:
            watch.close()
        for sock in self._sockets:
            sock.close()
        self._watches, self._sockets = [], []


def question(number: int) -> bytes:
    """What is asked."""
    return (QUESTION + b"%d?" % number).ljust(QUESTION_BYTES)


def find_offers(number: int, patience_s: float, waiting: Callable[[], object] = lambda: None) -> list[Address]:
    """Where the code with this number can be had: [] if nobody in this network has answered within that time. Blocks;
    `waiting()` is called once the first questions have had no answer."""
    sockets = []
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            sockets.append(socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
    try:
        return _ask(sockets, number, patience_s, waiting)
    finally:
        for sock in sockets:
            sock.close()


def find_sender(config: TransferConfig, family: int | None) -> list[Address]:
    """Where the sender is that has the code; MproxyError. On a worker's thread."""
    if config.host:
        return find_addresses(config.host, config.port, family)
    assert config.code is not None
    number = config.code.number
    found = find_offers(number, config.datagram.idle_us / 1e6, lambda: complain("mproxy recv", (
        f"nobody in this network has answered yet; if the sender of code {number} is in another one, add the HOST PORT"
        " that it shows")))
    fitting = [entry for entry in found if family in (None, entry[0])]
    if not fitting:
        raise MproxyError(f"nobody in this network has code {number}: add the HOST PORT that the sender shows")
    return fitting


def _ask(sockets: Iterable[socket.socket], number: int, patience_s: float,
         waiting: Callable[[], object]) -> list[Address]:
    poll = select.poll()
    by_fd = {sock.fileno(): sock for sock in sockets}
    for fd in by_fd:
        poll.register(fd, select.POLLIN)
    found: list[Address] = []
    now = time.monotonic()
    end, next_at, told_at = now + patience_s, now, now + TELL_AFTER_S
    while now < end:
        if now >= next_at and not found:
            for sock in by_fd.values():
                _ask_all(sock, question(number))
            next_at = now + ASK_EVERY_S
            if now >= told_at:
                told_at = end
                waiting()
        for fd, _events in poll.poll(max(0.0, min(end, next_at) - now) * 1000):
            for address in _answers(by_fd[fd], number):
                if not found:
                    end = min(end, time.monotonic() + OTHERS_S)
                    next_at = end
                if address not in found:
                    found.append(address)
        now = time.monotonic()
    return found


def _ask_all(sock: socket.socket, asked: bytes) -> None:
    """In every network, and on this host."""
    for index in _interfaces():
        with contextlib.suppress(OSError):
            if sock.family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("@4s4si", bytes(4), bytes(4),
                                                                                       index))
                sock.sendto(asked, (GROUP, PORT))
            else:
                sock.sendto(asked, (GROUP6, PORT, 0, index))


def _answers(sock: socket.socket, number: int) -> Iterable[Address]:
    with contextlib.suppress(OSError):
        while True:
            said, sender = sock.recvfrom(QUESTION_BYTES + 1)
            mine, _, port = said.removeprefix(ANSWER).partition(b" ")
            if said.startswith(ANSWER) and mine == b"%d" % number and port.isdigit() and 0 < int(port) < 65536:
                yield int(sock.family), (sender[0], int(port), *sender[2:])


def say_places(port: int) -> list[str]:
    """HOST PORT of this host, for somebody in another network: the addresses from which it would reach others."""
    found = []
    for family, far in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((far, 9))
            found.append(f"{probe.getsockname()[0]} {port}")
    return found
