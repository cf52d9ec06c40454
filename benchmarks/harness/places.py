"""Where a benchmark runs: a private network namespace, and two hosts joined by a virtual switch.

The whole bench moves into a network namespace of its own when it may (root), so that its ports, its port
range and its sysctls disturb nobody and nobody's traffic disturbs it. `TwoHosts` adds hosts `a` and `b` with
a bridge between them, in a third namespace: taking the bridge down is a silent black hole (both cables keep
their carrier), and a token bucket on the ports shapes the path.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CLONE_NEWNET = 0x40000000
LOOPBACK = "127.0.0.1"
# Below the port range given to outgoing connections, so a listener never meets a client's port.
FIRST_LISTEN_PORT = 6200
EPHEMERAL_PORTS = "10000 65000"

_CONGESTION_CONTROL = Path("/proc/sys/net/ipv4/tcp_congestion_control")

_libc = ctypes.CDLL(None, use_errno=True)
_listen_ports = itertools.count(FIRST_LISTEN_PORT)


def is_root() -> bool:
    return os.geteuid() == 0


def enter_private_network() -> bool:
    """Move this process (and all it starts) into a fresh network namespace; False where that is not
    allowed."""
    if _libc.unshare(CLONE_NEWNET) != 0:
        return False
    run("ip", "link", "set", "lo", "up")
    set_usual_congestion_control()
    _widen_ports()
    return True


def enter_namespace(name: str | None) -> None:
    """Move the calling process into a named network namespace (os.setns comes only with Python 3.12)."""
    if name is None:
        return
    fd = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        if _libc.setns(fd, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {name}")
    finally:
        os.close(fd)


def free_port() -> int:
    """A port nobody listens on in this namespace; each is handed out once."""
    from harness.process import listening_ports

    taken = listening_ports()
    return next(port for port in _listen_ports if port not in taken)


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _widen_ports() -> None:
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(EPHEMERAL_PORTS)


def set_usual_congestion_control() -> None:
    """Debian's default, cubic, or its elder brother reno where a namespace may not choose cubic.

    Both fill the path's queue and don't pace, which is what nearly every host does; a host set to BBR paces
    even loopback, and its figures jump between two levels.
    """
    for name in ("cubic", "reno"):
        try:
            _CONGESTION_CONTROL.write_text(name)
            return
        except OSError:
            continue


def congestion_control() -> str:
    return _CONGESTION_CONTROL.read_text().strip()


@contextlib.contextmanager
def loopback_mtu(mtu: int) -> Iterator[None]:
    """Loopback of this namespace carries packets up to that size for a while."""
    before = run("ip", "-o", "link", "show", "lo").split(" mtu ")[1].split()[0]
    run("ip", "link", "set", "lo", "mtu", str(mtu))
    try:
        yield
    finally:
        run("ip", "link", "set", "lo", "mtu", before)


@dataclass(frozen=True)
class Shape:
    """A token bucket on both directions of the path; the queue holds `queue_ms` at the full rate."""

    mbit_s: int
    queue_ms: int
    burst_kb: int = 32

    def arguments(self) -> list[str]:
        return ["rate", f"{self.mbit_s}mbit", "burst", f"{self.burst_kb}kb", "latency", f"{self.queue_ms}ms"]


class TwoHosts:
    """Namespaces `a` (application and first proxy) and `b` (last proxy and daemon), a switch between them."""

    subnet = "10.77.0"

    def __init__(self, tag: str, shape: Shape | None = None):
        self.a, self.b, self.switch = (f"bench-{os.getpid()}-{tag}-{end}" for end in ("a", "b", "sw"))
        self.address_a, self.address_b = f"{self.subnet}.2", f"{self.subnet}.1"
        self._shape = shape

    def __enter__(self) -> TwoHosts:
        for name in (self.a, self.b, self.switch):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
            self._tune(name)
        run("ip", "-n", self.switch, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", self.switch, "link", "set", "br0", "up")
        for name, port, address in ((self.a, "port-a", self.address_a), (self.b, "port-b", self.address_b)):
            self._plug_in(name, port, address)
        return self

    def _tune(self, name: str) -> None:
        settings = {"ip_local_port_range": EPHEMERAL_PORTS, "tcp_congestion_control": congestion_control()}
        for key, value in settings.items():
            run("ip", "netns", "exec", name, "sysctl", "-qw", f"net.ipv4.{key}={value}")

    def _plug_in(self, name: str, port: str, address: str) -> None:
        run(
            "ip",
            "-n",
            self.switch,
            "link",
            "add",
            port,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            name,
        )
        run("ip", "-n", self.switch, "link", "set", port, "master", "br0", "up")
        run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0")
        run("ip", "-n", name, "link", "set", "eth0", "up")
        if self._shape:
            run("ip", "netns", "exec", self.switch, "tc", "qdisc", "add", "dev", port, "root", "tbf",
                *self._shape.arguments())  # fmt: skip

    def set_black_hole(self, on: bool) -> None:
        """Drop every packet without telling either host."""
        run("ip", "-n", self.switch, "link", "set", "br0", "down" if on else "up")

    def __exit__(self, *_exc) -> None:
        for name in (self.a, self.b, self.switch):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


class AddressSwitch:
    """Takes host a's address away and gives it another, through one waiting `ip -batch`, so that the moment
    of the change is known to well under a millisecond instead of being blurred by the start of a program."""

    def __init__(self, hosts: TwoHosts):
        self._hosts = hosts
        self._ip = subprocess.Popen(
            ["ip", "-force", "-n", hosts.a, "-batch", "-"], stdin=subprocess.PIPE, text=True, bufsize=1
        )
        self._last_octets = itertools.cycle(range(10, 250))
        self._address = hosts.address_a

    def take_away(self) -> None:
        self._tell(f"address del {self._address}/24 dev eth0")

    def give_next(self) -> None:
        self._address = f"{self._hosts.subnet}.{next(self._last_octets)}"
        self._tell(f"address add {self._address}/24 dev eth0")

    def _tell(self, line: str) -> None:
        self._ip.stdin.write(line + "\n")
        self._ip.stdin.flush()

    def close(self) -> None:
        self._ip.stdin.close()
        self._ip.wait()
