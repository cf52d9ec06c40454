"""What the kernel reports about this host's network, and whether the host has been asleep.

`NetworkWatch` listens on a route socket (rtnetlink(7)), so that cproxy dials from a new address at once and not only
after the next missed heartbeat. The kernel repeats itself: router advertisements and DHCP renewals announce addresses
that were there before, wireless scans announce links that did not change. Only what is new becomes an event.

An address is announced a moment before its routes: a dial right after `address-added` may still find no route, and is
worth repeating at the `route-changed` that follows.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections import namedtuple

from mproxy.io import netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from mproxy.ground.shapes import Sockaddr

# linux/rtnetlink.h
_RTM_NEWLINK, _RTM_DELLINK = 16, 17
_RTM_NEWADDR, _RTM_DELADDR = 20, 21
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_RTMGRP = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # link, IPv4 address, IPv4 route, IPv6 address, IPv6 route

_LINK = struct.Struct("=BxHiII")  # family, device type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, destination length, ..., type (the eighth), flags
_U32 = struct.Struct("=I")

_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_OPTIMISTIC, _IFA_F_DADFAILED, _IFA_F_TENTATIVE = 0x04, 0x08, 0x40
_RTA_DST, _RTA_OIF = 1, 4
_RTM_F_CLONED = 0x200
_RTN_LOCAL, _RTN_MULTICAST = 2, 5
_IFLA_WIRELESS = 11
_IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000

# Most datagrams read in one go: a router with a full table changes thousands of routes a second, and streams must
# go on.
_MOST_DATAGRAMS = 64

# Most addresses and links remembered to recognise repetitions; beyond this all are forgotten, which costs at worst one
# superfluous event for each.
_MOST_REMEMBERED = 4096


class NetworkEvent(namedtuple("NetworkEvent", "kind interface address up", defaults=(None, None, None))):
    """One change of this host's network."""

    __slots__ = ()

    # address-added, address-removed, route-changed, link-changed, or overflow: events were lost and anything may have
    # changed.
    kind: str

    # Index of the interface, None where there is none.
    interface: int | None

    # The address, or the route's destination as `10.0.0.0/24`, `default`; None for a link.
    address: str | None

    # Whether the link can carry packets now, whether the route was added; None for an address.
    up: bool | None

    if TYPE_CHECKING:
        def __new__(cls, kind: str, interface: int | None = None, address: str | None = None,
                    up: bool | None = None) -> Self: ...


class NetworkWatch:
    """A route socket, non-blocking; wait on `fileno()` for input and then call `read_events`.

    Raises OSError if the system has no route sockets (some containers): then heartbeats have to do.
    """

    def __init__(self) -> None:
        self._socket = netlink.open_netlink(socket.NETLINK_ROUTE, _RTMGRP)
        self._parser = NetlinkParser()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read_events(self) -> list[NetworkEvent]:
        """The events that are waiting, oldest first. Never raises, whatever was received."""
        events = []
        for _ in range(_MOST_DATAGRAMS):
            try:
                message, _, flags, sender = self._socket.recvmsg(netlink.RECEIVE_BYTES)
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    events.append(self._parser.overflow())
                    continue
                break
            if sender[0] != 0:
                continue  # another process, not the kernel
            if flags & socket.MSG_TRUNC:
                events.append(self._parser.overflow())
            events += self._parser.parse(message)
        return events


class NetlinkParser:
    """Route messages in, events out. Remembers addresses and links, to tell news from repetitions."""

    def __init__(self) -> None:
        self._addresses: set[tuple[int, bytes]] = set()  # (interface, address bytes) that were announced
        self._links: dict[int, bool] = {}  # interface -> whether it was up

    def overflow(self) -> NetworkEvent:
        """Events were lost: what is remembered may be wrong."""
        self._addresses.clear()
        self._links.clear()
        return NetworkEvent("overflow")

    def parse(self, datagram: bytes) -> list[NetworkEvent]:
        """The events in one datagram. Truncated and meaningless messages are skipped."""
        found = (self._parse_message(kind, body) for kind, _, body in netlink.messages(datagram))
        return [event for event in found if event is not None]

    def _parse_message(self, kind: int, body: memoryview) -> NetworkEvent | None:
        try:
            if kind in (_RTM_NEWADDR, _RTM_DELADDR):
                return self._parse_address(kind, body)
            if kind in (_RTM_NEWROUTE, _RTM_DELROUTE):
                return _parse_route(kind, body)
            if kind in (_RTM_NEWLINK, _RTM_DELLINK):
                return self._parse_link(kind, body)
            if kind == netlink.OVERRUN:
                return self.overflow()
        except (struct.error, ValueError, OSError):
            pass  # too short for its kind, or an address of the wrong length
        return None

    def _parse_address(self, kind: int, body: memoryview) -> NetworkEvent | None:
        family, _, flags, _, interface = _ADDRESS.unpack_from(body)
        attributes = netlink.attributes(body[_ADDRESS.size:])
        # On a point-to-point link IFA_ADDRESS is the other end's, IFA_LOCAL ours.
        raw = bytes(attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS) or b"")
        address = socket.inet_ntop(family, raw)
        if _IFA_FLAGS in attributes:
            flags = _U32.unpack_from(attributes[_IFA_FLAGS])[0]
        key = (interface, raw)
        if kind == _RTM_DELADDR:
            self._addresses.discard(key)
            return NetworkEvent("address-removed", interface, address)
        # Duplicate address detection (RFC 4862) is still running, or failed: the address cannot be used. The kernel
        # will announce it again.
        waiting = flags & _IFA_F_TENTATIVE and not flags & _IFA_F_OPTIMISTIC
        if waiting or flags & _IFA_F_DADFAILED or key in self._addresses:
            return None
        if len(self._addresses) >= _MOST_REMEMBERED:
            self._addresses.clear()
        self._addresses.add(key)
        return NetworkEvent("address-added", interface, address)

    def _parse_link(self, kind: int, body: memoryview) -> NetworkEvent | None:
        _, _, interface, flags, _ = _LINK.unpack_from(body)
        attributes = netlink.attributes(body[_LINK.size:])
        up = kind == _RTM_NEWLINK and flags & (_IFF_UP | _IFF_LOWER_UP) == _IFF_UP | _IFF_LOWER_UP
        if _IFLA_WIRELESS in attributes:
            return None
        before = self._links.pop(interface, None)
        if kind == _RTM_NEWLINK:
            if len(self._links) >= _MOST_REMEMBERED:
                self._links.clear()
            self._links[interface] = up
        if before is up:
            return None
        return NetworkEvent("link-changed", interface, None, up)


def _parse_route(kind: int, body: memoryview) -> NetworkEvent | None:
    family, length, _, _, _, _, _, route_kind, flags = _ROUTE.unpack_from(body)
    # Routes to our own addresses and to broadcast addresses come with every address; clones are cache entries.
    if flags & _RTM_F_CLONED or _RTN_LOCAL <= route_kind <= _RTN_MULTICAST:
        return None
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    attributes = netlink.attributes(body[_ROUTE.size:])
    destination = "default"
    if _RTA_DST in attributes:
        destination = f"{socket.inet_ntop(family, bytes(attributes[_RTA_DST]))}/{length}"
    interface = _U32.unpack_from(attributes[_RTA_OIF])[0] if _RTA_OIF in attributes else None
    return NetworkEvent("route-changed", interface, destination, kind == _RTM_NEWROUTE)


# A loop that is late by less than this was not suspended. The shortest real suspends take seconds.
SUSPEND_THRESHOLD_US = 1_000_000


class SuspendClock:
    """Notices that the host was asleep: meanwhile CLOCK_BOOTTIME goes on, but CLOCK_MONOTONIC does not."""

    def __init__(self, boottime_us: Callable[[], int] | None = None) -> None:
        self._boottime_us = boottime_us or _read_boottime_us
        # The smallest difference of the two clocks since the last suspend: a late `now_us` makes it look larger than it
        # is, never smaller.
        self._offset_us: int | None = None

    def check(self, now_us: int) -> float:
        """Seconds that the host was suspended since the last call, 0.0 if it was not.

        `now_us` is CLOCK_MONOTONIC in microseconds, read a moment ago. Suspends shorter than the threshold add up.
        """
        offset_us = self._boottime_us() - now_us
        if self._offset_us is None:
            self._offset_us = offset_us
        suspended_us = offset_us - self._offset_us
        if suspended_us >= SUSPEND_THRESHOLD_US:
            self._offset_us = offset_us
            return suspended_us / 1_000_000
        self._offset_us = min(self._offset_us, offset_us)
        return 0.0


def _read_boottime_us() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


def preferred_source(sockaddr: Sockaddr, device: str | None = None) -> str | None:
    """The local address, as text, that the kernel would now use towards `sockaddr`; None if there is no route.

    `sockaddr` is (host, port) for IPv4 or (host, port, flowinfo, scope) for IPv6, numeric. With `device` only routes
    over that device count. No packet is sent: connecting a UDP socket only looks up the route.
    """
    family = socket.AF_INET if len(sockaddr) == 2 else socket.AF_INET6
    probe = None
    try:
        probe = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        if device is not None:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode() + b"\0")
        probe.connect(sockaddr)
        local: str = probe.getsockname()[0]
        return local
    except OSError:
        return None
    finally:
        if probe is not None:
            probe.close()


def outgoing_device(sockaddr: Sockaddr) -> str | None:
    """The name of the device over which the kernel would now send to `sockaddr`; None without a route, or on loopback.

    Asks for the route (rtnetlink(7), RTM_GETROUTE), so that rules and tables count as they do for a connection.
    """
    family = socket.AF_INET if len(sockaddr) == 2 else socket.AF_INET6
    try:
        raw = socket.inet_pton(family, sockaddr[0].partition("%")[0])
        body = _ROUTE.pack(family, 8 * len(raw), 0, 0, 0, 0, 0, 0, 0)
        body += netlink.pack_attribute(_RTA_DST, raw)
        if len(sockaddr) == 4 and sockaddr[3]:
            body += netlink.pack_attribute(_RTA_OIF, _U32.pack(sockaddr[3]))
        with netlink.open_netlink(socket.NETLINK_ROUTE, waits=True) as asker:
            asker.settimeout(1)
            asker.send(netlink.pack_message(_RTM_GETROUTE, netlink.REQUEST, body))
            kind, _, answer = next(netlink.messages(asker.recv(netlink.RECEIVE_BYTES)))
        if kind != _RTM_NEWROUTE:
            return None
        attributes = netlink.attributes(answer[_ROUTE.size:])
        name = socket.if_indextoname(_U32.unpack_from(attributes[_RTA_OIF])[0])
        return None if name == "lo" else name
    except (OSError, KeyError, StopIteration, struct.error):
        return None
