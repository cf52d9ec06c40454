"""Netlink (netlink(7)): its messages and their attributes, written and read.

Whatever is read, nothing is raised: a datagram counts up to the first message that does not fit in it, a message up to
the first such attribute.
"""

from __future__ import annotations

import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

NETFILTER = 12  # linux/netlink.h; for routes: socket.NETLINK_ROUTE

# Types of messages and flags that all its protocols share.
ERROR, DONE, OVERRUN = 2, 3, 4
REQUEST, ACK, DUMP = 0x1, 0x4, 0x300

NESTED = 0x8000  # of an attribute's type: its value is attributes

# Room for a datagram: the kernel sends no longer ones unless it is asked to.
RECEIVE_BYTES = 1 << 16

_HEADER = struct.Struct("=IHHII")     # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")     # nlattr: length, type
_TYPE_MASK = 0x3FFF


def open_netlink(protocol: int, groups: int = 0, *, waits: bool = False) -> socket.socket:
    """A socket that also gets what is told to these groups; OSError. It is non-blocking unless it `waits`."""
    sock = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | (0 if waits else socket.SOCK_NONBLOCK), protocol)
    try:
        sock.bind((0, groups))
    except OSError:
        sock.close()
        raise
    return sock


def pack_message(kind: int, flags: int, body: bytes) -> bytes:
    """A message to the kernel."""
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body


def pack_attribute(kind: int, value: bytes) -> bytes:
    """An attribute, with what fills it up."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def messages(datagram: bytes) -> Iterator[tuple[int, int, memoryview]]:
    """(type, port of who caused it, body) of each message."""
    view = memoryview(datagram)
    while len(view) >= _HEADER.size:
        length, kind, _, _, port = _HEADER.unpack_from(view)
        if not _HEADER.size <= length <= len(view):
            return
        yield kind, port, view[_HEADER.size:length]
        view = view[(length + 3) & ~3:]


def attributes(view: memoryview) -> dict[int, memoryview]:
    """{type: value} of a run of attributes."""
    found = {}
    while len(view) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(view)
        if not _ATTRIBUTE.size <= length <= len(view):
            break
        found[kind & _TYPE_MASK] = view[_ATTRIBUTE.size:length]
        view = view[(length + 3) & ~3:]
    return found
