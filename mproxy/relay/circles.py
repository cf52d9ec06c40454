"""Rules that lead back to the relay itself, directly or over each other.

The first connection of such a rule would take every descriptor there is, and a single datagram would circulate for
ever. What the rules and the addresses of names do not show is found at run time: _circle.pxd.
"""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mproxy.relay.rule_file import RulesError
from mproxy.relay.rules import Rule

_MAY_BIND_ANYWHERE = {4: Path("/proc/sys/net/ipv4/ip_nonlocal_bind"), 6: Path("/proc/sys/net/ipv6/ip_nonlocal_bind")}


@dataclass(frozen=True, slots=True)
class Step:
    """A target address of a rule at which the same or another rule listens."""

    rule: Rule
    host: str      # as the rule names it
    address: str   # its address
    to: Rule


def find_circles(rules: Iterable[Rule], addresses: Callable[[str], list[str]],
                 is_own: Callable[[str], bool]) -> list[Step]:
    """Steps that lead round in a circle. `addresses(host)`: the known ones, text; `is_own(address)`: of this host."""
    listening: dict[tuple[str, int], list[Rule]] = {}
    for rule in rules:
        listening.setdefault((rule.protocol, rule.listen_port), []).append(rule)
    steps = []
    for rule in rules:
        for host, port in rule.targets:
            others = listening.get((rule.protocol, port), ())
            for address in addresses(host) if others else ():
                steps += [Step(rule, host, address, other) for other in others if _meets(other, address, is_own)]
    return _without_ends(steps)


def refuse_circles(rules: Iterable[Rule], name: str) -> None:
    """RulesError that names every rule that is in a circle by the addresses in the rules themselves."""
    wrong = {}
    for step in find_circles(rules, _numeric, is_own_address):
        over = "" if step.to is step.rule else f" via line {step.to.number}" if step.to.number else " via an added rule"
        wrong[step.rule.number] = f"{step.rule} leads back to itself{over}; use another host or port"
    if wrong:
        raise RulesError(name, sorted(wrong.items()))


def _numeric(host: str) -> list[str]:
    """Only addresses count; names are not known yet."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return []
    return [host]


def _meets(rule: Rule, address: str, is_own: Callable[[str], bool]) -> bool:
    """Whether a connection to an address reaches the listener of a rule."""
    plain, percent, scope = address.partition("%")
    target = ipaddress.ip_address(plain)
    if target.version == 6 and target.ipv4_mapped is not None:
        target = target.ipv4_mapped
    host = rule.listen_host
    if host and (":" in host) != (target.version == 6):
        return False
    if target.is_unspecified:  # connecting to no address is connecting to this host
        return True if host in ("", "0.0.0.0", "::") else ipaddress.ip_address(host.partition("%")[0]).is_loopback
    if host in ("", "0.0.0.0", "::"):
        return target.is_loopback or is_own(f"{target}{percent}{scope}")
    return host.partition("%")[0] == str(target)


def _without_ends(steps: list[Step]) -> list[Step]:
    """Drop steps that lead nowhere or that none leads to, until only circles are left."""
    while True:
        begin, end = {step.rule.listener for step in steps}, {step.to.listener for step in steps}
        left = [step for step in steps if step.to.listener in begin and step.rule.listener in end]
        if len(left) == len(steps):
            return steps
        steps = left


def is_own_address(address: str) -> bool:
    """Whether this host has an address: only those can be bound, unless the system lets any address be bound."""
    version = 6 if ":" in address else 4
    with socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            if _binds_anything(version):
                sock.connect((address, 9))  # sends nothing; a connection to an own address comes from that address
                ours: str = sock.getsockname()[0]
                return ours.partition("%")[0] == address.partition("%")[0]
            sock.bind((address, 0))
        except OSError:
            return False
        return True


def _binds_anything(version: int) -> bool:
    try:
        return _MAY_BIND_ANYWHERE[version].read_text().strip() == "1"
    except OSError:
        return False


def has_clients(clients: Iterable[tuple[int, bytes, int]],
                places: Sequence[str] = ("/proc/net/tcp", "/proc/net/tcp6")) -> bool:
    """Whether this host has sockets that connect from such a port to such a place (proc_pid_net(5)): [(port, address in
    its IPv6 form, port), ...]. If so they are clients, and not connections of our own that came back."""
    wanted = {(f"{_words(address)[-8:]}:{ours:04X}", f"{port:04X}") for port, address, ours in clients}
    for place in places:
        try:
            with open(place, encoding="ascii") as file:
                next(file)
                for line in file:
                    _, local, remote, *_ = line.split(None, 3)
                    if (remote[-13:], local[-4:]) in wanted:  # the last 32 bits are enough to tell addresses apart
                        return True
        except OSError:
            pass
    return False


def _words(address: bytes) -> str:
    """An address as the system prints it: words of 32 bits in its own byte order."""
    return "".join(f"{int.from_bytes(address[at:at + 4], sys.byteorder):08X}" for at in range(0, 16, 4))
