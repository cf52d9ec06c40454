"""Packets through a pair of pipes, for a path on which UDP does not get through: `mproxy copy` has its ssh.

Each end is a UDP socket on the loopback address for the program beside it, and looks to it like another address of the
other side; between the two, each packet comes behind its length in two bytes. A full pipe makes the socket's queue
overflow, so the congestion control of the program finds the pipe's rate as it finds any other.
"""

from __future__ import annotations

import os
import select
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mproxy.io._loop import Loop, Watch

LOOPBACK = "127.0.0.1"

# What waits for a pipe that is full; more stays in the socket's queue.
MOST_WAITING_BYTES = 1 << 18

# Of the socket's queue: the kernel gives as much of it as it may.
QUEUE_BYTES = 4 << 20

READ_BYTES = 1 << 18
PACKETS_AT_ONCE = 64
MOST_PACKET_BYTES = 65535
LENGTH_BYTES = 2


class PacketPipe:
    """Between a pair of descriptors, which never block and are closed with it, and the program at `port` (0: at the one
    that the first packet comes from). It carries packets from `open` on. `on_end()`: the pipe is at its end, or
    broken."""

    def __init__(self, loop: Loop, read_fd: int, write_fd: int, port: int, on_end: Callable[[], object]) -> None:
        self.carried = False  # a packet has come through the pipe
        self._read_fd, self._write_fd = read_fd, write_fd
        self._on_end = on_end
        self._peer = port
        self._in, self._out = bytearray(), bytearray()
        self._is_open = False
        self._ended = False
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, QUEUE_BYTES)
        self._socket.bind((LOOPBACK, 0))
        self.port: int = self._socket.getsockname()[1]  # where the program finds us
        if port:
            self._socket.connect((LOOPBACK, port))
        self._on_packets = loop.watch(self._socket.fileno(), lambda _events: self._take_packets(), read=False)
        self._on_packets.pause()
        self._on_read = loop.watch(read_fd, lambda _events: self._read())
        self._on_write: Watch | None = loop.watch(write_fd, self._may_write, read=False)

    @property
    def ended(self) -> bool:
        """Whether the pipe no longer carries anything."""
        return self._ended

    def open(self) -> None:
        """Take packets from now on; those that have come meanwhile are still there."""
        if not self._is_open and not self._ended:
            self._is_open = True
            self._on_packets.set(read=True)

    def close(self) -> None:
        """Close the descriptors."""
        if not self._ended:
            self._ended = True
            for watch in (self._on_packets, self._on_read, self._on_write):
                if watch is not None:
                    watch.close()
            self._socket.close()
            for fd in (self._read_fd, self._write_fd):
                os.close(fd)

    def _end(self) -> None:
        self.close()
        self._on_end()

    # ---- from the program into the pipe

    def _take_packets(self) -> None:
        for _ in range(PACKETS_AT_ONCE):
            if len(self._out) >= MOST_WAITING_BYTES:
                break
            try:
                packet, sender = self._socket.recvfrom(MOST_PACKET_BYTES)
            except BlockingIOError:
                break
            except OSError:
                continue  # what ICMP says of an earlier packet: the program has gone
            if not self._peer:
                self._peer = sender[1]
                self._socket.connect(sender)
            self._out += len(packet).to_bytes(LENGTH_BYTES, "big") + packet
        self._write()

    def _may_write(self, events: int) -> None:
        if events & (select.EPOLLERR | select.EPOLLHUP):
            self._stop_writing()  # what has come before is still to be read
        else:
            self._write()

    def _stop_writing(self) -> None:
        if self._on_write is not None:
            self._on_write.close()
            self._on_write = None
        self._out.clear()

    def _write(self) -> None:
        if self._on_write is None:
            self._out.clear()
            return
        try:
            while self._out:
                del self._out[:os.write(self._write_fd, self._out)]
        except BlockingIOError:
            pass
        except OSError:
            self._stop_writing()
            return
        self._on_write.set(write=bool(self._out))
        if self._is_open and len(self._out) < MOST_WAITING_BYTES:
            self._on_packets.set(read=True)
        else:
            self._on_packets.pause()

    # ---- from the pipe to the program

    def _read(self) -> None:
        try:
            data = os.read(self._read_fd, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end()
            return
        self.take(data)

    def take(self, data: bytes) -> None:
        """Bytes that have come through the pipe."""
        arrived = self._in
        arrived += data
        at = 0
        while len(arrived) - at >= LENGTH_BYTES:
            end = at + LENGTH_BYTES + int.from_bytes(arrived[at:at + LENGTH_BYTES], "big")
            if end > len(arrived):
                break
            self.carried = True
            self._hand_over(arrived[at + LENGTH_BYTES:end])
            at = end
        del arrived[:at]

    def _hand_over(self, packet: bytearray) -> None:
        if self._peer:
            try:
                self._socket.send(packet)
            except OSError:
                pass  # a packet may be lost; its sender notices
