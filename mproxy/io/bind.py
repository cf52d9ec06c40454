"""Bound sockets, for every program that listens, and what is said where one cannot be had."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat

from mproxy.ground.config import format_host_port
from mproxy.ground.errors import MproxyError
from mproxy.ground.words import printable
from mproxy.io import heirlooms

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mproxy.ground.shapes import ListenAddress

TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM

# The kernel's limit is net.core.somaxconn; asking for more costs nothing.
BACKLOG = 65535

# The host lacks the address, or the whole family.
NO_SUCH_ADDRESS = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}

# linux/in.h, linux/udp.h: not in Python's socket module.
_IP_PKTINFO = 8
_IP_FREEBIND = 15
_UDP_GRO = 104


def bind_socket(kind: int, host: str, port: int, *, both: bool = False, shared: bool = False,
                anywhere: bool = False) -> socket.socket:
    """A non-blocking socket of that kind, TCP or UDP, bound to a numeric address; OSError.

    `both`: an IPv6 socket takes IPv4, too. `shared`: other sockets of this user may have the port as well.
    `anywhere`: this host need not have the address yet.
    """
    address, _, scope = host.partition("%")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if kind == TCP:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if anywhere:
            sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)  # of IPv6 sockets, too (ip(7))
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both)
            sock.bind((address, port, 0, socket.if_nametoindex(scope) if scope else 0))
        else:
            sock.bind((address, port))
    except OSError:
        sock.close()
        raise
    return sock


def bind_everywhere(kind: int, port: int, *, shared: bool = False) -> socket.socket:
    """The same for every address: IPv6 and IPv4 together where the host has both."""
    try:
        return bind_socket(kind, "::", port, both=True, shared=shared)
    except OSError as error:
        if error.errno not in NO_SUCH_ADDRESS:
            raise
    return bind_socket(kind, "0.0.0.0", port, shared=shared)


def listen_on(hosts: Sequence[str], port: int, *, named: bool, both: bool = False,
              prepare: Callable[[socket.socket], object] | None = None, remedy: str = "",
              outlive: bool = False) -> list[socket.socket]:
    """Listening TCP sockets, one a host, all on one port; MproxyError.

    `named`: a user named the hosts, so each must be had; else those that this host lacks are left out, as long as there
    is another. `both`: [::] takes IPv4, too. `prepare(sock)` sets what connections inherit. `remedy`: what the error
    says besides. `outlive`: the next build of the program is to have them, too, and this one those of the one before.
    """
    listeners: list[socket.socket] = []
    asked_port = port
    for host in hosts:
        name = f"port {host} {asked_port}"
        given = heirlooms.take(name) if outlive else None
        try:
            listener = (socket.socket(fileno=given) if given is not None
                        else _bind_anew(host, port, both and host == "::", outlive))
            listeners.append(listener)
            if prepare is not None:
                prepare(listener)
            listener.listen(BACKLOG)
        except OSError as error:
            if not named and error.errno in NO_SUCH_ADDRESS and (listeners or host != hosts[-1]):
                continue
            for listener in listeners:
                listener.close()
            raise cannot_listen(printable(format_host_port(host, port)), error, port, remedy) from None
        port = listener.getsockname()[1]
        if outlive:
            heirlooms.note(name, listener.fileno())
    return listeners


def _bind_anew(host: str, port: int, both: bool, outlive: bool) -> socket.socket:
    try:
        return bind_socket(TCP, host, port, both=both)
    except OSError as error:
        # What the program before had at another address may be in the way.
        if not outlive or error.errno != errno.EADDRINUSE or not heirlooms.close_port(port):
            raise
    return bind_socket(TCP, host, port, both=both)


class UnixListener:
    """A listening unix socket at `path`, for this user alone; MproxyError. It replaces one that a dead program left."""

    def __init__(self, path: str) -> None:
        self.path = path
        given = heirlooms.take(f"path {path}")
        if given is not None and not os.path.lexists(path):
            os.close(given)  # its directory went with the former run
        elif given is not None:
            self.sock = socket.socket(fileno=given)
            self._file = _identity(path)
            heirlooms.note(f"path {path}", given)
            return
        self.sock = socket.socket(socket.AF_UNIX, TCP | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            if _is_left_over(path):
                os.unlink(path)
            mask = os.umask(0o177)
            try:
                self.sock.bind(path)
            finally:
                os.umask(mask)
            self._file = _identity(path)
            self.sock.listen(BACKLOG)
            heirlooms.note(f"path {path}", self.sock.fileno())
        except OSError as error:
            self.sock.close()
            raise MproxyError(f"cannot listen on {printable(path)}: {_explain_path(error)}") from None

    def close(self) -> None:
        """Stop listening, and remove the file, unless it is another program's by now."""
        self.sock.close()
        with contextlib.suppress(OSError):
            if _identity(self.path) == self._file:
                os.unlink(self.path)


def _identity(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def _is_left_over(path: str) -> bool:
    """Whether it is a socket at which nobody listens."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
        with socket.socket(socket.AF_UNIX, TCP | socket.SOCK_NONBLOCK) as probe:
            probe.connect(path)
    except ConnectionRefusedError:
        return True
    except OSError:
        pass  # binding will tell, or it is busy
    return False


def _explain_path(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "there is such a file, or another program listens there; remove it or choose another path"
    if error.errno == errno.ENOENT:
        return "there is no such directory; make it first"
    return os.strerror(error.errno) if error.errno else str(error)


def open_udp(host: str | None, port: int) -> socket.socket:
    """A UDP socket for batches of packets (_packets.pxd) on a numeric address, None: on every one; MproxyError."""
    try:
        sock = bind_socket(UDP, host, port) if host else bind_everywhere(UDP, port)
    except OSError as error:
        raise cannot_listen(printable(format_host_port(host or "::", port)), error, port) from None
    report_packets(sock)
    return sock


def report_packets(sock: socket.socket) -> None:
    """Have the kernel say to which of our addresses packets came, and give trains of them."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    with contextlib.suppress(OSError):  # an old kernel goes on without
        sock.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)


def open_udp_sockets(hosts: Sequence[str], port: int, *, named: bool) -> list[socket.socket]:
    """The same, one a host, all on one port; MproxyError. `named` as in `listen_on`. The next build of the program is
    to have them, too, and this one those of the one before."""
    sockets: list[socket.socket] = []
    asked_port = port
    for host in hosts:
        name = f"udp {host} {asked_port}"
        given = heirlooms.take(name)
        try:
            sock = socket.socket(fileno=given) if given is not None else open_udp(host, port)
        except MproxyError as error:
            lacks = isinstance(error.__context__, OSError) and error.__context__.errno in NO_SUCH_ADDRESS
            if not named and lacks and (sockets or host != hosts[-1]):
                continue
            for each in sockets:
                each.close()
            raise
        sockets.append(sock)
        port = sock.getsockname()[1]
        heirlooms.note(name, sock.fileno())
    return sockets


def cannot_listen(where: str, error: OSError, port: int, remedy: str = "") -> MproxyError:
    """What a user is told."""
    return MproxyError(f"cannot listen on {where}: {_explain(error, port)}{remedy}")


def _explain(error: OSError, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the port is in use; stop the other program or choose another port"
    if error.errno == errno.EACCES:
        return f"ports below 1024 need root or CAP_NET_BIND_SERVICE; choose a port above 1023 instead of {port}"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this host has no such address; see 'ip address'"
    if error.errno == errno.EAFNOSUPPORT:
        return "this host has no IPv6; leave the address out, or use an IPv4 one"
    return os.strerror(error.errno) if error.errno else str(error)


def bound_as(sock: socket.socket) -> ListenAddress | None:
    """(protocol, host, port) of a bound socket; None if it is neither TCP nor UDP over IP."""
    try:
        protocol = {TCP: "tcp", UDP: "udp"}[sock.type]
        address = sock.getsockname()
        if sock.family == socket.AF_INET:
            return protocol, address[0], address[1]
        if sock.family == socket.AF_INET6:
            scope = f"%{socket.if_indextoname(address[3])}" if address[3] else ""
            return protocol, address[0].partition("%")[0] + scope, address[1]
    except (KeyError, OSError):
        pass
    return None
