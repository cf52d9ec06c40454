"""What a worker has from the one before it: sessions, the connections of their applications, and some that had just
been accepted. Nothing for the first worker, and without a keeper."""

from __future__ import annotations

import os
import socket

from mproxy._inherit import give_up, mark, named_descriptors, recover
from mproxy.endpoint._takeover import is_untouched

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


class Estate:
    """Found by `claim`, once, before anything else is done."""

    def __init__(self) -> None:
        self.sessions: list[int] = []  # by the numbers of their records
        self.damaged = 0               # others, which are given up
        self.accepted: list[int] = []  # descriptors of connections that belong to no stream yet

    def claim(self, fds: list[int], listeners: Iterable[socket.socket] = ()) -> set[int]:
        """Look what there is; of the descriptors `fds` those that are still wanted. `listeners`: whose connections are
        applications' that nobody else would bring back."""
        self.sessions, self.damaged = recover()
        wanted = {fd for number in self.sessions for fd in named_descriptors(number)}
        places = [listener.getsockname()[:2] for listener in listeners]
        self.accepted = [fd for fd in fds if fd not in wanted and _came_to(fd, places) and is_untouched(fd)]
        return wanted.union(self.accepted)

    def ill(self, condemned: Collection[int]) -> set[int]:
        """Sessions in whose turn workers have crashed."""
        return {number for number in self.sessions if mark(number) in condemned}


def end_unseen(number: int) -> None:
    """End a session, and reset its applications, whatever is in it."""
    descriptors = named_descriptors(number)
    give_up(number)
    for fd in descriptors:
        os.close(fd)  # with a reset, unless it was given the end


def _came_to(fd: int, places: list[tuple[str, int]]) -> bool:
    """Whether it is a connection to one of these addresses of ours."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        return False
    try:
        if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
            return False
        host, port = sock.getsockname()[:2]
        return any(port == there and where in (host, "0.0.0.0", "::") for where, there in places)
    except OSError:
        return False
    finally:
        sock.detach()
