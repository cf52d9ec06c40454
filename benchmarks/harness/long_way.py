"""A way of some length that leads back to this host: a tun device, and a thread that holds each packet for a while.

What is sent to FAR comes back to NEAR, with both addresses exchanged: so a program finds the daemons of this very host
behind a path, and no second namespace is needed. Checksums stay right. One thread carries about 100 MB/s.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import threading
import time
from collections import deque

from harness.places import run

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
NAME, QUEUE_PACKETS = "longway", 10_000
ADDRESSES = slice(12, 20)  # of an IPv4 header: source, destination


class LongWay:
    """Context manager; `one_way_s` in each direction."""

    NEAR, FAR = "10.79.0.1", "10.79.0.2"

    def __init__(self, one_way_s: float):
        self._one_way_s = one_way_s
        self._closing = False

    def __enter__(self) -> LongWay:
        self._fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(self._fd, TUNSETIFF, struct.pack("16sH22x", NAME.encode(), IFF_TUN | IFF_NO_PI))
        run("ip", "addr", "add", f"{self.NEAR}/24", "dev", NAME)
        run("ip", "link", "set", NAME, "txqueuelen", str(QUEUE_PACKETS), "up")
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()
        return self

    def _carry(self) -> None:
        under_way: deque[tuple[float, bytearray]] = deque()  # when it arrives, the packet
        while not self._closing:
            wait = max(0.0, under_way[0][0] - time.monotonic()) if under_way else 0.1
            if select.select([self._fd], [], [], wait)[0]:
                self._take(under_way)
            now = time.monotonic()
            while under_way and under_way[0][0] <= now:
                try:
                    os.write(self._fd, under_way.popleft()[1])
                except OSError:
                    pass  # there is no room for it: lost

    def _take(self, under_way: deque[tuple[float, bytearray]]) -> None:
        at = time.monotonic() + self._one_way_s
        for _ in range(64):
            try:
                packet = bytearray(os.read(self._fd, 1 << 16))
            except BlockingIOError:
                return
            if packet[0] >> 4 == 4:
                packet[ADDRESSES] = packet[16:20] + packet[12:16]
                under_way.append((at, packet))

    def __exit__(self, *_exc) -> None:
        self._closing = True
        self._thread.join()
        os.close(self._fd)
