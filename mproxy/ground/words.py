"""Parsing what people write: durations, sizes, counts, ports, hosts.

Ground layer, for command lines and rule files alike. Each `parse_*` raises a UsageError that says what is wrong with
the text; the caller puts name and text in front: `--port 99999: not a valid port (1 to 65535)`.
"""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Mapping

from mproxy.ground.config import DURATION_UNITS, SECOND_US, format_host_port
from mproxy.ground.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

DURATION_US = dict(DURATION_UNITS, **{"": SECOND_US})

# The convention of GNU coreutils: K and KiB are 1024 bytes, kB is 1000.
SIZE_BYTES = {"": 1, "b": 1} | {
    prefix + suffix: base ** power
    for power, prefix in enumerate("kmg", 1)
    for suffix, base in (("", 1024), ("ib", 1024), ("b", 1000))}

# Digits on either side of the point; more would be a slip of the finger, or an attempt at a huge integer.
_NUMBER_WITH_UNIT = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,15}))?([A-Za-z]*)", re.ASCII)

_RATE = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,6}))?([kmg]?)(?:bit|bit/s)?", re.ASCII | re.IGNORECASE)
_RATE_FACTOR = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}

_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}", re.ASCII)

# Characters that no host name has, but an option, a path, a URL or a mistyped HOST:PORT; the resolver judges the rest.
_NEVER_IN_HOST = frozenset(" /:@%[]='\"\\*")

# RFC 1035 section 2.3.4, without the dot at the end.
_HOST_LENGTH = 253

# What --proxy can be.
PROXY_SCHEMES = ("http", "socks5h")

# RFC 3986, section 2.3.
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")

# In known_hosts, before the name of a command (cproxy --via): no host name has the character at its end.
VIA_HOST = "via="

_IPV6_LOOPBACK, _IPV4_LOOPBACK_MAPPED = bytes(15) + b"\x01", bytes(10) + b"\xff\xff\x7f"


def parse_duration(text: str) -> int:
    """`100ms`, `1s`, `1.5m`, `2h`, `7d`; a bare number is seconds. Microseconds, rounded down."""
    duration_us = _number_with_unit(text, DURATION_US)
    if duration_us is None:
        raise UsageError("not a duration; use a number and a unit (us, ms, s, m, h, d), such as 100ms or 1.5h")
    return duration_us


def parse_rate(text: str) -> int:
    """`100Mbit`, `1.5Gbit`, `300k`; a bare number is bits a second; 0 is no limit."""
    match = _RATE.fullmatch(text)
    if match is None:
        raise UsageError("not a rate; use a number and a unit (kbit, Mbit, Gbit), such as 100Mbit")
    whole, fraction, unit = match[1], match[2] or "", match[3].lower()
    rate: int = int(whole + fraction) * _RATE_FACTOR[unit] // 10 ** len(fraction)
    if rate > 10**12 or 0 < rate < 1000:
        raise UsageError("out of range (1kbit to 1000Gbit, or 0 for no limit)")
    return rate


def parse_size(text: str) -> int:
    """`4MiB`, `64KiB`, `4M` (1024 each), `500kB` (1000 each); a bare number is bytes. Bytes, rounded down."""
    size_bytes = _number_with_unit(text, SIZE_BYTES)
    if size_bytes is None:
        raise UsageError("not a size; use a number and a unit (KiB, MiB, GiB), such as 4MiB")
    return size_bytes


def _number_with_unit(text: str, units: Mapping[str, int]) -> int | None:
    """`text` times its unit as an integer, or None. Exact: no floats are involved."""
    match = _NUMBER_WITH_UNIT.fullmatch(text)
    if match is None:
        return None
    whole, fraction, unit = match[1], match[2] or "", match[3]
    factor = units.get(unit.lower())
    return None if factor is None else int(whole + fraction) * factor // 10 ** len(fraction)


def parse_count(text: str) -> int:
    """A whole number in decimal digits."""
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise UsageError("not a whole number")
    return int(text)


def parse_fingerprint(text: str) -> str:
    """`SHA256:` and 43 characters of base64, as the log and `mproxy keygen` show a key."""
    if not _FINGERPRINT.fullmatch(text):
        raise UsageError("not a key fingerprint; expected SHA256: and the 43 characters after it")
    return text


def parse_port(text: str, lowest: int = 1) -> int:
    """A TCP port, `lowest` to 65535."""
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and lowest <= int(text) <= 65535):
        raise UsageError(f"not a valid port ({lowest} to 65535)")
    return int(text)


def parse_listening_port(text: str) -> int:
    """The same, or 0: any that is free."""
    return parse_port(text, lowest=0)


def parse_proxy_version(text: str) -> int:
    """Of haproxy's PROXY protocol."""
    if text not in ("v1", "v2"):
        raise UsageError("must be v1 or v2")
    return int(text[1])


def parse_host(text: str) -> str:
    """A host name or numeric address, an IPv6 address bare or in brackets; without brackets in the result.

    Numeric IPv6 comes out in its one canonical spelling (RFC 5952) and names in lower case, so that equal
    hosts are equal texts; `--allow` relies on it.
    """
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    address = canonical_address(bare)
    if address is not None and (bare == text or ":" in bare):
        return address
    if bare != text or ":" in bare or not _could_be_name(text):
        raise UsageError("not a valid host; use a name, an IPv4 address, or an IPv6 address such as ::1")
    return text.lower()


def _could_be_name(text: str) -> bool:
    return (0 < len(text) <= _HOST_LENGTH and text.isprintable() and text[0] not in "-."
            and _NEVER_IN_HOST.isdisjoint(text))


def parse_host_port(text: str) -> tuple[str, int]:
    """`HOST:PORT`, `[IPV6]:PORT`. Gives (host, port)."""
    host, colon, port = text.rpartition(":")
    if ":" in host and not host.startswith("["):
        raise UsageError("not HOST:PORT; put an IPv6 address in brackets, such as [::1]:23")
    if not colon or not host or not port:
        raise UsageError("not HOST:PORT, such as 127.0.0.1:23 or [::1]:23")
    return parse_host(host), parse_port(port)


def parse_advertised(text: str) -> tuple[str, int]:
    """HOST:PORT, or HOST with port 0. UsageError."""
    if text.count(":") == 1 or "]:" in text:
        return parse_host_port(text)
    return parse_host(text.removeprefix("[").removesuffix("]")), 0


def parse_network(text: str) -> IPv4Network | IPv6Network:
    """A network, or one address. UsageError."""
    import ipaddress  # only this option needs it
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise UsageError(f"not an address or network such as 10.0.0.0/24 ({error})") from None


def parse_proxy(text: str) -> tuple[str, str, int, str | None, str]:
    """`http://[USER[:PASSWORD]@]HOST:PORT` or `socks5h://...`, in USER and PASSWORD %40 for @ and the like. Gives
    (scheme, host, port, user, password); user None: there is none."""
    from urllib.parse import unquote
    scheme, colon, rest = text.partition("://")
    if not colon or scheme not in PROXY_SCHEMES:
        raise UsageError("not a proxy; use http://HOST:PORT or socks5h://HOST:PORT, with USER:PASSWORD@ before HOST if"
                         " it wants them")
    login, at, place = rest.rpartition("@")
    user, _, password = login.partition(":")
    host, port = parse_host_port(place.removesuffix("/"))
    words = unquote(user), unquote(password)
    if any(len(word.encode()) > 255 for word in words) or ":" in words[0]:
        raise UsageError("the user must not have a colon, and neither user nor password more than 255 bytes")
    return scheme, host, port, words[0] if at else None, words[1]


def format_proxy(proxy: tuple[str, str, int, str | None, str]) -> str:
    """What `parse_proxy` takes."""
    from urllib.parse import quote
    scheme, host, port, user, password = proxy
    login = f"{quote(user, '')}:{quote(password, '')}@" if user is not None else ""
    return f"{scheme}://{login}{format_host_port(host, port)}"


def split_host_port(words: list[str], at: int) -> list[str]:
    """`words` with a HOST:PORT in place `at` (negative: from the end) as two words, HOST and PORT; others as they are.

    A bare IPv6 address is a HOST.
    """
    if not -len(words) <= at < len(words):
        return words
    at %= len(words)
    host, colon, port = words[at].rpartition(":")
    if not colon or (":" in host and not (host.startswith("[") and host.endswith("]"))):
        return words
    return [*words[:at], host, port, *words[at + 1:]]


def parse_bind(text: str) -> str:
    """A numeric address of this host, IPv6 bare or in brackets; `0.0.0.0` and `::` mean all."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    address = canonical_address(bare)
    if address is None:
        raise UsageError("not a numeric address; use one such as 127.0.0.1 or ::1, or 0.0.0.0 for all")
    return address


def canonical_address(text: str) -> str | None:
    """The one spelling of a numeric IPv4 or IPv6 address (with its `%scope`), None for anything else."""
    base, percent, scope = text.partition("%")
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            canonical = socket.inet_ntop(family, socket.inet_pton(family, base))
        except (OSError, ValueError):
            continue
        if not percent:
            return canonical
        if family == socket.AF_INET6 and 0 < len(scope) < 16 and _could_be_name(scope):
            return canonical + percent + scope
    return None


def is_loopback(host: str) -> bool:
    """Whether a name or numeric address means only this host."""
    for family, begins in ((socket.AF_INET, b"\x7f"), (socket.AF_INET6, (_IPV6_LOOPBACK, _IPV4_LOOPBACK_MAPPED))):
        try:
            return socket.inet_pton(family, host.partition("%")[0]).startswith(begins)
        except (OSError, ValueError):
            pass  # not of this family
    return host == "localhost"


def parse_name(text: str) -> str:
    """A name of anything, but not empty: that would be an unset variable, and not a request for the default."""
    if not text:
        raise UsageError("must not be empty")
    return text


def parse_command(text: str) -> list[str]:
    """A command's words, quoted as for a shell."""
    import shlex
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"not a valid command ({str(error).lower()})") from None
    if not words:
        raise UsageError("must not be empty")
    return words


def via_host(name: str) -> str:
    """What stands in known_hosts for a command, or for the name that the user gave it: one word."""
    return VIA_HOST + percent_encoded(name, "/@:+,")


def percent_encoded(text: str, safe: str = "") -> str:
    """As urllib.parse.quote; to import that takes 4 ms of the start of every ssh."""
    return "".join(character if character in _UNRESERVED or character in safe else
                   "".join(f"%{byte:02X}" for byte in character.encode()) for character in text)


def counted(count: int, noun: str) -> str:
    """`1 rule`, `2 rules`, for nouns whose plural takes an s."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def say_duration(seconds: float) -> str:
    """The two largest units: `3d 4h`, `2m 5s`."""
    seconds = int(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if seconds >= length or (unit == "s" and not parts):
            parts.append(f"{seconds // length}{unit}")
            seconds %= length
    return " ".join(parts[:2])


def escaped(text: str) -> str:
    """`text` with characters that would disturb a terminal or a line escaped as in Python."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def printable(text: str) -> str:
    """`text` as typed, but quoted if it is empty, has blanks or would disturb the terminal."""
    return text if text.isprintable() and text and " " not in text else ascii(text)


def say_ending(status: int) -> str:
    """How a process ended, from what waitpid(2) says: `exit status 1`, `SIGKILL`."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
