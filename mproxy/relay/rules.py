"""What a relay is told to do: one Rule for each port and protocol. How they are written: rule_file.py; no I/O here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network

from mproxy.ground.config import MINUTE_US, SECOND_US, format_host_port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.ground.shapes import ListenAddress

ROUND_ROBIN, LEAST_CONNECTIONS = "roundrobin", "leastconn"

# Flows of a UDP rule without `max=`: the table is bounded, whatever strangers send.
UDP_FLOWS = 10_000


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """How the addresses of a rule's targets are asked whether they are well: health.py."""

    # From one check to the next, and the longest that one may take: then it has failed.
    interval_us: int

    # What is sent once the connection stands (UDP: the datagram), and what the answer has to contain; empty: nothing.
    # With neither, a TCP connection that is accepted will do.
    send: bytes = b""
    expect: bytes = b""

    # Another port to ask than that of the target; 0: the same.
    port: int = 0

    # Checks in a row that must succeed before an address is used again, and fail before it is not. One failure in three
    # may be chance; two successes are a server that has really come up.
    rise: int = 2
    fall: int = 3


@dataclass(frozen=True, slots=True)
class RuleOptions:
    """The options of a rule. Rules with the same words share one object."""

    # Networks that clients may come from (empty: all), and those that they may not, which take precedence.
    allow: tuple[IPv4Network | IPv6Network, ...] = ()
    deny: tuple[IPv4Network | IPv6Network, ...] = ()

    # Connections, or UDP flows, at once; 0: as many as the process can hold. One connection more is reset; one UDP
    # flow more takes the place of the one that has been silent longest.
    max_connections: int = 0

    # From accepting to an established connection, all addresses and targets together. 10 s outlast two lost SYNs.
    connect_timeout_us: int = 10 * SECOND_US

    # Without a byte in either direction; 0: never. TCP has keepalive against peers that vanished; UDP has no end
    # but this one.
    idle_timeout_us: int = 0

    # Version of the PROXY protocol header that targets get, 0: none.
    proxy: int = 0

    # Clients begin with a PROXY protocol header of either version, and it tells who they are.
    accept_proxy: bool = False

    # How a connection finds its target: ROUND_ROBIN or LEAST_CONNECTIONS.
    balance: str = ROUND_ROBIN

    # Addresses of this host that connections to targets leave from, at most one IPv4 and one IPv6; empty: the system's
    # choice.
    source: tuple[str, ...] = ()

    # UDP flows of one source address at once, 0: as `max_connections` allows.
    per_source: int = 0

    # The part of the callers that each target gets; empty: all addresses the same.
    weights: tuple[int, ...] = ()

    # None: only callers find out that an address does not answer.
    check: HealthCheck | None = None

    # How often each source may begin a connection or flow: (so many, in so many microseconds); empty: no limit. And how
    # many at once; 0: those of one such time.
    new_per_source: tuple[int, ...] = ()
    new_burst: int = 0

    # TCP: seconds of silence before a peer is probed, from one probe to the next, and probes in vain until it counts as
    # gone (tcp(7)); empty: 60, 20 and 3; 0 seconds: it is not probed.
    keepalive: tuple[int, ...] = ()

    # What people call the rule, to remove it or to find it in the log; "": nothing.
    name: str = ""

    # The options as they were given: these are wanted, the others are only defaults.
    given: tuple[str, ...] = ()

    @property
    def new_interval_ns(self) -> int:
        """From one new connection of a source to the next, nanoseconds; 0: no limit."""
        count, time_us = self.new_per_source or (1, 0)
        return time_us * 1000 // count

    @property
    def most_new(self) -> int:
        """New connections of a source at once."""
        return self.new_burst or (self.new_per_source or (0,))[0]

    def share(self, worker: int, workers: int) -> RuleOptions:
        """The same with the part of `per_source` that worker number `worker` keeps to. The parts add up to the whole,
        unless there are more workers than that: then each has 1."""
        return self if workers == 1 else replace(self, per_source=share(self.per_source, worker, workers))


def share(limit: int, worker: int, workers: int) -> int:
    """The part of one limit that worker number `worker` keeps to; 0 is no limit at all."""
    return max(1, limit // workers + (worker < limit % workers)) if limit else 0


UDP_OPTIONS = RuleOptions(
    max_connections=UDP_FLOWS, idle_timeout_us=MINUTE_US, per_source=UDP_FLOWS // 2)


@dataclass(frozen=True, slots=True)
class Rule:
    """One port of one protocol and where it leads: ranges and `tcp+udp` are already taken apart."""

    # Line of the file, for messages. Two rules that differ only in this are the same rule: see `same`.
    number: int

    # "tcp" or "udp".
    protocol: str

    # "": every address, IPv4 and IPv6. "0.0.0.0": IPv4 alone. "::": IPv6 alone. Otherwise one address in its canonical
    # spelling, an IPv6 one perhaps with a scope.
    listen_host: str

    # 0 (only on a command line): any free port.
    listen_port: int

    # ((host, port), ...): names in lower case or canonical addresses.
    targets: tuple[tuple[str, int], ...]

    options: RuleOptions = RuleOptions()

    @property
    def listener(self) -> ListenAddress:
        """(protocol, host, port): which listener it is across a reload."""
        return self.protocol, self.listen_host, self.listen_port

    @property
    def listen_text(self) -> str:
        """As the log and `status` show it: `7005`, `10.0.0.1:7005`, `[::]:5060`."""
        return format_host_port(self.listen_host, self.listen_port) if self.listen_host else str(self.listen_port)

    @property
    def targets_text(self) -> str:
        return ", ".join(format_host_port(host, port) for host, port in self.targets)

    @property
    def line(self) -> str:
        """As it may be written into a file."""
        protocol = "" if self.protocol == "tcp" else f"{self.protocol} "
        return " ".join((f"{protocol}{self.listen_text} -> {self.targets_text}", *self.options.given))

    def same(self, other: Rule) -> bool:
        """Whether it does the same as `other`, wherever in the file it is."""
        return (self.listener, self.targets, self.options) == (other.listener, other.targets, other.options)

    def __str__(self) -> str:
        return f"{self.protocol} {self.listen_text} -> {self.targets_text}"
