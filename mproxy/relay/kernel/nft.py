"""Rules as an nftables table of their own: its text, handing that to nft(8), and reading its counters.

    prerouting         -300  loopback   drops what comes from outside with an address of 127.0.0.0/8
    prerouting, output -110  admit      allow= and deny= of new connections
    prerouting, output -100  lead       sets the destination: maps any4 any6 (each local address), at4 at6 (one of them)
    prerouting, output  -90  count      bytes and packets of both directions, by listening port; each once, although
                                        what goes from this host to itself passes both hooks
    forward               0  forward    only where forwarding was off before: lets nothing but our connections pass
    postrouting         100  hide       sets the source to the relay's address, so that answers come back this way

A caller of ::1 is refused at once, and tries 127.0.0.1 next: IPv6 has nothing like route_localnet.

Every lookup is in a hash, so a packet costs the same with one rule as with ten thousand. A new table replaces the
former one in one transaction; connections go on, because by then the kernel's connection table has their addresses.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import subprocess
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from mproxy.ground.errors import MproxyError
from mproxy.relay.rules import Rule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any
    Networks = tuple[IPv4Network | IPv6Network, ...]
    Jump = tuple[str, str, str]  # what to match, key in it, chain
    Listing = dict[str, Any]  # what nft prints as JSON
    # (packets, bytes) by map or set and key in it: (protocol, port), (address, protocol, port) or a port.
    Counts = dict[tuple[str, object], tuple[int, int]]

TABLE = "mproxy_relay"

# nft takes well under a second for ten thousand rules.
PATIENCE_S = 60

_SEARCH_PATH = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"


@dataclass(frozen=True, slots=True)
class Redirect:
    """A rule with the present addresses of its one target; None where it has none of that family."""

    rule: Rule
    target4: str | None
    target6: str | None

    @property
    def port(self) -> int:
        """The target's."""
        return self.rule.targets[0][1]

    def families(self) -> list[tuple[int, str]]:
        """[(4 or 6, target address), ...]: the families in which this rule takes connections."""
        host = self.rule.listen_host
        found = []
        if self.target4 and (host == "" or ":" not in host):
            found.append((4, self.target4))
        if self.target6 and (host == "" or ":" in host):
            found.append((6, self.target6))
        return found


def place_of(host: str, family: int) -> str:
    """A listening address as part of a set's name: every address of a family, or one."""
    if host in ("", "0.0.0.0", "::"):
        return f"any{family}"
    return "at_" + "".join(char if char.isalnum() else "_" for char in host)


# ---- the text

def make_table(redirects: Sequence[Redirect], forward_guard: Collection[int] = ()) -> str:
    """The text that replaces the table. forward_guard: families, 4 and 6, in which nothing else may be forwarded."""
    parts = [
        *_maps(redirects), *_ports_and_targets(redirects), *_counting(redirects), *_admission(redirects),
        _CHAINS, *(_forward_chain(forward_guard) if forward_guard else ())]
    return remove_table() + f"table inet {TABLE} {{\n" + "\n".join(parts) + "\n}\n"


def remove_table() -> str:
    """The text that removes the table, whether it is there or not."""
    return f"table inet {TABLE}\ndelete table inet {TABLE}\n"


_CHAINS = """\
chain loopback {
    type filter hook prerouting priority -300; policy accept;
    iifname != "lo" ip daddr 127.0.0.0/8 drop
    iifname != "lo" ip saddr 127.0.0.0/8 drop
}
chain admit_arriving {
    type filter hook prerouting priority -110; policy accept;
    ct state new jump admit
}
chain admit_leaving {
    type filter hook output priority -110; policy accept;
    ct state new jump admit
}
chain lead {
    meta nfproto ipv4 fib daddr type local dnat ip to meta l4proto . th dport map @any4
    ip6 daddr != ::1 fib daddr type local dnat ip6 to meta l4proto . th dport map @any6
    dnat ip to ip daddr . meta l4proto . th dport map @at4
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @at6
}
chain lead_arriving {
    type nat hook prerouting priority -100; policy accept;
    jump lead
}
chain lead_leaving {
    type nat hook output priority -100; policy accept;
    jump lead
}
chain count_arriving {
    type filter hook prerouting priority -90; policy accept;
    ct status dnat jump count
}
chain count_leaving {
    type filter hook output priority -90; policy accept;
    ct status dnat fib daddr type != local jump count
}
chain hide_ours {
    meta l4proto . ip daddr . th dport @targets4 masquerade
    meta l4proto . ip6 daddr . th dport @targets6 masquerade
}
chain hide {
    type nat hook postrouting priority 100; policy accept;
    oifname "lo" accept
    ct status dnat meta l4proto tcp ct original proto-dst @ports jump hide_ours
    ct status dnat meta l4proto udp ct original proto-dst @ports jump hide_ours
}"""


def _forward_chain(families: Iterable[int]) -> list[str]:
    lines = ["    ct status dnat accept", *(f"    meta nfproto ipv{family} drop" for family in sorted(families))]
    return ["chain forward {", "    type filter hook forward priority 0; policy accept;", *lines, "}"]


def _with_elements(kind: str, name: str, about: str, elements: Iterable[str]) -> str:
    """A set or map; nft does not accept an empty list."""
    content = f" elements = {{ {', '.join(elements)} }}\n" if elements else ""
    return f"{kind} {name} {{\n {about}\n{content}}}"


def _maps(redirects: Iterable[Redirect]) -> Iterator[str]:
    """any4, any6, at4, at6: where connections go. They also count connections, as only first packets come here."""
    elements: dict[str, list[str]] = {name: [] for name in ("any4", "any6", "at4", "at6")}
    for redirect in redirects:
        rule = redirect.rule
        for family, target in redirect.families():
            wide = place_of(rule.listen_host, family).startswith("any")
            key = "" if wide else f"{rule.listen_host} . "
            elements[f"{'any' if wide else 'at'}{family}"].append(
                f"{key}{rule.protocol} . {rule.listen_port} : {target} . {redirect.port}")
    for name, content in elements.items():
        address = f"ipv{name[-1]}_addr"
        key = "" if name.startswith("any") else f"{address} . "
        yield _with_elements(
            "map", name, f"type {key}inet_proto . inet_service : {address} . inet_service; counter;", content)


def _ports_and_targets(redirects: Sequence[Redirect]) -> Iterator[str]:
    """The sets by which the chain `hide` knows our connections."""
    ports = sorted({redirect.rule.listen_port for redirect in redirects})
    yield _with_elements("set", "ports", "type inet_service;", map(str, ports) if ports else ())
    for number in (4, 6):
        targets = {f"{redirect.rule.protocol} . {target} . {redirect.port}"
                   for redirect in redirects for family, target in redirect.families() if family == number}
        yield _with_elements("set", f"targets{number}", f"type inet_proto . ipv{number}_addr . inet_service;",
                             sorted(targets))


def _counting(redirects: Iterable[Redirect]) -> Iterator[str]:
    """Sets of ports that count, one for each place, protocol and direction, and the chains that look up packets."""
    hosts: dict[str, tuple[int, str]] = {}           # place -> (family, host)
    ports: dict[str, dict[str, list[str]]] = {}      # place -> {protocol: [port, ...]}
    for redirect in redirects:
        rule = redirect.rule
        for family, _ in redirect.families():
            place = place_of(rule.listen_host, family)
            hosts[place] = family, rule.listen_host
            ports.setdefault(place, {}).setdefault(rule.protocol, []).append(str(rule.listen_port))
    chains: dict[str, list[tuple[str, str, str]]] = {"in": [], "out": []}
    for place, by_protocol in ports.items():
        family, host = hosts[place]
        for direction, chain in chains.items():
            for protocol, numbers in by_protocol.items():
                name = f"{direction}_{protocol}_{place}"
                yield _with_elements("set", name, "type inet_service; counter;", numbers)
            lookups = [f"    meta l4proto {protocol} ct original proto-dst @{direction}_{protocol}_{place}"
                       for protocol in by_protocol]
            yield "\n".join([f"chain {direction}_{place} {{", *lookups, "}"])
            chain.append(_jump_by_place(family, host, f"{direction}_{place}"))
    for direction, jumps in chains.items():
        yield "\n".join([f"chain count_{direction} {{", *_grouped(jumps), "}"])
    yield "chain count {\n    ct direction original jump count_in\n    ct direction reply jump count_out\n}"


def _jump_by_place(family: int, host: str, chain: str) -> Jump:
    """(what to match, key in it, chain) of a place."""
    if host in ("", "0.0.0.0", "::"):
        return "meta nfproto", f"ipv{family}", chain
    return ("ct original ip daddr" if family == 4 else "ct original ip6 daddr"), host, chain


def _grouped(jumps: Sequence[Jump]) -> Iterator[str]:
    """Verdict maps of jumps, one for each thing to match: one lookup, however many addresses there are."""
    for match in dict.fromkeys(match for match, _, _ in jumps):
        elements = ", ".join(f"{key} : jump {chain}" for other, key, chain in jumps if other == match)
        yield f"    {match} vmap {{ {elements} }}"


def _admission(redirects: Iterable[Redirect]) -> Iterator[str]:
    """allow= and deny=: a chain for each pair of lists, verdict maps that find it, and the chain `admit`."""
    numbers: dict[tuple[Networks, Networks], int] = {}
    maps: dict[str, list[str]] = {name: [] for name in ("any4", "any6", "at4", "at6")}
    for redirect in redirects:
        rule = redirect.rule
        lists = rule.options.allow, rule.options.deny
        if not any(lists):
            continue
        number = numbers.setdefault(lists, len(numbers))
        for family, _ in redirect.families():
            wide = place_of(rule.listen_host, family).startswith("any")
            key = "" if wide else f"{rule.listen_host} . "
            maps[f"{'any' if wide else 'at'}{family}"].append(
                f"{key}{rule.protocol} . {rule.listen_port} : jump admit_{number}")
    for (allow, deny), number in numbers.items():
        yield "\n".join([f"chain admit_{number} {{", *_list_lines(allow, deny), "}"])
    for name, content in maps.items():
        key = "" if name.startswith("any") else f"ipv{name[-1]}_addr . "
        yield _with_elements("map", f"admit_{name}", f"type {key}inet_proto . inet_service : verdict;", content)
    yield """\
chain admit {
    meta nfproto ipv4 fib daddr type local meta l4proto . th dport vmap @admit_any4
    meta nfproto ipv6 fib daddr type local meta l4proto . th dport vmap @admit_any6
    ip daddr . meta l4proto . th dport vmap @admit_at4
    ip6 daddr . meta l4proto . th dport vmap @admit_at6
}"""


def _list_lines(allow: Networks, deny: Networks) -> Iterator[str]:
    for version, word in ((4, "ip"), (6, "ip6")):
        denied = _networks(deny, version)
        if denied:
            yield f"    {word} saddr {{ {denied} }} drop"
        allowed = _networks(allow, version)
        if allowed:
            yield f"    {word} saddr != {{ {allowed} }} drop"
        elif allow:
            yield f"    meta nfproto ipv{version} drop"


def _networks(networks: Networks, version: int) -> str:
    """The networks of one IP version, without overlaps, which nft refuses."""
    if version == 4:
        return ", ".join(map(str, ipaddress.collapse_addresses(n for n in networks if isinstance(n, IPv4Network))))
    return ", ".join(map(str, ipaddress.collapse_addresses(n for n in networks if isinstance(n, IPv6Network))))


# ---- the program

def find_program() -> str:
    """The path of nft(8); MproxyError when there is none."""
    path = shutil.which("nft", path=_SEARCH_PATH)
    if path is None:
        raise MproxyError("--kernel needs the program nft: install the package nftables")
    return path


def run(text: str) -> None:
    """Have nft(8) do what `text` says, all or nothing. MproxyError with its complaint."""
    _call(["-f", "-"], text)


def read_counters() -> Counts:
    """{(map or set, key): (packets, bytes)}; a key is (protocol, port), (address, protocol, port) or a port."""
    return parse_counters(json.loads(_call(["-j", "list", "table", "inet", TABLE])))


def dropping_chains() -> list[str]:
    """Chains of other programs that drop forwarded packets unless a rule accepts them: `inet filter forward`."""
    found = []
    for chain in parse_forward_chains(json.loads(_call(["-j", "list", "chains"]))):
        dropping = chain.get("policy") == "drop"
        if not dropping:
            listing = json.loads(_call(["-j", "list", "chain", chain["family"], chain["table"], chain["name"]]))
            dropping = ends_with_drop(listing)
        if dropping:
            found.append(f"{chain['family']} {chain['table']} {chain['name']}")
    return found


def parse_forward_chains(listing: Listing) -> list[dict[str, str]]:
    """The chains at the hook `forward` that are not ours, from what nft prints."""
    chains = (item.get("chain", {}) for item in listing.get("nftables", ()))
    return [chain for chain in chains if chain.get("hook") == "forward" and chain["table"] != TABLE]


def ends_with_drop(listing: Listing) -> bool:
    """Whether the last rule of a chain drops or rejects everything that reaches it."""
    rules = [item["rule"] for item in listing.get("nftables", ()) if "rule" in item]
    words = {word for expression in (rules[-1].get("expr", ()) if rules else ()) for word in expression}
    return bool(words & {"drop", "reject"}) and words <= {"drop", "reject", "counter", "log"}


def _call(arguments: list[str], text: str | None = None) -> str:
    try:
        done = subprocess.run([find_program(), *arguments], input=text, capture_output=True, text=True, check=False,
                              timeout=PATIENCE_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MproxyError(f"nft failed: {error}") from None
    if done.returncode:
        complaint = next((line for line in done.stderr.splitlines() if line.strip()), f"status {done.returncode}")
        hint = "; --kernel needs root (CAP_NET_ADMIN)" if "not permitted" in complaint else ""
        raise MproxyError(f"nft refuses: {complaint.strip()}{hint}")
    return done.stdout


def parse_counters(listing: Listing) -> Counts:
    """`read_counters`, from the JSON that nft prints."""
    found = {}
    for item in listing.get("nftables", ()):
        content = item.get("set") or item.get("map") or {}
        for element in content.get("elem", ()):
            described = (element[0] if isinstance(element, list) else element)
            if not isinstance(described, dict) or "elem" not in described:
                continue
            value, counter = described["elem"]["val"], described["elem"].get("counter")
            if counter:
                key = tuple(value["concat"]) if isinstance(value, dict) else value
                found[content["name"], key] = counter["packets"], counter["bytes"]
    return found


def count(counters: Counts, redirect: Redirect) -> tuple[int, ...]:
    """(connections ever, packets in, bytes in, packets out, bytes out) of one rule."""
    rule = redirect.rule
    values = [0] * 5
    for family, _ in redirect.families():
        place = place_of(rule.listen_host, family)
        wide = place.startswith("any")
        key = (rule.protocol, rule.listen_port) if wide else (rule.listen_host, rule.protocol, rule.listen_port)
        values[0] += counters.get((f"{'any' if wide else 'at'}{family}", key), (0, 0))[0]
        for at, direction in ((1, "in"), (3, "out")):
            packets, size = counters.get((f"{direction}_{rule.protocol}_{place}", rule.listen_port), (0, 0))
            values[at] += packets
            values[at + 1] += size
    return tuple(values)
