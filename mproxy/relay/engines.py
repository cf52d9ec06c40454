"""The TCP and the UDP engine as one: each rule goes to the engine of its protocol, under the supervisor's key."""

from __future__ import annotations

import resource
from collections.abc import Iterable, KeysView, Sequence
from typing import Any

from mproxy.relay.tcp._tcp_relay import TcpRelay
from mproxy.relay.udp._udp_relay import UdpRelay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.io._loop import Loop
    from mproxy.io._socket import Target
    from mproxy.relay._tally import Tally
    from mproxy.relay.inheritance import Inheritance
    from mproxy.relay.relay_observer import RelayObserver
    from mproxy.relay.rules import Rule

# One part in this many of the descriptors is kept for UDP flows, once there is a UDP rule. They in turn leave as much
# to TCP: see UdpRelay.
UDP_SHARE = 8


class Engines:
    """Both engines on one loop. `max_connections` and `tally`: see TcpRelay; `max_flows`: see UdpRelay."""

    def __init__(self, loop: Loop, observer: RelayObserver, max_connections: int, max_flows: int,
                 tally: Tally) -> None:
        self._loop = loop
        self._engines: dict[str, Any] = {"tcp": TcpRelay(loop, observer, max_connections, tally),
                         "udp": UdpRelay(loop, observer, max_flows, tally)}
        self._of_key: dict[int, Any] = {}

    def keep_accounts(self) -> None:
        """From now on tell the observer of what has ended."""
        for engine in self._engines.values():
            engine.keep_accounts()

    @property
    def keys(self) -> KeysView[int]:
        """Those of the rules that listen."""
        return self._of_key.keys()

    def add(self, key: int, rule: Rule, fds: Iterable[int]) -> None:
        """Listen on duplicates of the sockets; OSError."""
        engine = self._engines[rule.protocol]
        engine.add(key, rule, fds)
        self._of_key[key] = engine
        if rule.protocol == "udp":
            self._engines["tcp"].keep(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // UDP_SHARE)

    def update(self, key: int, rule: Rule) -> None:
        """Other options for future connections."""
        if key in self._of_key:
            self._of_key[key].update(key, rule)

    def set_targets(self, key: int, targets: Iterable[Target], weights: Sequence[int] | None = None,
                    failing: Sequence[Sequence[int]] | None = None) -> None:
        """Other addresses for future connections, or the same with other weights and checks (Balance)."""
        if key in self._of_key:
            self._of_key[key].set_targets(key, targets, weights, failing)

    def take_flows(self, inheritance: Inheritance, key: int) -> None:
        """Go on with the UDP flows of a rule that another worker has left, before anything is read for it."""
        engine = self._of_key.get(key)
        if isinstance(engine, UdpRelay):
            inheritance.take_flows(engine, key)

    def take_over(self, inheritance: Inheritance) -> tuple[int, int, int]:
        """Go on with what another worker has left: TCP connections and UDP flows that do, and how many connections were
        lost."""
        for key in self._of_key:
            self.take_flows(inheritance, key)
        going_on, lost = inheritance.take_over(self._engines["tcp"])
        return going_on, inheritance.flows_going_on, lost

    def shrink(self, key: int) -> None:
        """See UdpRelay."""
        engine = self._of_key.get(key)
        if isinstance(engine, UdpRelay):
            engine.shrink(key)

    def remove(self, key: int) -> None:
        """Stop listening; existing connections continue."""
        if key in self._of_key:
            self._of_key.pop(key).remove(key)

    def stats(self, key: int) -> dict[str, int]:
        """{name: value} of a rule; {} if it failed to listen."""
        return self._of_key[key].stats(key) if key in self._of_key else {}

    def down(self, key: int) -> list[tuple[str, int]]:
        """[(HOST:PORT, errno), ...]: addresses of a rule that are left out because they do not answer."""
        return self._of_key[key].down(key) if key in self._of_key else []

    def counts(self) -> tuple[int, int]:
        """(TCP connections, UDP flows) now, including those of removed rules."""
        udp = self._engines.get("udp")
        return self._engines["tcp"].count, udp.count if udp else 0

    def end_flows(self) -> None:
        """End all UDP flows, for good: their ports are free."""
        if "udp" in self._engines:
            self._engines.pop("udp").close()

    def close(self) -> None:
        """Reset everything."""
        for engine in self._engines.values():
            engine.close()
