"""Where streams lead, as people write it: targets, forwards like ssh's, and what sproxy permits.

A target is (host, port), or (path, 0) for a unix socket, whose path begins with a slash. Where applications connect is
written in the same way: host "" stands for the addresses that the program listens on anyway.

What is permitted is a target, too, with a host of `*` (any), `*.example.com` (any below it), or a port of 0 (any).

A place is where cproxy has sproxy listen: host "" stands for sproxy's loopback addresses, `*` for every address. What
is permitted of places is one, with a host of `*` (any) or a port of 0 (any).
"""

from __future__ import annotations

from mproxy.ground.config import format_host_port
from mproxy.ground.errors import UsageError
from mproxy.ground.words import is_loopback, parse_bind, parse_host, parse_host_port, parse_port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.ground.shapes import Forward, Spot

# What an address of a unix socket has room for (unix(7)).
PATH_BYTES = 107

ANYWHERE = "*"

# Ports below this one are the system's.
UNPRIVILEGED = 1024


def is_path(host: str) -> bool:
    """Whether it is not a host, but the path of a unix socket."""
    return host.startswith("/")


def say_target(host: str, port: int) -> str:
    """A target as it stands in OPEN; the port of what is permitted may be `*`."""
    return host if is_path(host) else format_host_port(host, port or ANYWHERE)


def parse_target(text: str) -> Spot:
    """`HOST:PORT`, or the path of a unix socket."""
    return _parse_path(text) if is_path(text) else parse_host_port(text)


def parse_permitted(text: str) -> Spot:
    """A target, `HOST:*`, `*:PORT`, `*.example.com:PORT` or `*:*`."""
    host, colon, port = text.rpartition(":")
    if is_path(text) or not colon or ANYWHERE not in text:
        return parse_target(text)
    number = 0 if port == ANYWHERE else parse_port(port)
    if host == ANYWHERE:
        return host, number
    if host.startswith("*."):
        return f"*.{parse_host(host[2:])}", number
    if not host or (":" in host and not host.startswith("[")):
        raise UsageError("not HOST:PORT; a * may stand for all of HOST or PORT, or begin HOST: *.example.com:443")
    return parse_host(host), number


def is_wide(permitted: Spot) -> bool:
    """Whether clients choose the host."""
    return permitted[0].startswith(ANYWHERE)


def permits(permitted: Spot, target: Spot) -> bool:
    """Whether a target is among those."""
    host, port = permitted
    if port not in (0, target[1]) or is_path(host) != is_path(target[0]):
        return False
    return host in (ANYWHERE, target[0]) or (host.startswith("*.") and target[0].endswith(host[1:]))


def parse_spot(text: str) -> Spot:
    """Where to listen: `PORT`, `ADDRESS:PORT`, or the path of a unix socket; `*` is every address."""
    return _parse_listening(_fields(text), "not [ADDRESS:]PORT or /PATH")


def parse_forward(text: str) -> Forward:
    """`[ADDRESS:]PORT:HOST:PORT`, with a /PATH on either side of what is before and behind the middle."""
    wrong = "not [ADDRESS:]PORT:HOST:PORT, such as 8080:intranet:80; a /PATH may stand on either side"
    fields = _fields(text)
    if len(fields) >= 2 and is_path(fields[-1]):
        target = _parse_path(fields.pop())
    elif len(fields) >= 3:
        port = parse_port(fields.pop())
        target = parse_host(fields.pop()), port
    else:
        raise UsageError(wrong)
    return _parse_listening(fields, wrong), target


def parse_udp_forward(text: str) -> Forward:
    """`[ADDRESS:]PORT:HOST:PORT`, for datagrams."""
    fields = _fields(text)
    if len(fields) < 3 or any(is_path(each) for each in fields):
        raise UsageError("not [ADDRESS:]PORT:HOST:PORT, such as 5353:10.0.0.2:53")
    return parse_forward(text)


def say_place(place: Spot) -> str:
    """A place as it stands in LISTEN."""
    host, port = place
    return host if is_path(host) else format_host_port(host or "localhost", port)


def is_wide_place(permitted: Spot) -> bool:
    """Whether clients choose the address or the port."""
    return permitted[0] == ANYWHERE or (permitted[1] == 0 and not is_path(permitted[0]))


def parse_permitted_place(text: str) -> Spot:
    """`PORT` (on the loopback addresses), `ADDRESS:PORT`, or the path of a unix socket; `*` may be all of either."""
    host, colon, port = text.rpartition(":")
    if is_path(text) or port != ANYWHERE:
        return parse_spot(text)
    return _parse_listening([*_fields(host), "0"] if colon else ["0"], "not [ADDRESS:]PORT or /PATH")


def permits_place(permitted: Spot, place: Spot) -> bool:
    """Whether a place is among those. Ports below 1024 are only where they are named."""
    host, port = permitted
    if is_path(host) or is_path(place[0]):
        return permitted == place
    if not (place[1] == port if port else place[1] == 0 or place[1] >= UNPRIVILEGED):
        return False
    return host in (ANYWHERE, place[0]) or (not host and is_loopback(place[0]))


def _parse_listening(fields: list[str], wrong: str) -> Spot:
    if len(fields) == 1:
        return _parse_path(fields[0]) if is_path(fields[0]) else ("", parse_port(fields[0], lowest=0))
    if len(fields) != 2 or is_path(fields[0]):
        raise UsageError(wrong)
    host, port = fields[0], parse_port(fields[1], lowest=0)
    if host in ("", ANYWHERE):
        return ANYWHERE, port
    return "" if host == "localhost" else parse_bind(host), port


def _parse_path(text: str) -> Spot:
    if len(text.encode()) > PATH_BYTES:
        raise UsageError(f"the path of a unix socket has at most {PATH_BYTES} bytes")
    if not text.isprintable() or text.endswith("/"):
        raise UsageError("not the path of a unix socket")
    return text, 0


def _fields(text: str) -> list[str]:
    """What stands between colons, of which those in brackets do not count."""
    fields, depth = [""], 0
    for char in text:
        depth += (char == "[") - (char == "]")
        if char == ":" and depth == 0:
            fields.append("")
        else:
            fields[-1] += char
    return fields
