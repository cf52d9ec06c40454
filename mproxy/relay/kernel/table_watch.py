"""Notices when another program changes the relay's table in nftables: a firewall that restarts flushes everything.

The kernel reports each change (linux/netfilter/nfnetlink.h, NFNLGRP_NFTABLES), with the port number of the socket that
made it. What is reported from one port while we change something ourselves is ours.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable, Iterator

from mproxy.ground.errors import MproxyError
from mproxy.io import netlink
from mproxy.relay.kernel.nft import TABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.io._loop import Loop, Timer

_SO_RCVBUFFORCE = 33
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_GROUP_NFTABLES = 7
_SUBSYSTEM_NFTABLES = 10

_GENERIC_BYTES = 4                    # nfgenmsg
_TABLE_NAME = 1                       # first attribute of tables, chains, rules, sets and elements alike

# A table of thousands of rules is reported in one go.
QUEUE_BYTES = 8 << 20

# A firewall's restart makes many changes: wait for the last one.
SETTLE_US = 300_000


class TableWatch:
    """Calls `changed()` soon after another program has touched the table. MproxyError if the kernel does not report."""

    def __init__(self, loop: Loop, changed: Callable[[], object]) -> None:
        self._loop = loop
        self._changed = changed
        self._timer: Timer | None = None
        try:
            self._socket = netlink.open_netlink(netlink.NETFILTER)
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP_NFTABLES)
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, QUEUE_BYTES)
        except OSError as error:
            raise MproxyError(f"cannot watch nftables: {error.strerror}") from None
        self._watch = loop.watch(self._socket.fileno(), self._ready)

    def close(self) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()
        self._watch.close()
        self._socket.close()

    @contextlib.contextmanager
    def own_change(self) -> Iterator[None]:
        """Changes of the table within this context are our own."""
        self._ready()
        yield
        ports, _ = self._read()
        if len(ports) > 1:  # somebody else changed it at the same time
            self._later()

    def _ready(self, _events: int = 0) -> None:
        ports, lost = self._read()
        if ports or lost:
            self._later()

    def _later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(SETTLE_US, self._settled)

    def _settled(self) -> None:
        self._timer = None
        self._changed()

    def _read(self) -> tuple[set[int], bool]:
        """(ports of the sockets that touched the table, whether reports were lost)."""
        ports: set[int] = set()
        lost = False
        while True:
            try:
                data = self._socket.recv(netlink.RECEIVE_BYTES)
            except BlockingIOError:
                return ports, lost
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    return ports, lost
                lost = True  # there was more than the queue holds
                continue
            ports |= touched_by(data)


def touched_by(data: bytes) -> set[int]:
    """Ports of the sockets whose changes of the table a datagram of the kernel reports."""
    return {port for kind, port, body in netlink.messages(data) if kind >> 8 == _SUBSYSTEM_NFTABLES
            and bytes(netlink.attributes(body[_GENERIC_BYTES:]).get(_TABLE_NAME, b"")) == TABLE.encode() + b"\0"}
