"""Two ways to take the network from the demo's client.

`Cable`: two hosts, each a network namespace (network_namespaces(7)) without a name, so any number of demos can run at
once, and the kernel takes them away when the last process in them has ended, however that came about.

`Cut`: where namespaces are not allowed, a forwarder between cproxy and sproxy, on this host, that cuts connections.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mproxy.ground.errors import MproxyError
from mproxy.io.socket_close import reset_on_close

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.programs.demo_peers import Reactor

# linux/sched.h
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)

_READ_BYTES = 1 << 16


class Network:
    """What is between client and server, and can be taken away."""

    title: str           # its description
    server_address: str  # where sproxy listens

    def enter(self, host: str) -> None:
        """From here on make sockets and processes on `host`, client or server."""
        raise NotImplementedError

    def way_to(self, port: int) -> tuple[str, int]:
        """Host and port that the client has to dial to reach `port` of the server."""
        raise NotImplementedError

    def take(self) -> str:
        """The client loses its address; what happened, in words."""
        raise NotImplementedError

    def give(self) -> str:
        """The client gets an address that it did not have before; what happened, in words."""
        raise NotImplementedError


class Cable(Network):
    """A client and a server joined by a pair of virtual interfaces. Raises MproxyError where that is not allowed.

    The client's address belongs to one of two networks (RFC 5737), in turns, like that of somebody who walks from one
    wireless network to the next. The server's own address is in neither: it can be reached from both.
    """

    SERVER = "203.0.113.1"
    NETWORKS = ("192.0.2", "198.51.100")  # of 24 bits; number 1 is the gateway, at the server's end

    title = f"two hosts and a virtual cable between them; the server is {SERVER}"
    server_address = SERVER

    def __init__(self) -> None:
        self._numbers = itertools.count(11)
        self._address = ""
        _unshare_network()
        self._server = _current_network()
        _unshare_network()
        self._client = _current_network()
        self.enter("server")
        self._ip("link set lo up", f"addr add {self.SERVER}/32 dev lo",
                 f"link add cable type veth peer name cable netns /proc/self/fd/{self._client}", "link set cable up",
                 *(f"addr add {network}.1/24 dev cable" for network in self.NETWORKS))
        self.enter("client")
        self._ip("link set lo up", "link set cable up")
        self.give()

    def enter(self, host: str) -> None:
        _call(_libc.setns, self._client if host == "client" else self._server, _CLONE_NEWNET)

    def way_to(self, port: int) -> tuple[str, int]:
        return self.SERVER, port

    def take(self) -> str:
        """Take away the address, and with it every route."""
        self.enter("client")
        self._ip("addr flush dev cable scope global")
        return f"{self._address} is gone, the client has no address"

    def give(self) -> str:
        self.enter("client")
        number = next(self._numbers)
        network = self.NETWORKS[(number - 11) % len(self.NETWORKS)]
        self._address = f"{network}.{number}"
        self._ip(f"addr add {self._address}/24 dev cable", f"route add default via {network}.1 dev cable")
        return f"the client is {self._address}"

    def _ip(self, *lines: str) -> None:
        """Run lines of `ip -batch` in one process: address and route appear at the same moment."""
        done = subprocess.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n", text=True, capture_output=True,
                              pass_fds=[self._client])
        if done.returncode:
            raise MproxyError(f"ip: {done.stderr.strip().partition(chr(10))[0] or 'failed'}")


def why_no_cable() -> str | None:
    """Why this process cannot have a `Cable`; None if it can.

    Tried in a child process: one that failed half-way would have left its old network and have no other.
    """
    if shutil.which("ip") is None:
        return "the command `ip` was not found on the PATH (package iproute2)"
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            Cable()
        except Exception as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        reason = pipe.read()
    os.waitpid(child, 0)
    return reason or None


def _unshare_network() -> None:
    """Move into a new network namespace; without the right to, into a new user namespace as its root as well."""
    try:
        _call(_libc.unshare, _CLONE_NEWNET)
        return
    except OSError:
        uid, gid = os.geteuid(), os.getegid()
    try:
        _call(_libc.unshare, _CLONE_NEWUSER | _CLONE_NEWNET)
        # user_namespaces(7): one's own ids alone, and no change of groups.
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    except OSError as error:
        reason = "their number is limited" if error.errno == errno.ENOSPC else error.strerror
        raise MproxyError(f"the system allows no network namespaces ({reason})") from None


def _current_network() -> int:
    """A descriptor that keeps the namespace of this thread."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _call(function: Callable[..., int], *arguments: object) -> None:
    """Call a C function that returns 0, or -1 with errno."""
    if function(*arguments):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Cut(Network):
    """A forwarder between cproxy and sproxy. Its address towards sproxy is what the client's would be."""

    title = "one host; a forwarder stands for the network between cproxy and sproxy"
    server_address = "127.0.0.1"

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._addresses = (f"127.0.0.{number}" for number in itertools.cycle(range(11, 250)))
        self._address = next(self._addresses)
        self._away = False
        self._server = (self.server_address, 0)  # the port comes with `way_to`
        self._sockets: set[socket.socket] = set()  # both ends of every connection
        self._listener = socket.create_server(("127.0.0.1", 0))
        reactor.add(self._listener, self._accept)

    def enter(self, host: str) -> None:
        """There is only one host."""

    def way_to(self, port: int) -> tuple[str, int]:
        """Where the forwarder listens, which is for `port` of the server."""
        self._server = (self.server_address, port)
        host, port = self._listener.getsockname()
        return host, port

    def take(self) -> str:
        """Cut every connection; new ones are refused."""
        self._away = True
        while self._sockets:
            self._reset(self._sockets.pop())
        return f"every connection from {self._address} is cut, and so is every new one"

    def give(self) -> str:
        self._away = False
        self._address = next(self._addresses)
        return f"connections pass again, from {self._address}; cproxy tries within 5 s"

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        if self._away:
            self._reset(near)
            return
        try:
            far = socket.create_connection(self._server, source_address=(self._address, 0))
        except OSError:
            self._reset(near)
            return
        self._sockets |= {near, far}
        for source, target in ((near, far), (far, near)):
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._reactor.add(source, partial(self._forward, source, target))

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        try:
            data = source.recv(_READ_BYTES)
            target.sendall(data)
        except OSError:
            data = b""
        if not data:
            for end in (source, target):
                self._sockets.discard(end)
                self._reactor.remove(end)

    def _reset(self, end: socket.socket) -> None:
        reset_on_close(end)
        self._reactor.remove(end)
