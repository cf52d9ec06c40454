"""The kernel's table of connections, as far as kernel mode needs it: count ours, end UDP flows of changed rules.

Netlink of nf_conntrack (linux/netfilter/nfnetlink_conntrack.h): numbers of the protocol in the host's byte order,
values of attributes in network order. A flow is deleted by sending back its tuple as it came.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mproxy.io import netlink

_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_...

_GENERIC = struct.Struct("!BBH")    # nfgenmsg: family, version, resource

# Attributes: of a flow, of a tuple, of its addresses, of its protocol
_TUPLE_ORIGINAL, _TUPLE_REPLY, _STATUS, _PROTOCOL_INFO, _ZONE = 1, 2, 3, 4, 18
_ADDRESSES, _PROTOCOL = 1, 2
_SOURCE = {1, 3}
_DESTINATION = {2, 4}
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3

_DESTINATION_CHANGED = 1 << 5  # IPS_DST_NAT

# enum tcp_conntrack: SYN_RECV to CLOSE_WAIT. Before that there is no connection yet, and after it, none any more.
_LIVING_TCP = range(2, 6)

_EMPTY = memoryview(b"")


@dataclass(frozen=True, slots=True)
class TrackedFlow:
    """One entry. `listener`: the address and port that its client called; `target`: who answers."""

    protocol: str
    listener: tuple[str, int]
    target: tuple[str, int]
    redirected: bool           # its destination was changed
    living: bool               # UDP, or a TCP connection that has not ended
    family: int
    identity: bytes            # attributes that identify it


def flows() -> Iterator[TrackedFlow]:
    """Every TCP and UDP TrackedFlow. OSError where netlink is not allowed."""
    with _open() as sock:
        sock.send(_message(_GET, netlink.REQUEST | netlink.DUMP, socket.AF_UNSPEC, b""))
        while True:
            for kind, _, body in netlink.messages(sock.recv(netlink.RECEIVE_BYTES)):
                if kind == netlink.DONE:
                    return
                if kind == netlink.ERROR:
                    number = struct.unpack_from("=i", body)[0]
                    raise OSError(-number, os.strerror(-number))
                flow = parse_flow(body)
                if flow is not None:
                    yield flow


def delete(some: Iterable[TrackedFlow]) -> int:
    """End flows; one that is already gone is not an error. Returns how many there were."""
    count = 0
    with _open() as sock:
        for flow in some:
            sock.send(_message(_DELETE, netlink.REQUEST | netlink.ACK, flow.family, flow.identity))
            for kind, _, body in netlink.messages(sock.recv(netlink.RECEIVE_BYTES)):
                count += kind == netlink.ERROR and struct.unpack_from("=i", body)[0] == 0
    return count


def _open() -> socket.socket:
    sock = netlink.open_netlink(netlink.NETFILTER, waits=True)
    sock.settimeout(10)
    return sock


def _message(kind: int, flags: int, family: int, attributes: bytes) -> bytes:
    return netlink.pack_message(kind, flags, _GENERIC.pack(family, 0, 0) + attributes)


def parse_flow(body: memoryview) -> TrackedFlow | None:
    """The TrackedFlow of a message's body, None for other protocols."""
    family = body[0]
    attributes = netlink.attributes(body[_GENERIC.size:])
    original, reply = (_parse_tuple(attributes[kind]) for kind in (_TUPLE_ORIGINAL, _TUPLE_REPLY))
    if original is None or reply is None:
        return None
    protocol = original[0]
    identity = b"".join(
        netlink.pack_attribute(kind | (netlink.NESTED if kind == _TUPLE_ORIGINAL else 0), bytes(value))
        for kind, value in attributes.items() if kind in (_TUPLE_ORIGINAL, _ZONE))
    status = struct.unpack("!I", attributes.get(_STATUS, bytes(4)))[0]
    return TrackedFlow(protocol, original[2], reply[1], bool(status & _DESTINATION_CHANGED),
                protocol == "udp" or _tcp_state(attributes) in _LIVING_TCP, family, identity)


def _parse_tuple(data: memoryview) -> tuple[str, tuple[str, int], tuple[str, int]] | None:
    """(protocol, (source, port), (destination, port)), None for a protocol without ports."""
    parts = netlink.attributes(data)
    protocol = netlink.attributes(parts[_PROTOCOL])
    name = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp"}.get(protocol[_NUMBER][0])
    if name is None:
        return None
    addresses = netlink.attributes(parts[_ADDRESSES])
    source, destination = (
        next(_say_address(value) for kind, value in addresses.items() if kind in kinds)
        for kinds in (_SOURCE, _DESTINATION))
    ports = (struct.unpack("!H", protocol[kind])[0] for kind in (_SOURCE_PORT, _DESTINATION_PORT))
    return name, (source, next(ports)), (destination, next(ports))


def _say_address(packed: memoryview) -> str:
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def _tcp_state(attributes: dict[int, memoryview]) -> int:
    tcp = netlink.attributes(attributes.get(_PROTOCOL_INFO, _EMPTY)).get(1, _EMPTY)  # CTA_PROTOINFO_TCP
    state = netlink.attributes(tcp).get(1, _EMPTY)                                   # CTA_PROTOINFO_TCP_STATE
    return state[0] if state else 0
