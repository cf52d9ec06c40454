"""How to close sockets that nobody needs any more, so that the system keeps nothing of them, or not for long."""

from __future__ import annotations

import socket
import struct

# How long last words may wait for a peer that acknowledges nothing. By itself the system tries for minutes.
LAST_WORDS_MS = 10_000

# What may be left unread by whoever was refused; with more of it the connection ends with a reset.
MOST_UNREAD_BYTES = 65536

_AT_ONCE = struct.pack("ii", 1, 0)  # struct linger: on, 0 s


def reset_on_close(sock: socket.socket) -> None:
    """Make closing send a reset (socket(7), SO_LINGER of 0)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)


def give_up(sock: socket.socket) -> None:
    """Close with a reset: what was sent and not acknowledged is dropped, and neither end keeps state. An orderly end
    would wait for the other side, which may have become unreachable."""
    reset_on_close(sock)
    sock.close()


def keep_last_words(sock: socket.socket) -> None:
    """Have closing end the connection in order, also where something is left that nobody has read (tcp(7)), so that
    what was sent last arrives. OSError."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes(len(_AT_ONCE)))
    sock.shutdown(socket.SHUT_WR)
    sock.recv(MOST_UNREAD_BYTES)


def finish(sock: socket.socket) -> None:
    """Close in order, so that what was sent arrives, provided that the peer acknowledges it soon (tcp(7),
    TCP_USER_TIMEOUT, which outlives the descriptor)."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, LAST_WORDS_MS)
    sock.close()
