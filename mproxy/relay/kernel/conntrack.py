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

NETLINK_NETFILTER = 12
_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_...
_REQUEST, _ACK, _DUMP = 1, 4, 0x300
_ERROR, _DONE = 2, 3

_HEADER = struct.Struct("=IHHII")   # nlmsghdr: length, type, flags, sequence, port
_GENERIC = struct.Struct("!BBH")    # nfgenmsg: family, version, resource
_ATTRIBUTE = struct.Struct("=HH")   # nlattr: length, type
_NESTED = 0x8000
_TYPE_MASK = 0x3FFF

# Attributes: of a flow, of a tuple, of its addresses, of its protocol
_TUPLE_ORIGINAL, _TUPLE_REPLY, _STATUS, _PROTOCOL_INFO, _ZONE = 1, 2, 3, 4, 18
_ADDRESSES, _PROTOCOL = 1, 2
_SOURCE = {1, 3}
_DESTINATION = {2, 4}
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3

_DESTINATION_CHANGED = 1 << 5  # IPS_DST_NAT

# enum tcp_conntrack: SYN_RECV to CLOSE_WAIT. Before that there is no connection yet, and after it, none any more.
_LIVING_TCP = range(2, 6)

RECEIVE_BYTES = 1 << 16


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
        sock.send(_message(_GET, _REQUEST | _DUMP, socket.AF_UNSPEC, b""))
        while True:
            for kind, body in _messages(sock.recv(RECEIVE_BYTES)):
                if kind == _DONE:
                    return
                if kind == _ERROR:
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
            sock.send(_message(_DELETE, _REQUEST | _ACK, flow.family, flow.identity))
            for kind, body in _messages(sock.recv(RECEIVE_BYTES)):
                count += kind == _ERROR and struct.unpack_from("=i", body)[0] == 0
    return count


def _open() -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    sock.settimeout(10)
    sock.bind((0, 0))
    return sock


def _message(kind: int, flags: int, family: int, attributes: bytes) -> bytes:
    body = _GENERIC.pack(family, 0, 0) + attributes
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, body) of each message in a datagram."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, at)
        yield kind, data[at + _HEADER.size:at + length]
        at += max(_HEADER.size, length + 3 & ~3)


def _attributes(data: bytes) -> dict[int, bytes]:
    """{type: value} of a run of attributes."""
    found = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        found[kind & _TYPE_MASK] = data[at + _ATTRIBUTE.size:at + length]
        at += max(_ATTRIBUTE.size, length + 3 & ~3)
    return found


def parse_flow(body: bytes) -> TrackedFlow | None:
    """The TrackedFlow of a message's body, None for other protocols."""
    family = body[0]
    attributes = _attributes(body[_GENERIC.size:])
    original, reply = (_parse_tuple(attributes[kind]) for kind in (_TUPLE_ORIGINAL, _TUPLE_REPLY))
    if original is None or reply is None:
        return None
    protocol = original[0]
    identity = b"".join(
        _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind | (_NESTED if kind == _TUPLE_ORIGINAL else 0))
        + value + bytes(-len(value) % 4)
        for kind, value in attributes.items() if kind in (_TUPLE_ORIGINAL, _ZONE))
    status = struct.unpack("!I", attributes.get(_STATUS, bytes(4)))[0]
    return TrackedFlow(protocol, original[2], reply[1], bool(status & _DESTINATION_CHANGED),
                protocol == "udp" or _tcp_state(attributes) in _LIVING_TCP, family, identity)


def _parse_tuple(data: bytes) -> tuple[str, tuple[str, int], tuple[str, int]] | None:
    """(protocol, (source, port), (destination, port)), None for a protocol without ports."""
    parts = _attributes(data)
    protocol = _attributes(parts[_PROTOCOL])
    name = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp"}.get(protocol[_NUMBER][0])
    if name is None:
        return None
    addresses = _attributes(parts[_ADDRESSES])
    source, destination = (
        next(_say_address(value) for kind, value in addresses.items() if kind in kinds)
        for kinds in (_SOURCE, _DESTINATION))
    ports = (struct.unpack("!H", protocol[kind])[0] for kind in (_SOURCE_PORT, _DESTINATION_PORT))
    return name, (source, next(ports)), (destination, next(ports))


def _say_address(packed: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def _tcp_state(attributes: dict[int, bytes]) -> int:
    tcp = _attributes(attributes.get(_PROTOCOL_INFO, b"")).get(1, b"")  # CTA_PROTOINFO_TCP
    state = _attributes(tcp).get(1, b"")                                 # CTA_PROTOINFO_TCP_STATE
    return state[0] if state else 0
