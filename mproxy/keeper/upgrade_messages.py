"""Messages between the processes of an upgrade: JSON objects, with descriptors."""

from __future__ import annotations

import json
import os
import socket

from mproxy.io.manager_socket import MOST_FDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

LONGEST = 65536


def make_sockets() -> tuple[socket.socket, socket.socket]:
    """Two ends; a message arrives whole or not at all."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def say(sock: socket.socket, what: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
    """Send one message; OSError."""
    data = json.dumps(what).encode()
    if fds:
        socket.send_fds(sock, [data], fds)
    else:
        sock.send(data)


def look(sock: socket.socket) -> dict[str, Any] | None:
    """The next message, which stays where it is; None: there is none, or the end. OSError."""
    try:
        data = sock.recv(LONGEST, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    return json.loads(data) if data else None


def hear(sock: socket.socket, flags: int = 0) -> tuple[dict[str, Any], list[int]] | None:
    """The next message and its descriptors; None at the end. OSError."""
    data, fds, flags, _address = socket.recv_fds(sock, LONGEST, MOST_FDS, flags | socket.MSG_CMSG_CLOEXEC)
    if not data:
        return None
    if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
        for fd in fds:
            os.close(fd)
        raise OSError("a message was cut off: there are too many descriptors")
    found: dict[str, Any] = json.loads(data)
    return found, fds
