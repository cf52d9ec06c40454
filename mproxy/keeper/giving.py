"""A worker gives its sessions to the next build of the program, over a socket that leads there; and how they are
received."""

from __future__ import annotations

import os

from mproxy._dump import dump_sessions
from mproxy._inherit import kept_own_record
from mproxy.ground.errors import LocalError, MproxyError
from mproxy.io.manager_socket import MOST_FDS
from mproxy.io.sealed_file import make_sealed
from mproxy.keeper.upgrade_messages import hear, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any


def give_sessions(sock: socket.socket, version: int) -> dict[str, Any] | None:
    """Give all that there is, in a dump of that version, and wait for the answer; None: the other side has ended, or
    hangs. LocalError says what went wrong here. Whatever becomes of it, nothing has changed."""
    try:
        dump, descriptors = make_dump(version)
    except (OSError, LocalError, MemoryError) as error:
        raise LocalError(f"the sessions cannot be dumped: {error}") from None
    try:
        say(sock, {"descriptors": len(descriptors)}, [dump])
        for start in range(0, len(descriptors), MOST_FDS):
            say(sock, {"more": True}, descriptors[start:start + MOST_FDS])
    except OSError as error:
        raise LocalError(f"it did not take all descriptors: {error.strerror}") from None
    finally:
        os.close(dump)
    try:
        heard = hear(sock)
    except OSError:
        return None
    return heard[0] if heard is not None else None


def receive_sessions(sock: socket.socket) -> tuple[int, list[int]] | None:
    """The dump, and the descriptors that it names; None: the other side has ended. OSError; MproxyError says why it
    gives nothing."""
    heard = hear(sock)
    if heard is not None and "refused" in heard[0]:
        raise MproxyError(str(heard[0]["refused"]))
    if heard is None or not heard[1]:
        return None
    message, (dump,) = heard
    descriptors: list[int] = []
    while len(descriptors) < message["descriptors"]:
        more = hear(sock)
        if more is None or not more[1]:
            return None
        descriptors += more[1]
    return dump, descriptors


def make_dump(version: int) -> tuple[int, list[int]]:
    """All sessions in a file without a name that nobody can change any more, and the descriptors that go with them."""
    return make_sealed("mproxy-dump", lambda room: dump_sessions(version, kept_own_record(), room))
