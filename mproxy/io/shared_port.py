"""One UDP port for several workers, a socket for each (SO_REUSEPORT, socket(7))."""

from __future__ import annotations

import array
import socket
import struct

from mproxy.ground.config import format_host_port
from mproxy.ground.words import printable
from mproxy.io.bind import UDP, bind_socket, cannot_listen, report_packets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# asm-generic/socket.h, linux/filter.h: not in Python's socket module.
_SO_ATTACH_REUSEPORT_CBPF = 51
_LOAD_BYTE, _JUMP_EQUAL, _SHIFT_RIGHT, _RETURN, _RETURN_THIS = 0x30, 0x15, 0x74, 0x16, 0x06


def share_udp(first: socket.socket) -> None:
    """Let this user bind more sockets to its port. Only after it was bound: nobody was to have it before."""
    first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def open_beside(host: str, port: int) -> socket.socket:
    """One more socket like those of `open_udp`, at a port that was shared; MproxyError."""
    try:
        sock = bind_socket(UDP, host, port, shared=True)
    except OSError as error:
        raise cannot_listen(printable(format_host_port(host, port)), error, port) from None
    report_packets(sock)
    return sock


def choose_by_byte(sockets: Sequence[socket.socket], offset: int, bits: int, unless: int) -> bool:
    """Have the kernel give a packet to that one of these sockets at one port, counted in the order in which they were
    bound, which the first `bits` of the byte at `offset` name. By the addresses, as without this, go those whose first
    byte is `unless`, and those that name none. False: the kernel cannot do that."""
    program = [(_LOAD_BYTE, 0, 0, 0), (_JUMP_EQUAL, 3, 0, unless), (_LOAD_BYTE, 0, 0, offset),
               (_SHIFT_RIGHT, 0, 0, 8 - bits), (_RETURN, 0, 0, 0), (_RETURN_THIS, 0, 0, 0xFFFFFFFF)]
    code = array.array("B", b"".join(struct.pack("=HBBI", *each) for each in program))  # struct sock_filter
    try:
        sockets[0].setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF,
                              struct.pack("@HP", len(program), code.buffer_info()[0]))  # struct sock_fprog
    except OSError:
        return False
    return True
