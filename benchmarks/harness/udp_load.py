"""UDP load: forked Python processes that make one system call for up to 64 packets, and nothing per packet.

The C structures for recvmmsg and sendmmsg are laid out once; a turn is one call. 1,000 clients are 1,000 addresses of
127.0.0.0/8 behind one socket, chosen for each packet by IP_PKTINFO: to a relay they are 1,000 clients, and the
generator stays far faster than any relay.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import time

from harness.load import Address, Worker

BATCH = 64
BUFFER_BYTES = 4 << 20  # of a socket; the system may allow less
LOST_AFTER_SECONDS = 0.2  # without a reply: what is on the way is lost
SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
IP_PKTINFO = 8
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
NAP_SECONDS = 0.0003

_libc = ctypes.CDLL(None, use_errno=True)


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Msghdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("parts", ctypes.c_void_p),
        ("part_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Mmsghdr(ctypes.Structure):
    _fields_ = (("header", _Msghdr), ("length", ctypes.c_uint32))


def control_message(level: int, kind: int, data: bytes) -> bytes:
    """One cmsg(3), padded."""
    whole = struct.pack("@Nii", 16 + len(data), level, kind) + data
    return whole + bytes(-len(whole) % 8)


class Messages:
    """`count` messages laid out for recvmmsg and sendmmsg, each with a buffer of its own and room for an address."""

    def __init__(self, count: int, size: int, controls: list[bytes] | None = None):
        self.count = count
        self._buffers = [ctypes.create_string_buffer(size) for _ in range(count)]
        self._names = [ctypes.create_string_buffer(16) for _ in range(count)]
        self._parts = (_Iovec * count)()
        self.headers = (_Mmsghdr * count)()
        self._controls = [ctypes.create_string_buffer(control, len(control)) for control in controls or ()]
        for index in range(count):
            self._parts[index] = _Iovec(ctypes.addressof(self._buffers[index]), size)
            header = self.headers[index].header
            header.parts = ctypes.addressof(self._parts[index])
            header.part_count = 1
            if self._controls:
                header.control = ctypes.addressof(self._controls[index])
                header.control_length = len(self._controls[index])

    def with_names(self) -> Messages:
        """recvmmsg shall note the senders, to whom sendmmsg then answers."""
        for index in range(self.count):
            header = self.headers[index].header
            header.name = ctypes.addressof(self._names[index])
            header.name_length = 16
        return self

    def to(self, address: Address) -> Messages:
        """sendmmsg shall send to this address: for a socket that is not connected."""
        self.with_names()
        raw = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", address[1], socket.inet_aton(address[0]))
        for name in self._names:
            name.raw = raw
        return self

    def receive(self, fd: int, flags: int = socket.MSG_DONTWAIT) -> int:
        return max(0, _libc.recvmmsg(fd, self.headers, self.count, flags, None))

    def send(self, fd: int, count: int | None = None, first: int = 0) -> int:
        at = ctypes.byref(self.headers, first * ctypes.sizeof(_Mmsghdr))
        return max(0, _libc.sendmmsg(fd, at, self.count - first if count is None else count, 0))


def udp_socket(address: Address | None = None) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for option, forced in ((socket.SO_RCVBUF, SO_RCVBUFFORCE), (socket.SO_SNDBUF, SO_SNDBUFFORCE)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, BUFFER_BYTES)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
    if address:
        sock.bind(address)
    return sock


def udp_sink(worker: Worker, control, address: Address, gro: bool) -> None:
    """Counts bytes (counter 0)."""
    sock = udp_socket(address)
    if gro:
        sock.setsockopt(SOL_UDP, UDP_GRO, 1)
    messages = Messages(BATCH, 65536)
    control.send("ready")
    while True:
        got = messages.receive(sock.fileno())
        if got < BATCH:
            time.sleep(NAP_SECONDS)
        worker.counters[0] += sum(messages.headers[index].length for index in range(got))


def udp_flood(
    _worker: Worker, control, address: Address, size: int, gso: bool, arrived: ctypes.Array, window: int
) -> None:
    """Sends packets of `size` bytes to the address, with GSO or 64 a call, as long as fewer than `window` are on the
    way; `arrived` is the counter of the sink."""
    sock = udp_socket()
    sock.connect(address)
    train = 65507 // size if gso else BATCH
    controls = [control_message(SOL_UDP, UDP_SEGMENT, struct.pack("@H", size))]
    messages = Messages(1, size * train, controls) if gso else Messages(BATCH, size)
    control.send("ready")
    sent = arrived[0]
    moved_at = time.monotonic()
    before = sent
    while True:
        if sent - arrived[0] < window * size:
            messages.send(sock.fileno())
            sent += train * size
            continue
        time.sleep(NAP_SECONDS)
        if arrived[0] != before:
            before, moved_at = arrived[0], time.monotonic()
        elif time.monotonic() - moved_at > LOST_AFTER_SECONDS:
            sent = before


def udp_echo(_worker: Worker, control, address: Address, size: int) -> None:
    """Sends every packet of `size` bytes back to where it came from."""
    sock = udp_socket(address)
    messages = Messages(BATCH, size).with_names()
    control.send("ready")
    while True:
        got = messages.receive(sock.fileno())
        messages.send(sock.fileno(), got)
        if got < BATCH:
            time.sleep(NAP_SECONDS)


def udp_crowd(worker: Worker, control, address: Address, clients: int, size: int, window: int) -> None:
    """`clients` addresses take turns in sending one packet; `window` are on the way. Counter 0: replies, 1: lost."""
    sock = udp_socket(("0.0.0.0", 0))
    sock.setblocking(False)
    addresses = [bytes((127, 1 + number // 250, number % 250, 1)) for number in range(clients)]
    controls = [
        control_message(socket.IPPROTO_IP, IP_PKTINFO, struct.pack("@i4s4s", 0, address, b""))
        for address in addresses
    ]
    outgoing = Messages(clients, size, controls).to(address)
    incoming = Messages(BATCH, size)
    control.send("ready")
    turn = on_the_way = 0
    silent_since = time.monotonic()
    while True:
        while on_the_way < window:
            count = min(BATCH, clients - turn, window - on_the_way)
            on_the_way += outgoing.send(sock.fileno(), count, turn)
            turn = (turn + count) % clients
        got = incoming.receive(sock.fileno())
        if got < BATCH:
            time.sleep(NAP_SECONDS)
        if got:
            silent_since = time.monotonic()
        elif time.monotonic() - silent_since > LOST_AFTER_SECONDS:
            worker.counters[1] += on_the_way
            on_the_way = 0
        worker.counters[0] += got
        on_the_way = max(0, on_the_way - got)
