"""Balancers in front of sproxy: from where their connections really come, and what their choice of an sproxy means.

A balancer of `--accept-proxy` begins each connection with a header of the PROXY protocol, which names the client. With
`--routed` it also goes by the node in the routing tag: so a client that it has brought to us although its tag names
another node comes from one that is gone (docs/decisions/a-node-that-is-gone.md).
"""

from __future__ import annotations

import ipaddress

from mproxy._wire import CloseCode
from mproxy.ground.errors import PeerError
from mproxy.relay._proxy_header import read_header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from ipaddress import IPv4Network, IPv6Network

    from mproxy.ground.shapes import Sockaddr


class Balancers:
    """Those in `networks`; `routed`: they go by the routing tag."""

    def __init__(self, networks: Sequence[IPv4Network | IPv6Network], routed: bool) -> None:
        self._networks = networks
        self.routed = routed

    def have(self, host: str) -> bool:
        """Whether that address, numeric, is one of theirs."""
        address = ipaddress.ip_address(host.partition("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in self._networks)


class BalancerHeader:
    """What a balancer says first on one connection."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> tuple[Sockaddr | None, bytes] | None:
        """Take bytes; (the client's address, what came behind the header) once it is complete. The address is None
        where the balancer speaks for itself. PeerError: that is no such header."""
        self._data += data
        length, client = read_header(self._data)
        if length < 0:
            raise PeerError(CloseCode.VERSION_ERROR, (
                "no PROXY header, though --accept-proxy expects one from this address (haproxy: send-proxy-v2)"))
        return (client, self._data[length:]) if length else None
