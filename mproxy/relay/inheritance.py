"""What a worker finds of the one before it: pairs and flows that go on, and connections that had just been accepted.
Nothing for the first worker."""

from __future__ import annotations

import contextlib
import os
import socket
import struct

from mproxy.io._kernel_facts import is_untouched
from mproxy.io.descriptors import STANDARD, close_others, open_descriptors
from mproxy.relay.tcp._survivors import find_survivors
from mproxy.relay.udp._flow_record import find_flows, forget_flow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from mproxy.ground.shapes import Sockaddr
    from mproxy.relay.tcp._tcp_relay import TcpRelay
    from mproxy.relay.udp._udp_relay import UdpRelay

_LINGER = struct.Struct("ii")
_EVERYWHERE = ("0.0.0.0", "::")


class Inheritance:
    """Found before anything else is done; every descriptor that nobody claims is closed, but for `kept`. `condemned`:
    serials of pairs that are to be ended."""

    def __init__(self, kept: Collection[int], condemned: Collection[int]) -> None:
        self.pairs, named, self.damaged, unwanted = find_survivors(condemned)
        wanted = named.union(kept, STANDARD)
        self._flows = find_flows(wanted | unwanted)  # key -> [(number of the record, descriptor), ...]
        self.flows_going_on = 0
        wanted.update(fd for flows in self._flows.values() for _number, fd in flows)
        # By descriptor: where a client has come to whom no record names yet.
        self.accepted = {fd: place for fd in open_descriptors()
                         if fd not in wanted and fd not in unwanted and (place := _untouched_at(fd)) is not None}
        close_others(wanted.union(self.accepted))

    def take_flows(self, relay: UdpRelay, key: int) -> None:
        """Let the relay go on with the flows of a rule that it has, and with which it can."""
        flows = self._flows.pop(key, [])
        left = relay.take_in(key, flows)
        self.flows_going_on += len(flows) - len(left)
        if left:
            self._flows[key] = left

    def take_over(self, relay: TcpRelay) -> tuple[int, int]:
        """Let the relay, which has its rules, go on with all connections: how many do, and how many were lost. Flows
        that are left end."""
        for number, fd in (each for flows in self._flows.values() for each in flows):
            forget_flow(number)
            with contextlib.suppress(OSError):
                os.close(fd)
        self._flows = {}
        going_on, lost = relay.take_over(self.pairs)
        places = [(key, _place_of(fd)) for key, fd in relay.listeners()]
        for fd, (host, port, *_) in self.accepted.items():
            keys = [key for key, place in places
                    if place is not None and place[1] == port and place[0] in (host, *_EVERYWHERE)]
            if keys:
                relay.take_in(keys[0], fd)
            else:
                os.close(fd)
        return going_on + len(self.accepted), lost + self.damaged


def _untouched_at(fd: int) -> Sockaddr | None:
    """The address to which a client's connection has come, if nothing was done with it. One that was about to be closed
    in order is known by its SO_LINGER."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        return None
    try:
        if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
            return None
        resets, _ = _LINGER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER.size))
        sock.getpeername()
        return sock.getsockname() if resets and is_untouched(fd) else None
    except OSError:
        return None
    finally:
        sock.detach()


def _place_of(fd: int) -> Sockaddr | None:
    """Where a socket listens."""
    sock = socket.socket(fileno=fd)
    try:
        place: Sockaddr = sock.getsockname()
        return place
    except OSError:
        return None
    finally:
        sock.detach()
