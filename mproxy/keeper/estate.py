"""What a worker has from the one before it: sessions, the connections of their applications, and some that had just
been accepted. Nothing for the first worker, and without a keeper."""

from __future__ import annotations

import os
import socket

from mproxy._inherit import give_up, mark, named_descriptors, recover
from mproxy.io._kernel_facts import is_untouched

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from typing import TypeVar

    from mproxy.ground.shapes import Sockaddr
    Answer = TypeVar("Answer")


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


def peer_of(fd: int) -> tuple[int, Sockaddr] | None:
    """Family and address of the other end, if this is a connected socket."""
    return _ask(fd, lambda sock: (int(sock.family), sock.getpeername()), (socket.SOCK_STREAM, socket.SOCK_DGRAM))


def _came_to(fd: int, places: list[tuple[str, int]]) -> bool:
    """Whether it is a connection to one of these addresses of ours."""
    local = _ask(fd, lambda sock: sock.getsockname())
    return local is not None and any(
        port == local[1] and where in (local[0], "0.0.0.0", "::") for where, port in places)


def _ask(fd: int, question: Callable[[socket.socket], Answer],
         kinds: tuple[int, ...] = (socket.SOCK_STREAM,)) -> Answer | None:
    """What the system answers; None if it is no internet socket of that kind, or has no answer."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        return None
    try:
        fits = sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type in kinds
        return question(sock) if fits else None
    except OSError:
        return None
    finally:
        sock.detach()
