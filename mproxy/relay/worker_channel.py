"""Messages between the supervisor and one worker, with descriptors, over a pair of SOCK_SEQPACKET sockets.

Neither side ever waits for the other: what the socket does not take is queued, and the loop sends it later. A message
is a JSON array that begins with its name. A long one goes in pieces, whose first byte says whether more follow;
descriptors come with the last piece.
"""

from __future__ import annotations

import array
import errno
import json
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mproxy.io._loop import Loop

# Most descriptors in one message: the kernel's SCM_MAX_FD is 253.
MOST_FDS = 250

# Bytes of one piece: below half of the default net.core.wmem_max (212,992), as the kernel adds its own bookkeeping.
PIECE_BYTES = 65_536

# Most bytes in one message, far beyond what either side has to say.
LONGEST_BYTES = 16 << 20

# Messages that are read before it is the others' turn.
MESSAGES_A_TURN = 64

_MORE, _LAST = b"+", b"."
_LATER = {errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM}


class WorkerChannel:
    """One end. `received(message, fds)` is called for each message, `ended()` once, when the other end is gone or sends
    something that is not a message."""

    def __init__(self, loop: Loop, sock: socket.socket, received: Callable[[list[Any], list[int]], object],
                 ended: Callable[[], object]) -> None:
        self._loop = loop
        self._socket: socket.socket | None = sock
        self._received = received
        self._ended = ended
        # Data, descriptors, and their owner, kept alive until they are sent.
        self._queue: deque[tuple[bytes, Sequence[int], object]] = deque()
        self._pieces: list[bytes] = []      # of a message whose last piece has not arrived
        self._pieces_bytes = 0
        self._watch = loop.watch(sock.fileno(), self._ready)

    @property
    def queued(self) -> int:
        """Pieces that the socket has not taken yet."""
        return len(self._queue)

    def send(self, *message: Any, fds: Sequence[int] = (), owner: object = None) -> None:
        """Send a message, now or later. `owner` closes the descriptors when it is freed, not before."""
        assert len(fds) <= MOST_FDS, (message[0], len(fds))
        if self._socket is None:
            return
        data = json.dumps(message, separators=(",", ":")).encode()
        for start in range(0, len(data), PIECE_BYTES - 1):
            piece = data[start:start + PIECE_BYTES - 1]
            last = start + len(piece) == len(data)
            self._send_piece((_LAST if last else _MORE) + piece, fds if last else (), owner)

    def _send_piece(self, piece: bytes, fds: Sequence[int], owner: object) -> None:
        if self._queue or not self._try(piece, fds):
            self._queue.append((piece, fds, owner))
            self._watch.set(read=True, write=True)

    def close(self) -> None:
        """Close it; the other side notices."""
        if self._socket is not None:
            self._watch.close()
            self._socket.close()
            self._socket = None
            self._queue.clear()

    def _try(self, data: bytes, fds: Sequence[int]) -> bool:
        """Whether the piece is dealt with: sent, or pointless because nobody is there."""
        if self._socket is None:
            return True
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._socket.sendmsg([data], control, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            # ETOOMANYREFS, ENOBUFS, ENOMEM: later. Otherwise reading will show the end.
            return error.errno not in _LATER
        return True

    def _ready(self, _events: int) -> None:
        while self._queue and self._try(*self._queue[0][:2]):
            self._queue.popleft()
        if self._socket is not None and not self._queue:
            self._watch.set(read=True)
        self.read(MESSAGES_A_TURN)

    def read(self, most: int | None = None) -> None:
        """Take what has arrived, now; at most that many messages."""
        taken = 0
        while self._socket is not None and taken != most:
            try:
                data, fds, _, _ = socket.recv_fds(self._socket, PIECE_BYTES, MOST_FDS, socket.MSG_DONTWAIT
                                                  | socket.MSG_CMSG_CLOEXEC)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data, fds = b"", []
            if not data or not self._take(data, fds):
                for fd in fds:
                    os.close(fd)
                self.close()
                self._ended()
                return
            taken += 1

    def _take(self, data: bytes, fds: list[int]) -> bool:
        """Take a piece; false when it is not one."""
        self._pieces.append(data[1:])
        self._pieces_bytes += len(data)
        if data[:1] == _MORE:
            return not fds and self._pieces_bytes < LONGEST_BYTES
        try:
            message = json.loads(b"".join(self._pieces)) if data[:1] == _LAST else None
        except (ValueError, RecursionError):
            return False
        self._pieces, self._pieces_bytes = [], 0
        if not isinstance(message, list) or not message or not isinstance(message[0], str):
            return False
        self._received(message, fds)
        return True


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets, non-blocking, for one WorkerChannel each."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    return one, other


# ---- between processes of which one has no loop

def send_now(sock: socket.socket, *message: Any) -> None:
    """Send a short message on a blocking socket; OSError when nobody is there."""
    sock.sendall(_LAST + json.dumps(message, separators=(",", ":")).encode())


def receive_now(sock: socket.socket) -> tuple[list[Any], list[int]] | None:
    """The next message on a blocking socket, and its descriptors; None: the other side has ended."""
    data, fds, _, _ = socket.recv_fds(sock, PIECE_BYTES, MOST_FDS, socket.MSG_CMSG_CLOEXEC)
    return (json.loads(data[1:]), fds) if data else None
