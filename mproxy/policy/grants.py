"""What a client may do: one line of authorized_keys.

    [options ]mproxy-ed25519 BASE64 [comment]

Options are joined by commas, their values are in double quotes (\\" for a quote inside):

    target="HOST:PORT,..."   only these daemons; `*` as in sproxy's --allow
    listen="[ADDR:]PORT,..."  only there may cproxy -R listen; `*` as in sproxy's --allow-listen
    from="CIDR,..."          only from these addresses
    expiry="2027-01-31"      only until then; local time, or UTC with a Z: "2027-01-31T18:00Z"
    max-streams=N            most connections at once, in all sessions of the key together
    max-sessions=N           most sessions at once
    max-flows=N              most flows of datagrams at once, in all sessions of the key together
    cert-authority           the key is a CA's: it stands for each key for which it has signed a certificate
    principals="NAME,..."    with that: only certificates that name one of these

Nothing here reads a file or a clock.
"""

from __future__ import annotations

import time

from mproxy.ground.errors import UsageError
from mproxy.ground.forwarding import parse_permitted, parse_permitted_place, permits, permits_place
from mproxy.policy.keys import KEY_TYPE, parse_spki

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Network, IPv6Network
    from typing import Any

    from mproxy.policy.certificates import Certificate
    Network = IPv4Network | IPv6Network


class Grant:
    """What one line of authorized_keys allows. None in `targets`, `places`, `networks`, `expires_at`, `max_streams`,
    `max_sessions` or `max_flows`: the line does not say.

    `targets` and `places` are as in mproxy.ground.forwarding, compared as text; `expires_at` is in seconds since 1970.
    """

    __slots__ = ("spki", "line", "comment", "targets", "places", "networks", "expires_at", "max_streams",
                 "max_sessions", "max_flows", "is_authority", "principals", "narrowed_by")

    def __init__(self, spki: bytes, line: int, comment: str = "", options: dict[str, Any] | None = None) -> None:
        options = options or {}
        self.spki = spki
        self.line = line
        self.comment = comment
        self.targets: frozenset[tuple[str, int]] | None = options.get("target")
        self.places: frozenset[tuple[str, int]] | None = options.get("listen")
        self.networks: tuple[Network, ...] | None = options.get("from")
        self.expires_at: float | None = options.get("expiry")
        self.max_streams: int | None = options.get("max-streams")
        self.max_sessions: int | None = options.get("max-sessions")
        self.max_flows: int | None = options.get("max-flows")
        self.is_authority = "cert-authority" in options
        self.principals: frozenset[str] | None = options.get("principals")
        self.narrowed_by: Grant | None = None  # what a certificate says besides

    def refusal(self, host: str, now: float) -> str | None:
        """Why the key may not be used from the address `host` at `now` (seconds since 1970), or None."""
        if not self.is_current(now):
            return "the key's expiry date has passed"
        if self.networks is not None and not _within(host, self.networks):
            return "the key may not be used from this address"
        return self.narrowed_by.refusal(host, now) if self.narrowed_by is not None else None

    def is_current(self, now: float) -> bool:
        """Whether it has not expired."""
        return self.expires_at is None or now < self.expires_at

    @property
    def counts_in_one_process(self) -> bool:
        """Whether what its sessions open is counted, which all of them have to be in one process for."""
        return self.max_streams is not None or self.max_flows is not None

    def same_rights(self, other: Grant) -> bool:
        """Whether the line allows the same as another Grant's, whatever the keys."""
        return self._rights() == other._rights()

    def _rights(self) -> tuple[object, ...]:
        return (self.targets, self.places, self.networks, self.expires_at, self.max_streams, self.max_sessions,
                self.max_flows, self.narrowed_by and self.narrowed_by._rights())

    def allows_target(self, host: str, port: int) -> bool:
        """Whether streams may go to HOST:PORT, as far as this line is concerned."""
        if self.narrowed_by is not None and not self.narrowed_by.allows_target(host, port):
            return False
        return self.targets is None or any(permits(each, (host, port)) for each in self.targets)

    def allows_place(self, place: tuple[str, int]) -> bool:
        """Whether sproxy may listen there for the key, as far as this line is concerned."""
        if self.narrowed_by is not None and not self.narrowed_by.allows_place(place):
            return False
        return self.places is None or any(permits_place(each, place) for each in self.places)

    def vouched(self, data: bytes, spki: bytes, now: float, living: bool) -> Grant | None:
        """As the line of a CA: the Grant of a key that has shown the certificate `data`; None if another CA has signed
        that. `living`: a session has begun with it, so it may have expired. CertificateError."""
        from mproxy.policy.certificates import CLIENT, CertificateError, parse_certificate, say_names
        certificate = parse_certificate(data)
        if certificate.ca != self.spki:
            return None
        certificate.check(spki, CLIENT)
        certificate.check_time(now, living)
        if self.principals is not None and not self.principals.intersection(certificate.principals):
            raise CertificateError(f"the certificate is for {say_names(certificate.principals)}, who may not connect")
        return self._certified(certificate)

    def _certified(self, certificate: Certificate) -> Grant:
        """What both allow."""
        from mproxy.policy.certificates import OPTION_NAMES, CertificateError
        options = {}
        for name, value in certificate.critical.items():
            known = OPTION_NAMES.get(name)
            if known is None:
                raise CertificateError(f"the certificate has the unknown option {name[:60]!r}")
            try:
                options[known] = parse_option(known, value)
            except UsageError as error:
                raise CertificateError(f"option {name} of the certificate: {value[:60]!r}: {error}") from None
        grant = Grant(certificate.spki, self.line, certificate.say())
        inner = Grant(certificate.spki, self.line, "", options)
        grant.targets, grant.places, grant.networks = self.targets, self.places, self.networks
        grant.expires_at, grant.narrowed_by = self.expires_at, inner
        grant.max_streams = _least(self.max_streams, inner.max_streams)
        grant.max_flows = _least(self.max_flows, inner.max_flows)
        grant.max_sessions = _least(self.max_sessions, inner.max_sessions)
        return grant


def _least(one: int | None, other: int | None) -> int | None:
    return min((each for each in (one, other) if each is not None), default=None)


def parse_grant(text: str, number: int = 1) -> Grant:
    """The Grant of one line; UsageError says what is wrong with it."""
    options: dict[str, Any] = {}
    if text.split(None, 1)[:1] != [KEY_TYPE]:
        options, text = parse_options(text)
    if "principals" in options and "cert-authority" not in options:
        raise UsageError("option principals is for use with cert-authority")
    words = text.split(None, 2)
    is_ssh = "cert-authority" in options and words[:1] == ["ssh-ed25519"]
    if not words or (words[0] != KEY_TYPE and not is_ssh):
        raise UsageError(f"no {KEY_TYPE} key on this line")
    spki = None
    if len(words) > 1:
        spki = _parse_ssh_key(words[1]) if is_ssh else parse_spki(words[1])
    if spki is None:
        raise UsageError(f"what follows {words[0]} is not a valid key")
    return Grant(spki, number, words[2].strip() if len(words) > 2 else "", options)


def _parse_ssh_key(text: str) -> bytes | None:
    from mproxy.policy.certificates import parse_ssh_key
    return parse_ssh_key(text)


def parse_options(text: str) -> tuple[dict[str, Any], str]:
    """({name: parsed value}, the rest of the line) for a line that begins with options."""
    options = {}
    at = 0
    while True:
        end = at
        while end < len(text) and ((text[end].isascii() and text[end].isalpha()) or text[end] == "-"):
            end += 1
        name = text[at:end].lower()
        if name not in _OPTIONS:
            raise UsageError(f"unknown option {text[at:at + 40].split(' ')[0]!r};"
                             f" expected one of {', '.join(_OPTIONS)}")
        if name in options:
            raise UsageError(f"option {name} is given twice")
        value, at = "", end
        if name not in _SWITCHES:
            if text[end:end + 1] != "=":
                raise UsageError(f"option {name} needs a value: {name}=\"...\"")
            value, at = _read_value(text, end + 1, name)
        try:
            options[name] = parse_option(name, value)
        except UsageError as error:
            raise UsageError(f"option {name}: {value[:80]!r}: {error}") from None
        if text[at:at + 1] != ",":
            break
        at += 1
    if text[at:at + 1] not in (" ", "\t"):
        raise UsageError(f"a space or comma must follow option {name}")
    return options, text[at:].lstrip()


def parse_option(name: str, value: str) -> Any:
    """What the value of that option means; UsageError."""
    return _OPTIONS[name](value)


def _read_value(text: str, at: int, name: str) -> tuple[str, int]:
    """(value, where it ends): in double quotes, with \\" for a quote, or bare up to a blank or comma."""
    if text[at:at + 1] != '"':
        end = at
        while end < len(text) and text[end] not in ' \t,"':
            end += 1
        return text[at:end], end
    value = []
    at += 1
    while at < len(text) and text[at] != '"':
        at += text.startswith('\\"', at)
        value.append(text[at])
        at += 1
    if at >= len(text):
        raise UsageError(f"missing closing quote after option {name}")
    return "".join(value), at + 1


def _parse_targets(value: str) -> frozenset[tuple[str, int]]:
    return frozenset(parse_permitted(part.strip()) for part in value.split(","))


def _parse_places(value: str) -> frozenset[tuple[str, int]]:
    return frozenset(parse_permitted_place(part.strip()) for part in value.split(","))


def _parse_networks(value: str) -> tuple[Network, ...]:
    import ipaddress  # only this option needs it
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in value.split(","))
    except ValueError as error:
        raise UsageError(f"not a list of networks ({error})") from None


def _parse_expiry(value: str) -> float:
    """Local time, or UTC with a Z at the end: 2027-01-31, 2027-01-31T18:00, 20270131, 202701311800[SS]."""
    from datetime import UTC, datetime
    digits = value.removesuffix("Z")
    compact = digits.replace("-", "").replace(":", "").replace("T", "").replace(" ", "")
    layout = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}.get(len(compact))
    try:
        if layout is None or not (compact.isascii() and compact.isdigit()):
            raise ValueError
        moment = datetime.strptime(compact, layout)
        if value.endswith("Z"):
            return moment.replace(tzinfo=UTC).timestamp()
        return time.mktime(moment.timetuple())
    except (ValueError, OverflowError):
        raise UsageError("not a date; use 2027-01-31 or 2027-01-31T18:00, with Z for UTC") from None


def _parse_number(value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 9 and int(value) > 0):
        raise UsageError("not a number from 1 up")
    return int(value)


def _parse_principals(value: str) -> frozenset[str]:
    names = frozenset(part.strip() for part in value.split(","))
    if "" in names:
        raise UsageError("not a list of names")
    return names


_SWITCHES = {"cert-authority"}

_OPTIONS: dict[str, Callable[[str], Any]] = {
    "target": _parse_targets, "listen": _parse_places, "from": _parse_networks, "expiry": _parse_expiry,
    "max-streams": _parse_number, "max-sessions": _parse_number, "max-flows": _parse_number,
    "cert-authority": lambda _value: True, "principals": _parse_principals}


def _within(host: str, networks: tuple[Network, ...]) -> bool:
    """Whether a numeric address (IPv4 possibly as ::ffff:a.b.c.d, IPv6 possibly with %scope) is in one of them."""
    import ipaddress
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in network for network in networks)
