"""Two hosts with a bad path between them, where the kernel may have no netem: two namespaces, each with a tun device,
and a process that carries packets from one to the other: late, not all of them, and only so many a second.

Addresses belong to devices and nothing is resolved, so that a host's address may change at once. The process is Python:
it carries about 10,000 packets a second, and costs half a core then; it is no part of any contender.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import struct
import time
from collections import deque
from dataclasses import dataclass

from harness import load
from harness.places import EPHEMERAL_PORTS, congestion_control, enter_namespace, run

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
DEVICE = "path"
MTU = 1500


@dataclass(frozen=True)
class BadPath:
    """Of each direction: delay, share of packets that are lost, rate (0: none), and what may wait in front of it."""

    one_way_s: float
    loss: float = 0.0
    bytes_per_s: float = 0.0
    queue_s: float = 0.1


class TunHosts:
    """Context manager. Namespaces `a` (application and first proxy) and `b`; as TwoHosts to a Contender."""

    subnet = "10.76.0"

    def __init__(self, tag: str, path: BadPath, congestion: str | None = None):
        self.a, self.b = (f"bench-{os.getpid()}-{tag}-{end}" for end in ("a", "b"))
        self.address_a, self.address_b = f"{self.subnet}.2", f"{self.subnet}.1"
        self._path = path
        self._congestion = congestion or congestion_control()

    def __enter__(self) -> TunHosts:
        for name in (self.a, self.b):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
            for setting in (f"ip_local_port_range={EPHEMERAL_PORTS}", f"tcp_congestion_control={self._congestion}"):
                run("ip", "netns", "exec", name, "sysctl", "-qw", f"net.ipv4.{setting}")
        self._carrier = load.Worker(carry, self.a, self.b, self._path)
        for name, address in ((self.a, self.address_a), (self.b, self.address_b)):
            run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", DEVICE)
            run("ip", "-n", name, "link", "set", DEVICE, "mtu", str(MTU), "txqueuelen", "10000", "up")
        return self

    def __exit__(self, *_exc) -> None:
        self._carrier.stop()
        for name in (self.a, self.b):
            run("ip", "netns", "del", name)

    def carried_bytes(self) -> int:
        """What has entered the path at both hosts, IP headers included."""
        names = (("a", self.a), ("b", self.b))
        return sum(int(run("ip", "netns", "exec", name, "cat", f"/sys/class/net/{DEVICE}/statistics/tx_bytes"))
                   for _end, name in names)


class Direction:
    """From one device to the other."""

    def __init__(self, source: int, sink: int, path: BadPath, seed: int):
        self.source = source
        self._sink = sink
        self._path = path
        self._random = random.Random(seed)
        self._free_at = 0.0
        self._under_way: deque[tuple[float, bytes]] = deque()

    def take(self) -> None:
        """Packets enter."""
        path = self._path
        for _ in range(32):
            try:
                packet = os.read(self.source, 1 << 16)
            except BlockingIOError:
                return
            now = time.monotonic()
            if path.loss and self._random.random() < path.loss:
                continue
            leaves = now
            if path.bytes_per_s:
                leaves = max(now, self._free_at)
                if leaves - now > path.queue_s:
                    continue
                leaves = self._free_at = leaves + len(packet) / path.bytes_per_s
            self._under_way.append((leaves + path.one_way_s, packet))

    def give(self, now: float) -> float:
        """Packets whose time has come arrive; returns how long the next one has to wait, in seconds."""
        while self._under_way and self._under_way[0][0] <= now:
            try:
                os.write(self._sink, self._under_way.popleft()[1])
            except OSError:
                pass  # the device is down, or has no room: lost
        return self._under_way[0][0] - now if self._under_way else 0.1


def carry(_worker: load.Worker, control, one: str, other: str, path: BadPath) -> None:
    """The process between the two."""
    devices = [_device_in(name) for name in (one, other)]
    ways = (Direction(devices[0], devices[1], path, 1), Direction(devices[1], devices[0], path, 2))
    control.send("ready")
    wait = 0.1
    while True:
        ready = select.select(devices, [], [], max(0.0, wait))[0]
        for way in ways:
            if way.source in ready:
                way.take()
        now = time.monotonic()
        wait = min(way.give(now) for way in ways)


def _device_in(namespace: str) -> int:
    enter_namespace(namespace)
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
    return fd
