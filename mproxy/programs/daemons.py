"""Which daemon a stream of sproxy is connected to, and whether its client may use it."""

from __future__ import annotations

import hashlib
import socket

from mproxy._wire import ResetCode
from mproxy.ground.config import format_host_port
from mproxy.ground.forwarding import is_path, say_target
from mproxy.io._socket import Target
from mproxy.policy.resolver import Resolver, numeric_address
from mproxy.policy.targets import elsewhere, without_guarded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mproxy.ground.config import SproxyConfig
    from mproxy.ground.shapes import Address, Spot
    from mproxy.io._loop import Loop
    from mproxy.programs.access import Access
    from mproxy.programs.clients import Client, Clients
    from mproxy.service.log import Log


class Daemons:
    """The default daemon, and others that streams name."""

    def __init__(self, config: SproxyConfig, log: Log, loop: Loop, access: Access, clients: Clients) -> None:
        self._config = config
        self._log = log
        self._access = access
        self._clients = clients
        self._resolver = Resolver(loop.call_soon_threadsafe)
        self._default: Target | None = None   # if it was given as a number
        self._default_addresses: list[Address] = []

    def open(self) -> None:
        """Find out what needs no look-up."""
        host, port = self._config.daemon_host, self._config.daemon_port
        numeric = numeric_address(host, port)
        if numeric is not None and numeric[0]:
            self._default_addresses = numeric[0]
            self._default = Target(format_host_port(host, port), numeric[0])

    def default_for(self, spki: bytes) -> Target | None:
        """The default daemon as reached for a key; None if its name has to be looked up, or it is told something else
        for each stream."""
        if self._default is None or self._config.send_proxy is not None:
            return None
        if not self._config.source_per_key:
            return self._default
        return self._target(self._default.text, self._default_addresses, spki)

    def default_of_session(self, spki: bytes) -> Target | None:
        """The same, but None also if each stream has to be judged."""
        return None if self._access.guarded else self.default_for(spki)

    def connect(self, client: Client, stream: int, target: bytes) -> None:
        """Connect or refuse a stream that names its daemon, or whose client has a Grant, or the default daemon has a
        name. PeerError, with nothing done, if the client's key counts no more."""
        client.grant = self._access.grant_living(client.spki, client.host, client.certificate)
        found = self._access.target(target, client.grant)
        most = client.grant.max_streams if client.grant is not None else None
        if found is None:
            self._log.warning("refused", session=client.name, stream=stream, why=self._access.why_not(client.grant),
                              target=target.decode(errors="replace") or "the default daemon")
            client.endpoint.refuse(stream, ResetCode.NOT_ALLOWED)
        elif most is not None and self._clients.streams_of(client.holder) > most:
            client.endpoint.refuse(stream, ResetCode.STREAM_LIMIT)
        elif not target and (default := self.default_for(client.spki)) is not None:
            client.endpoint.connect(stream, default)
        elif is_path(found[0]):
            self._connect(client, stream, found, [(socket.AF_UNIX, found)])
        else:
            host, port = found
            self._resolver.resolve(host, port, lambda addresses, error: self._resolved(
                client, stream, (host, port), addresses, error))

    def _resolved(self, client: Client, stream: int, target: tuple[str, int], addresses: list[Address],
                  error: str | None) -> None:
        if self._clients.find(client.session_id) is not client:
            return
        text = say_target(*target)
        usable, error = self.usable(target, addresses, error)
        if error is not None:
            self._log.warning("daemon-unreachable", session=client.name, stream=stream, daemon=text, why=error)
            client.endpoint.refuse(stream, ResetCode.UNREACHABLE)
        else:
            self._connect(client, stream, target, usable)

    def usable(self, target: Spot, addresses: list[Address], error: str | None) -> tuple[list[Address], str | None]:
        """Those of the addresses that a target was found to have which clients may reach; if there are none, why."""
        found = without_guarded(addresses or [], target[0])
        if error is None and not found:
            error = "the name resolves to a link-local or metadata address, which can be used only as a numeric address"
        elif error is None and not self._access.is_named(target) and not (found := elsewhere(found)):
            error = "this host's own addresses, and link-local ones, must be named by --allow: a * does not mean them"
        return found, error

    def resolve(self, target: Spot, answer: Callable[[list[Address], str | None], object]) -> None:
        """Find out the addresses that clients may reach: `answer(addresses, why there are none)`, now or later."""
        self._resolver.resolve(*target, lambda addresses, error: answer(*self.usable(target, addresses, error)))

    def _connect(self, client: Client, stream: int, target: tuple[str, int], addresses: list[Address]) -> None:
        found = self._target(say_target(*target), addresses, client.spki, self._first_words(client))
        client.endpoint.connect(stream, found)

    def _target(self, text: str, addresses: list[Address], spki: bytes, first: bytes = b"") -> Target:
        """A daemon, as reached for a key."""
        source = loopback_of(spki) if self._config.source_per_key else bytes(4)
        return Target(text, addresses, source, first)

    def _first_words(self, client: Client) -> bytes:
        """What a daemon is told about the client: where it is, as far as that is known, and where its carrier has come
        to."""
        if self._config.send_proxy is None:
            return b""
        from mproxy.relay._proxy_header import make_header
        carrier = client.endpoint.carrier
        facts = carrier.describe() if carrier is not None else {}
        own, peer = facts.get("local", ("?", 0)), facts.get("peer", ("?", 0))
        if "?" in (own[0], peer[0]):
            return make_header(self._config.send_proxy, None)  # a carrier without addresses, or one that has just ended
        if self._config.accept_proxy and client.host != peer[0]:
            peer = client.host, int(client.peer.rpartition(":")[2])  # a balancer has brought it
        return make_header(self._config.send_proxy, (peer, own))


def loopback_of(spki: bytes) -> bytes:
    """An address in 127.0.0.0/8 for a key, 4 bytes: always the same, and not one in common use (127.0.x.y)."""
    first, second, third = hashlib.sha256(b"mproxy loopback\0" + spki).digest()[:3]
    return bytes((127, 1 + first % 254, second, 1 + third % 254))
