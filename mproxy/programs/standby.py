"""A `mproxy connect` whose ssh has ended keeps its session for a while, for the next ssh with the same command line.

So that one waits for no start of Python, no dial and no handshake: programs/quick_start.c, which ssh runs, finds our
socket and hands over its standard input, output and error. What comes through is another stream of the session.

Who connects gets READY if the session works, sends its three descriptors with one byte, and keeps the connection as
long as it lives. Without READY it has to do it itself, as if nobody were there.
"""

from __future__ import annotations

import os
import socket

from mproxy.ground.errors import MproxyError
from mproxy.io.bind import UnixListener
from mproxy.policy.via_start import leave_directory
from mproxy.programs.standby_guest import READY, is_pipe
from mproxy.service.control import credentials_of, make_directory, runtime_directories, short_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mproxy.io._loop import Loop, Watch

# Who connects sends its descriptors at once.
PATIENCE_US = 2_000_000

# More at once dial for themselves.
MOST_GUESTS = 16

FDS = 3


class Standby:
    """Serves those who come, each with `add(input, output)`, while `works()`. MproxyError or OSError if it cannot be
    done, with nothing changed; else standard error leads nowhere now, and to the newest guest's later."""

    def __init__(self, loop: Loop, name: str, works: Callable[[], bool], add: Callable[[int, int], object]) -> None:
        self._loop = loop
        self._works = works
        self._add = add
        self._coming: dict[socket.socket, Watch] = {}  # they have not sent their descriptors
        self._here: dict[socket.socket, Watch] = {}
        self._heard_by: socket.socket | None = None  # the guest that has our standard error
        self._listener = _listen(name)
        try:
            os.setsid()  # what happens to the terminal does not concern us any more
            leave_directory()
        except OSError:
            self._listener.close()
            raise
        self.rest()
        self._watch = loop.watch(self._listener.sock.fileno(), lambda _events: self._accept())

    def rest(self) -> None:
        """All guests have ended: let go of what is theirs."""
        for guest in list(self._here):
            _dismiss(guest, self._here)
        self._hush()

    def _hush(self) -> None:
        self._heard_by = None
        _use_for_errors(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))

    def _leave(self, guest: socket.socket) -> None:
        """It has ended, while others have not: somebody may read its standard error to the end."""
        _dismiss(guest, self._here)
        if guest is self._heard_by:
            self._hush()

    def close(self) -> None:
        """Take nobody any more."""
        self._watch.close()
        self._listener.close()
        for guest in list(self._coming):
            _dismiss(guest, self._coming)

    def _accept(self) -> None:
        try:
            guest, _address = self._listener.sock.accept()
        except OSError:
            return
        guest.setblocking(False)
        try:
            if len(self._coming) + len(self._here) >= MOST_GUESTS or credentials_of(guest)[1] != os.geteuid() or (
                    not self._works()):
                raise PermissionError
            guest.send(READY)
        except OSError:
            guest.close()
            return
        self._coming[guest] = self._loop.watch(guest.fileno(), lambda _events: self._take(guest))
        self._loop.call_later(PATIENCE_US, lambda: _dismiss(guest, self._coming))

    def _take(self, guest: socket.socket) -> None:
        """It has sent its descriptors, or nonsense."""
        try:
            _byte, fds, _flags, _address = socket.recv_fds(guest, 1, FDS, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            fds = []
        if len(fds) != FDS or not all(map(is_pipe, fds[:2])):
            for fd in fds:
                os.close(fd)
            _dismiss(guest, self._coming)
            return
        self._coming.pop(guest).close()
        self._here[guest] = self._loop.watch(guest.fileno(), lambda _events: self._leave(guest))
        for fd in fds[:2]:
            os.set_blocking(fd, False)
        _use_for_errors(fds[2])
        self._heard_by = guest
        self._add(fds[0], fds[1])


def _dismiss(guest: socket.socket, guests: dict[socket.socket, Watch]) -> None:
    watch = guests.pop(guest, None)
    if watch is not None:
        watch.close()
        guest.close()


def _use_for_errors(fd: int) -> None:
    os.dup2(fd, 2)
    os.close(fd)


def _listen(name: str) -> UnixListener:
    """In the first directory that can be had; MproxyError, also if another one listens there."""
    wrong: MproxyError | None = None
    for place in runtime_directories():
        try:
            make_directory(place)
        except MproxyError as error:
            wrong = wrong or error
            continue
        path = os.path.join(place, name)
        with short_path(path) as short:
            listener = UnixListener(short)
        listener.path = path
        return listener
    raise wrong or MproxyError("no directory for a socket")
