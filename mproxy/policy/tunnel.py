"""What is said to a proxy in between before there is a connection to sproxy: HTTP CONNECT, SOCKS 5.

Pure. `outgoing` is to be sent, whoever sends it empties it; `feed` takes what the proxy answers, in any pieces, and
gives the bytes that follow once the tunnel is open. What a proxy may say is bounded, and a refusal is one line.
"""

from __future__ import annotations

import socket

from mproxy._wire import CloseCode
from mproxy.ground.config import format_host_port
from mproxy.ground.errors import PeerError
from mproxy.ground.words import escaped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.ground.shapes import ProxyWords

# More is not the head of an answer (RFC 9110 leaves the bound to whoever reads).
MOST_HEAD_BYTES = 16384

# RFC 1928, section 6.
SOCKS_REASONS = ("succeeded", "general failure", "the connection is not allowed", "the network is unreachable",
                 "the host is unreachable", "the connection was refused", "the TTL expired",
                 "CONNECT is not supported", "the kind of address is not supported")
NO_PASSWORD, BY_PASSWORD, NO_METHOD = 0, 2, 0xFF


class ProxyTunnel:
    """Base: one conversation with a proxy."""

    name = "the proxy"  # in messages

    def __init__(self) -> None:
        self.outgoing = b""

    def feed(self, data: bytes) -> bytes | None:
        """Take bytes of the proxy; returns what sproxy has sent once the tunnel is open, None before. PeerError if the
        proxy refuses, or is none."""
        raise NotImplementedError

    def fail(self, why: str) -> PeerError:
        """The refusal to be raised."""
        return PeerError(CloseCode.STATE_ERROR, f"{self.name} {why}")


def open_tunnel(proxy: ProxyWords, host: str, port: int) -> ProxyTunnel:
    """The conversation that asks `proxy` for a connection to HOST:PORT."""
    scheme, _host, _port, user, password = proxy
    kind = HttpTunnel if scheme == "http" else SocksTunnel
    return kind(host, port, user, password)


class HttpTunnel(ProxyTunnel):
    """CONNECT (RFC 9110, section 9.3.6), with Basic authentication (RFC 7617)."""

    name = "the HTTP proxy"

    def __init__(self, host: str, port: int, user: str | None, password: str) -> None:
        super().__init__()
        place = format_host_port(host, port)
        lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
        if user is not None:
            from base64 import b64encode
            lines.append(f"Proxy-Authorization: Basic {b64encode(f'{user}:{password}'.encode()).decode()}")
        self._knows = user is not None
        self._head = b""
        self.outgoing = "\r\n".join([*lines, "", ""]).encode()

    def feed(self, data: bytes) -> bytes | None:
        self._head += data
        if not b"HTTP/1.".startswith(self._head[:7]):
            raise self.fail("does not speak HTTP")
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if end and len(head) <= MOST_HEAD_BYTES:
            self._judge(head.split(b"\r\n")[0])
            return rest
        if len(self._head) > MOST_HEAD_BYTES:
            raise self.fail(f"gives an answer of more than {MOST_HEAD_BYTES >> 10} KiB")
        return None

    def _judge(self, line: bytes) -> None:
        """Raise PeerError unless the first line of the answer is a good one."""
        words = line.split(None, 2)
        code = words[1] if len(words) > 1 else b""
        if len(code) != 3 or not code.isdigit():
            raise self.fail("does not speak HTTP")
        if code == b"407":
            raise self.fail("does not accept this user and password (407)" if self._knows else
                            "wants a user and a password (407): --proxy http://USER:PASSWORD@HOST:PORT")
        if code[:1] != b"2":
            reason = escaped(b" ".join(words[1:]).decode(errors="replace"))[:100]
            raise self.fail(f"refuses the connection: {reason}")


class SocksTunnel(ProxyTunnel):
    """SOCKS 5 (RFC 1928), with user and password (RFC 1929). The proxy looks names up."""

    name = "the SOCKS proxy"

    def __init__(self, host: str, port: int, user: str | None, password: str) -> None:
        super().__init__()
        self._request = b"\x05\x01\x00" + _address(host) + port.to_bytes(2)
        self._login: bytes | None = None
        if user is not None:
            self._login = b"\x01" + _counted(user) + _counted(password)
        self._asks_login = False
        self._got = b""
        self._step = self._take_method
        self.outgoing = b"\x05\x01\x00" if self._login is None else b"\x05\x02\x00\x02"

    def feed(self, data: bytes) -> bytes | None:
        self._got += data
        while True:
            length = self._step()
            if length == 0:
                return None
            taken, self._got = self._step, self._got[length:]
            if taken == self._take_reply:
                return self._got
            self._step = self._take_login if taken == self._take_method and self._asks_login else self._take_reply
            self.outgoing += self._login or b"" if self._step == self._take_login else self._request

    def _take_method(self) -> int:
        """Bytes of the answer to the greeting; 0: not complete. So are the others."""
        if self._got[:1] not in (b"", b"\x05"):
            raise self.fail("does not speak SOCKS 5")
        if len(self._got) < 2:
            return 0
        method = self._got[1]
        if method == NO_METHOD or method not in (NO_PASSWORD, BY_PASSWORD) or (
                method == BY_PASSWORD and self._login is None):
            raise self.fail("wants a user and a password: --proxy socks5h://USER:PASSWORD@HOST:PORT"
                            if self._login is None else "takes no user and password")
        self._asks_login = method == BY_PASSWORD
        return 2

    def _take_login(self) -> int:
        if len(self._got) < 2:
            return 0
        if self._got[1]:
            raise self.fail("does not accept this user and password")
        return 2

    def _take_reply(self) -> int:
        got = self._got
        if got[:1] not in (b"", b"\x05"):
            raise self.fail("does not speak SOCKS 5")
        if len(got) >= 2 and got[1]:
            reason = SOCKS_REASONS[got[1]] if got[1] < len(SOCKS_REASONS) else f"code {got[1]}"
            raise self.fail(f"refuses the connection: {reason}")
        if len(got) < 5:
            return 0
        lengths = {1: 4, 3: 1 + got[4], 4: 16}
        if got[3] not in lengths:
            raise self.fail("does not speak SOCKS 5")
        length = 4 + lengths[got[3]] + 2
        return length if len(got) >= length else 0


def _address(host: str) -> bytes:
    """A numeric address or a name, as SOCKS has it."""
    for kind, family in ((b"\x01", socket.AF_INET), (b"\x04", socket.AF_INET6)):
        try:
            return kind + socket.inet_pton(family, host)
        except OSError:
            pass  # not of this family
    return b"\x03" + _counted(host)


def _counted(text: str) -> bytes:
    data = text.encode()[:255]
    return bytes([len(data)]) + data
