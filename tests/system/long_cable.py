"""A cable that delays packets and records them: two tun devices and a thread between them."""

import fcntl
import heapq
import os
import select
import struct
import threading
import time
from collections import namedtuple

import pytest
from lab import Link

from tests.root import real_root

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
TCP = 6
TUN = "/dev/net/tun"

Segment = namedtuple("Segment", "at up port payload")


def need_tun():
    """Skips the test where tun devices are not for this user."""
    if not real_root() and not os.access(TUN, os.R_OK | os.W_OK):
        pytest.skip(f"{TUN} is for root alone here")


def open_tun(host, name):
    """The descriptor of a new tun device in `host`."""
    with host.inside():
        fd = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return fd


class LongCable(Link):
    """From `end` to the router, `delay_s` in each direction. `segments` are the TCP segments of IPv4 with bytes in
    them, as `end` sent and got them; `port` is that of `end`."""

    def __init__(self, end, router, net, delay_s):
        self.name, self.end, self.router, self.net = "long", end, router, net
        self.delay_s = delay_s
        self.segments = []
        self.fds = [open_tun(end, self.name), open_tun(router, self.name)]
        router.ip("link set long up", f"addr add {self.address(1)}/24 dev long",
                  f"addr add {self.address6(1)}/64 dev long nodad")
        end.ip("link set long up")
        self.closing = False
        self.thread = threading.Thread(target=self._carry, daemon=True)
        self.thread.start()

    def _carry(self):
        under_way = []  # (when it arrives, number, packet, descriptor)
        number = 0
        while not self.closing:
            wait = max(0, under_way[0][0] - time.monotonic()) if under_way else 0.1
            ready, _, _ = select.select(self.fds, [], [], wait)
            for fd in ready:
                packet = os.read(fd, 1 << 16)
                number += 1
                up = fd == self.fds[0]
                now = time.monotonic()
                self._note(now if up else now + self.delay_s, up, packet)
                heapq.heappush(under_way, (now + self.delay_s, number, packet, self.fds[up]))
            while under_way and under_way[0][0] <= time.monotonic():
                _, _, packet, fd = heapq.heappop(under_way)
                try:
                    os.write(fd, packet)
                except OSError:
                    pass  # nobody has that address any more

    def _note(self, at, up, packet):
        if packet[0] >> 4 != 4 or packet[9] != TCP:
            return
        segment = packet[(packet[0] & 15) * 4:]
        payload = segment[(segment[12] >> 4) * 4:]
        if payload:
            port = int.from_bytes(segment[:2] if up else segment[2:4])
            self.segments.append(Segment(at, up, port, payload))

    def close(self):
        """The devices vanish with their descriptors."""
        self.closing = True
        self.thread.join()
        for fd in self.fds:
            os.close(fd)
