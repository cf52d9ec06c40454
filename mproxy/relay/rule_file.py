"""Rules as a person writes them.

    [tcp|udp|tcp+udp] [ADDRESS:]PORT[-PORT] -> HOST:PORT[-PORT][, HOST:PORT ...] [OPTION ...]   # comment

The steps, in each of which mistakes are found:

1. A line is cut at `#`, and at blanks after `->`; a mistake in it is told in one sentence: what, and what was expected.
2. Ranges and `tcp+udp` become single rules.
3. `[::]` takes IPv4 as well, as Linux does by itself, unless another rule has that port on an IPv4 address.
4. Of two rules for one address, port and protocol the second is wrong. A rule for every address overlaps with one for a
   single address.

Every wrong line is named, not only the first; and a single wrong line means that no rule is returned at all.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable

from mproxy.ground.config import DAY_US, HOUR_US, MILLISECOND_US, MINUTE_US, SECOND_US, format_duration
from mproxy.ground.errors import MproxyError, UsageError
from mproxy.ground.words import counted, parse_bind, parse_count, parse_duration, parse_host, parse_port, printable
from mproxy.relay.rules import LEAST_CONNECTIONS, ROUND_ROBIN, UDP_OPTIONS, HealthCheck, Rule, RuleOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any
    OptionCache = dict[tuple[tuple[str, ...], tuple[str, ...]], list[RuleOptions]]  # by protocols and words

LINE = "[tcp|udp|tcp+udp] [ADDRESS:]PORT -> HOST:PORT [OPTION ...]"

# Wrong lines that are named one by one; the rest is only counted.
TOLD = 20

# A file with more is a mistake, such as one digit too many in the ranges of many lines.
MOST_RULES = 100_000
MOST_TARGETS = 64
LONGEST_LINE = 4096

# Of the weight of a target, and of what a health check sends or expects, in bytes.
MOST_WEIGHT = 1000
LONGEST_CHECK = 1024

PROTOCOLS = {"tcp": ("tcp",), "udp": ("udp",), "tcp+udp": ("tcp", "udp"), "udp+tcp": ("tcp", "udp")}

# Of a text with escapes; for `#` there is \x23.
_PIECE = re.compile(rb"\\([rnts\\])|\\x([0-9A-Fa-f]{2})|([^\\]+)")
_ESCAPES = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"s": b" ", b"\\": b"\\"}

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")

_HEAD = re.compile(r"(?:([^\s:\[\]]*)\s+)?(\S+)")


class LinesError(MproxyError):
    """Lines of a file are wrong. `wrong`: [(line number, what is wrong and what is expected), ...]; number 0: of a rule
    that is in no file."""

    def __init__(self, name: str, wrong: list[tuple[int, str]]) -> None:
        self.name = name
        self.wrong = wrong
        super().__init__("; ".join(self.lines()))

    def lines(self) -> list[str]:
        """Lines to be shown, each `FILE:LINE: text`: the first TOLD of them, and how many more there are."""
        told = [f"{self.name}:{number}: {text}" if number else f"added rule: {text}"
                for number, text in self.wrong[:TOLD]]
        more = len(self.wrong) - TOLD
        return told + ([f"{self.name}: and {more} more wrong lines"] if more > 0 else [])


class RulesError(LinesError, UsageError):
    """Rules that say something wrong."""


class ListenError(LinesError):
    """The rules are right, but their ports or addresses are not available."""


def read_rules(path: str) -> list[Rule]:
    """The Rules of a file; RulesError, or UsageError when it cannot be read."""
    return settle_rules(read_written(path), path)


def read_written(path: str) -> list[Rule]:
    """The same, as they are written: `settle_rules` is still to come."""
    try:
        with open(path, "rb") as file:
            data = file.read()
        text = data.decode("utf-8-sig")  # some editors begin with a byte order mark
    except OSError as error:
        raise UsageError(f"cannot read {printable(path)}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RulesError(path, [(line, "not UTF-8 text; expected one rule per line")]) from None
    return _parse_lines(text, path)


def parse_rules(text: str, name: str = "rules") -> list[Rule]:
    """The Rules of a whole file, in its order; a RulesError has `name` before the line number."""
    return settle_rules(_parse_lines(text, name), name)


def settle_rules(written: Iterable[Rule], name: str) -> list[Rule]:
    """What rules mean beside each other, steps 3 and 4; RulesError when two overlap."""
    rules = _widen(list(written))
    wrong = _overlaps(rules)
    if wrong:
        raise RulesError(name, sorted(wrong))
    return rules


def _parse_lines(text: str, name: str) -> list[Rule]:
    """Steps 1 and 2. If a line is wrong those that overlap are named with it."""
    rules: list[Rule] = []
    wrong: list[tuple[int, str]] = []
    cache: OptionCache = {}
    for number, line in enumerate(text.split("\n"), 1):
        words = line.partition("#")[0].strip()
        if not words:
            continue
        try:
            rules += parse_line(words, number, cache)
        except UsageError as error:
            wrong.append((number, str(error)))
        if len(rules) > MOST_RULES:
            wrong.append((number, f"more than {MOST_RULES} rules, which is the limit: is a range too long?"))
            break
    if not wrong and not rules:
        wrong = [(1, f"no rules in this file; expected lines such as {LINE}")]
    if wrong:
        raise RulesError(name, sorted(wrong + _overlaps(_widen(rules))))
    return rules


def parse_line(line: str, number: int, cache: OptionCache | None = None) -> list[Rule]:
    """The Rules of one line without its comment. `cache`: makes equal options one object."""
    if len(line) > LONGEST_LINE:
        raise UsageError(f"line longer than {LONGEST_LINE} characters; expected {LINE}")
    head, arrow, tail = line.partition("->")
    if not arrow:
        raise UsageError(f"missing '->'; expected {LINE}")
    protocols, host, ports = parse_head(head.strip())
    words = re.sub(r"\s*,\s*", ",", tail).split()
    if not words:
        raise UsageError(f"nothing follows '->'; expected {LINE}")
    targets = [_target(word, len(ports)) for word in words[0].split(",")]
    if len(targets) > MOST_TARGETS:
        raise UsageError(f"too many targets: {len(targets)}; expected at most {MOST_TARGETS}")
    options = parse_options(protocols, tuple(words[1:]), {} if cache is None else cache)
    check_weights(options[0].weights, len(targets))
    rules = [
        Rule(number, protocol, host, port,
             tuple((target, first + index) for target, first in targets), options[which])
        for which, protocol in enumerate(protocols) for index, port in enumerate(ports)]
    for rule in rules:
        _refuse_circle(rule)
    return rules


def check_weights(weights: tuple[int, ...], targets: int) -> None:
    """UsageError unless there is one for each target."""
    if weights and len(weights) != targets:
        raise UsageError(f"{counted(len(weights), 'weight')} for {counted(targets, 'target')}; expected one for each"
                         " target, in their order")


def _refuse_circle(rule: Rule) -> None:
    """Refuse a relay to itself: its first connection would take every descriptor there is."""
    for host, port in rule.targets:
        if port == rule.listen_port and _reaches(rule.listen_host, host):
            raise UsageError(f"{rule} would relay to itself; use another host or port")


def _reaches(listening: str, host: str) -> bool:
    """Whether a connection to `host`, perhaps a name, certainly reaches whoever listens there."""
    if host == listening:
        return True
    if host == "localhost":
        return listening in ("", "0.0.0.0", "::", "127.0.0.1", "::1")
    try:
        target = ipaddress.ip_address(host)
    except ValueError:
        return False
    if not (target.is_loopback or target.is_unspecified):  # connecting to no address is connecting to this host
        return False
    loopback, everywhere = ("127.0.0.1", "0.0.0.0") if target.version == 4 else ("::1", "::")
    return listening in ("", everywhere) or (target.is_unspecified and listening == loopback)


# ---- before the arrow

def parse_head(text: str) -> tuple[tuple[str, ...], str, range]:
    """(protocols, host, ports) of `udp [::]:5060`, `7100-7110`, `10.0.0.1:80`."""
    match = _HEAD.fullmatch(text)
    if match is None:
        raise UsageError(f"not a listening address: {printable(text)}; expected {LINE}")
    protocol, listen = match[1] or "tcp", match[2]
    if protocol.lower() not in PROTOCOLS:
        raise UsageError(f"not a valid protocol: {printable(protocol)}; expected tcp, udp or tcp+udp")
    host, ports = parse_listen(listen)
    return PROTOCOLS[protocol.lower()], host, ports


def parse_listen(text: str, lowest: int = 1) -> tuple[str, range]:
    """(host, ports) of `[ADDRESS:]PORT[-PORT]`; host "" is every address."""
    host, colon, ports = text.rpartition(":")
    if colon:
        if not host or (":" in host and not host.startswith("[")):
            raise UsageError(f"not a listening address: {printable(text)}; expected PORT, ADDRESS:PORT or [IPV6]:PORT")
        try:
            host = parse_bind(host)
        except UsageError:
            raise UsageError(f"not an address to listen on: {printable(host)}; expected a numeric one of this host,"
                             " such as 127.0.0.1 or [::1], or the port alone for all") from None
    return host, _ports(ports, "listening port", lowest)


def _ports(text: str, what: str, lowest: int = 1) -> range:
    first, dash, last = text.partition("-")
    try:
        low = parse_port(first, lowest)
        high = parse_port(last) if dash else low
    except UsageError:
        raise UsageError(f"not a valid {what}: {printable(text)}; expected a number from {lowest} to 65535, or a range"
                         f" such as 7100-7110") from None
    if high < low:
        raise UsageError(f"range runs backwards: {printable(text)}; use {last}-{first}")
    return range(low, high + 1)


# ---- after the arrow

def _target(text: str, count: int) -> tuple[str, int]:
    """(host, first port) of `HOST:PORT[-PORT]`; a range must have as many ports as the rule listens on."""
    host, colon, after = text.rpartition(":")
    if not colon or not host or not after or (":" in host and not host.startswith("[")):
        raise UsageError(f"not a valid target: {printable(text)}; expected HOST:PORT or [IPV6]:PORT")
    try:
        host = parse_host(host)
    except UsageError:
        raise UsageError(f"not a valid host: {printable(host)}; use a name, an IPv4 address, or an IPv6 address in"
                         " brackets") from None
    ports = _ports(after, "target port")
    if len(ports) != count:
        raise UsageError(
            f"{printable(text)} has {_count(len(ports))} but the rule listens on {count}; expected"
            f" {ports[0]}-{min(65535, ports[0] + count - 1)}" if count > 1 else
            f"{printable(text)} has {_count(len(ports))} but the rule listens on one; expected one target port")
    return host, ports[0]


def _count(ports: int) -> str:
    return f"{ports} port{'s' if ports > 1 else ''}"


def parse_options(protocols: tuple[str, ...], words: tuple[str, ...], cache: OptionCache) -> list[RuleOptions]:
    """A RuleOptions for each of the protocols, from words such as `max=500` and `accept-proxy`."""
    key = protocols, words
    if key not in cache:
        given = {}
        for word in words:
            name, value = _option(word, protocols)
            if name in given:
                raise UsageError(f"option given twice: {printable(word)}; give {word.partition('=')[0]} once")
            given[name] = value
        given["given"] = words
        if given.get("proxy") == 1 and "udp" in protocols:
            raise UsageError("proxy=v1 is for tcp rules only; use proxy=v2")
        if "new_burst" in given and "new_per_source" not in given:
            raise UsageError("new-burst needs new-per-source=RATE, for example new-per-source=10/s")
        _join_check(given, protocols)
        cache[key] = [_fill(protocol, given) for protocol in protocols]
    return cache[key]


def _join_check(given: dict[str, Any], protocols: tuple[str, ...]) -> None:
    """Make one HealthCheck of the options that are about it."""
    parts = {name.removeprefix("check_"): given.pop(name) for name in list(given) if name.startswith("check_")}
    if "interval_us" not in parts:
        if parts:
            raise UsageError(f"check-{next(iter(parts))} needs check=TIME, for example check=5s")
        return
    if "udp" in protocols and not parts.keys() >= {"send", "expect"}:
        raise UsageError("check of a udp rule needs check-send=TEXT and check-expect=TEXT: only an answer shows that a"
                         " server is there")
    given["check"] = HealthCheck(**parts)


def _fill(protocol: str, given: dict[str, Any]) -> RuleOptions:
    """RuleOptions of one protocol: what was given for it, and defaults for the rest."""
    if protocol == "tcp":
        return RuleOptions(**{name: value for name, value in given.items() if name != "per_source"})
    values = {name: value for name, value in given.items() if name not in ("connect_timeout_us", "keepalive")}
    values.setdefault("max_connections", UDP_OPTIONS.max_connections)
    values.setdefault("idle_timeout_us", UDP_OPTIONS.idle_timeout_us)
    # Half of the table, so that one source cannot push out everybody else.
    values.setdefault("per_source", max(1, values["max_connections"] // 2))
    return RuleOptions(**values)


def _option(word: str, protocols: tuple[str, ...]) -> tuple[str, object]:
    """(field of RuleOptions, value) of one word."""
    name, equals, text = word.partition("=")
    if name not in OPTIONS:
        raise UsageError(f"unknown option: {printable(word)}; expected one of {', '.join(_SPELLING.values())}")
    field, parse, only, expected = OPTIONS[name]
    if only and (only not in protocols or (field == "source" and protocols != ("tcp",))):
        raise UsageError(f"{name} applies to {only} rules only")
    if bool(equals) != (parse is not None):
        raise UsageError(f"{name} needs a value: {name}=..." if parse else f"{name} takes no value")
    if parse is None:
        return field, True
    try:
        return field, parse(text)
    except (UsageError, ValueError, KeyError):
        raise UsageError(f"{printable(word)}: not {expected[0]}; {expected[1]}") from None


def _networks(text: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(word.strip("[]") if "/" not in word else word) for word in text.split(","))


def _keepalive(text: str) -> tuple[int, int, int]:
    """(idle, interval, probes) of `30s,10s,3`; without the last ones the system's usual."""
    first, *more = text.split(",")
    if len(more) > 2:
        raise UsageError
    times = [0 if time == "0" else _timeout(SECOND_US, 9 * HOUR_US)(time) // SECOND_US for time in (first, *more[:1])]
    interval_s = times[1] if more else max(1, min(20, times[0] // 3))
    if not interval_s:
        raise UsageError
    return times[0], interval_s, _number(1, 127)(more[1]) if len(more) > 1 else 3


def _rate(text: str) -> tuple[int, int]:
    """(count, time in microseconds) of `10/s`."""
    count, _, unit = text.partition("/")
    return _number(1, 1_000_000)(count), {"s": SECOND_US, "m": MINUTE_US, "h": HOUR_US}[unit]


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise UsageError
    return text


def _sources(text: str) -> tuple[str, ...]:
    addresses = tuple(parse_bind(word) for word in text.split(","))
    if len({":" in address for address in addresses}) != len(addresses):
        raise UsageError
    return addresses


def _number(lowest: int, highest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = parse_count(text)
        if not lowest <= value <= highest:
            raise UsageError
        return value
    return parse


def _weights(text: str) -> tuple[int, ...]:
    weights = tuple(map(_number(0, MOST_WEIGHT), text.split(",")))
    if not any(weights):
        raise UsageError
    return weights


def _bytes(text: str) -> bytes:
    """What a text with escapes stands for: an option has no blanks in it, and a line no `#`."""
    data, at, found = text.encode(), 0, b""
    while at < len(data):
        match = _PIECE.match(data, at)
        if match is None:
            raise UsageError
        letter, number, plain = match.groups()
        found += _ESCAPES[letter] if letter else bytes([int(number, 16)]) if number else plain
        at = match.end()
    if not 0 < len(found) <= LONGEST_CHECK:
        raise UsageError
    return found


def _timeout(lowest: int, highest: int, zero: bool = False) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = parse_duration(text)
        if not lowest <= value <= highest and not (zero and value == 0):
            raise UsageError
        return value
    return parse


def _choice(**values: object) -> Callable[[str], object]:
    def parse(text: str) -> object:
        if text not in values:
            raise UsageError
        return values[text]
    return parse


_COUNT = ("a number from 1 to 1000000", "for example {}=500")
_NETWORKS = ("a list of networks", "for example {}=10.0.0.0/8,192.168.1.7,fd00::/8 (no bits set beyond the prefix)")

_TEXT = (f"a text of 1 to {LONGEST_CHECK} bytes", "for example {}=PING\\r\\n; \\s is a blank, \\x23 the byte 0x23,"
         " \\\\ a backslash")

# option: (field of RuleOptions, parser of its value or None for a bare word, its only protocol or "", (what the value
# is, example))
OPTIONS = {
    "allow": ("allow", _networks, "", _NETWORKS),
    "deny": ("deny", _networks, "", _NETWORKS),
    "max": ("max_connections", _number(1, 1_000_000), "", _COUNT),
    "per-source": ("per_source", _number(1, 1_000_000), "udp", _COUNT),
    "timeout": ("idle_timeout_us", _timeout(MILLISECOND_US, 30 * DAY_US, zero=True), "", (
        f"a time from 1ms to {format_duration(30 * DAY_US)} or 0", "for example {}=30s or {}=1h")),
    "connect-timeout": ("connect_timeout_us", _timeout(MILLISECOND_US, HOUR_US), "tcp", (
        f"a time from 1ms to {format_duration(HOUR_US)}", "for example {}=5s")),
    "balance": ("balance", _choice(**{ROUND_ROBIN: ROUND_ROBIN, LEAST_CONNECTIONS: LEAST_CONNECTIONS}), "", (
        "a balancing method", f"use {{}}={ROUND_ROBIN} or {{}}={LEAST_CONNECTIONS}")),
    "proxy": ("proxy", _choice(v1=1, v2=2), "", ("a version of the PROXY protocol", "use {}=v1 or {}=v2")),
    "source": ("source", _sources, "tcp", (
        "an address of this host (or one IPv4 and one IPv6)", "for example {}=10.0.0.7")),
    "new-per-source": ("new_per_source", _rate, "", ("a rate", "for example {}=10/s, {}=100/m or {}=1000/h")),
    "new-burst": ("new_burst", _number(1, 1_000_000), "", _COUNT),
    "keepalive": ("keepalive", _keepalive, "tcp", (
        "a time from 1s to 9h, or 0, perhaps with another one and a count from 1 to 127",
        "for example {}=60s or {}=30s,10s,3")),
    "name": ("name", _name, "", ("a name of letters, digits, -, _ and ., a letter first", "for example {}=web")),
    "accept-proxy": ("accept_proxy", None, "", ("", "")),
    "weights": ("weights", _weights, "", (
        f"a list of numbers from 0 to {MOST_WEIGHT}, not all 0", "for example {}=3,1: one for each target")),
    "check": ("check_interval_us", _timeout(100 * MILLISECOND_US, HOUR_US), "", (
        "a time from 100ms to 1h", "for example {}=5s")),
    "check-send": ("check_send", _bytes, "", _TEXT),
    "check-expect": ("check_expect", _bytes, "", _TEXT),
    "check-port": ("check_port", parse_port, "", ("a port", "for example {}=8080")),
    "check-rise": ("check_rise", _number(1, 1000), "", ("a number from 1 to 1000", "for example {}=2")),
    "check-fall": ("check_fall", _number(1, 1000), "", ("a number from 1 to 1000", "for example {}=3")),
}
OPTIONS = {
    name: (field, parse, only, (what, example.replace("{}", name)))
    for name, (field, parse, only, (what, example)) in OPTIONS.items()}
_SPELLING = {name: name if entry[1] is None else f"{name}=" for name, entry in OPTIONS.items()}


# ---- rules beside each other

def _is_ipv4(host: str) -> bool:
    return bool(host) and ":" not in host


def _widen(rules: list[Rule]) -> list[Rule]:
    """Step 3: `::` becomes "" unless another rule has that port on IPv4."""
    taken = {(rule.protocol, rule.listen_port) for rule in rules if _is_ipv4(rule.listen_host)}
    return [
        Rule(rule.number, rule.protocol, "", rule.listen_port, rule.targets, rule.options)
        if rule.listen_host == "::" and (rule.protocol, rule.listen_port) not in taken else rule
        for rule in rules]


def _overlaps(rules: Iterable[Rule]) -> list[tuple[int, str]]:
    """[(line, text)] for every line that listens where an earlier one does, once for each pair of lines."""
    places: dict[tuple[str, int], list[Rule]] = {}
    wrong = {}
    for rule in rules:
        others = places.setdefault((rule.protocol, rule.listen_port), [])
        for other in others:
            lines = other.number, rule.number
            if lines not in wrong and _meet(rule.listen_host, other.listen_host):
                wrong[lines] = (
                    f"{rule.protocol} {rule.listen_text} is already used"
                    f" {f'on line {other.number}' if other.number else 'by an added rule'} ({other.protocol}"
                    f" {other.listen_text}); only one rule may listen on an address and port")
        others.append(rule)
    return [(number, text) for (_, number), text in wrong.items()]


def _meet(one: str, other: str) -> bool:
    """Whether there is an address that both listen on."""
    if one == other or not one or not other:
        return True
    if _is_ipv4(one) != _is_ipv4(other):
        return False
    everywhere = "0.0.0.0" if _is_ipv4(one) else "::"
    return everywhere in (one, other)
