"""The sproxy that `sproxy --attach --start` leaves running: one for each user, host and daemon.

Its directory (mproxy.programs.staying) has besides its control socket and its log

    host-key.pem        its key, by which clients tell it from one for another daemon at its port
    authorized_keys     keys that have come through --attach, and may come to its port from then on
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket

from mproxy.ground.config import format_host_port
from mproxy.ground.errors import MproxyError
from mproxy.io.bind import UDP, bind_everywhere
from mproxy.programs import staying

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    Attached = TypeVar("Attached")

# Ports of which the first free one is taken: few enough to be opened in a firewall.
PORTS = range(6200, 6300)

# Without any session, also none that waits for its client, it ends.
EXIT_IDLE = "1d"

LOOPBACK = "127.0.0.1"

# As /proc/net/tcp has them: a state; every address, this one, and every one of IPv6, which takes IPv4 as a rule.
LISTENS = "0A"
REACHED_BY_LOOPBACK = {"00000000", socket.inet_aton(LOOPBACK)[::-1].hex().upper(), "0" * 32}

NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


def own_daemon() -> tuple[str, int]:
    """The sshd that has let us in, or would: at the port that ssh tells, on loopback if it listens there."""
    words = os.environ.get("SSH_CONNECTION", "").split()
    if len(words) != 4 or not words[3].isdigit():
        return LOOPBACK, 22
    address, port = words[2], int(words[3])
    found = listening_at(port)
    return LOOPBACK if not found or not found.isdisjoint(REACHED_BY_LOOPBACK) else address, port


def listening_at(port: int) -> set[str]:
    """Addresses at which something listens on a port, as the kernel writes them; none where it does not say."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError), open(table, encoding="ascii") as file:
            for line in file:
                words = line.split()
                if words[3] == LISTENS and words[1].endswith(f":{port:04X}"):
                    found.add(words[1].partition(":")[0])
    return found


def join_or_start(daemon: tuple[str, int], attach: Callable[[str], Attached]) -> Attached:
    """What `attach(control socket)` returns for the sproxy that serves the daemon, started now if none does; `attach`
    raises MproxyError where there is none any more. MproxyError if it cannot be started."""
    name = format_host_port(*daemon)
    place = staying.open_place("started", name.replace(":", ","))  # $RUNTIME_DIRECTORY may have no colon
    with staying.locked(place):
        for path in staying.sockets(place):
            with contextlib.suppress(MproxyError):
                return attach(path)
        # sshd has limits for one address; others, such as PostgreSQL as Debian sets it up, know 127.0.0.1 alone.
        sources = ["--source-per-key"] if daemon == own_daemon() else []
        words = ["--name", f"started:{name}", "--log-file", os.path.join(place, "log"), "--state-dir", place,
                 "--closed", "--trust-attached", "--exit-idle", EXIT_IDLE, *sources, str(free_port()), name]
        return staying.start(place, "sproxy", words, attach)


def free_port() -> int:
    """The first free one of PORTS; 0, which is any, if none is."""
    for port in PORTS:
        try:
            for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
                with socket.socket(family) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    if family == socket.AF_INET6:
                        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    probe.bind((address, port))
                    probe.listen(1)
        except OSError as error:
            if family == socket.AF_INET6 and error.errno in NO_IPV6:
                return port
        else:
            return port
    return 0


def free_udp_port() -> int:
    """The same for UDP."""
    for port in PORTS:
        try:
            bind_everywhere(UDP, port).close()
        except OSError:
            continue
        return port
    return 0
