"""Lines of known_hosts about many hosts, as ssh has them.

    @cert-authority PATTERNS mproxy-ed25519 BASE64 [comment]   a CA's key: its certificates say which keys hosts have
    @revoked PATTERNS mproxy-ed25519 BASE64 [comment]          a key, of a host or of a CA, that counts no more

PATTERNS are joined by commas: names of hosts, with * and ?, with or without a port (`*.example.com`, `10.0.0.1:6200`);
one after ! excludes. Keys may also be in OpenSSH's form, `ssh-ed25519 BASE64`.
"""

from __future__ import annotations

from mproxy._wire import CloseCode
from mproxy.ground.config import say_place
from mproxy.ground.errors import MproxyError, PeerError, UsageError
from mproxy.policy.certificates import SSH_KEY_TYPE, check_host, matches, parse_certificate, parse_ssh_key
from mproxy.policy.keys import KEY_TYPE, fingerprint, parse_spki

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

AUTHORITY, REVOKED = "@cert-authority", "@revoked"


class HostMark:
    """One such line."""

    __slots__ = ("is_revoked", "line", "patterns", "spki")

    def __init__(self, line: int, is_revoked: bool, patterns: Sequence[str], spki: bytes) -> None:
        self.line = line
        self.is_revoked = is_revoked
        self.patterns = tuple(patterns)
        self.spki = spki

    def is_about(self, host: str, port: int) -> bool:
        """Whether it is about that host."""
        names = (host, say_place(host, port))
        found = False
        for pattern in self.patterns:
            if any(matches(name, pattern.removeprefix("!")) for name in names):
                if pattern.startswith("!"):
                    return False
                found = True
        return found


def parse_mark(text: str, number: int) -> HostMark:
    """The line with that number, which begins with an @; UsageError."""
    words = text.split(None, 4)
    if words[0] not in (AUTHORITY, REVOKED):
        raise UsageError(f"unknown marker; expected {AUTHORITY} or {REVOKED}")
    spki = None
    if len(words) > 3:
        parse = {KEY_TYPE: parse_spki, SSH_KEY_TYPE: parse_ssh_key}.get(words[2])
        spki = parse(words[3]) if parse is not None else None
    if spki is None:
        raise UsageError(f"no {KEY_TYPE} key after the hosts")
    return HostMark(number, words[0] == REVOKED, words[1].split(","), spki)


def judge_marks(marks: Sequence[HostMark], path: str | None, endpoint: tuple[str, int], spki: bytes,
                certificate: bytes, now: float) -> str | None:
    """Whether a CA vouches for the key of (host, port) at `now` (seconds since 1970); None if one does, else why not,
    and "" if there is none for that host. PeerError if the key is revoked."""
    shown, why = None, "it shows no certificate"
    if certificate:
        try:
            shown = parse_certificate(certificate)
        except MproxyError as error:
            why = str(error)
    about = [mark for mark in marks if mark.is_about(*endpoint)]
    for mark in about:
        if mark.is_revoked and mark.spki in (spki, shown and shown.ca):
            what = "the key of" if mark.spki == spki else "the CA of the certificate of"
            raise PeerError(CloseCode.KEY_REFUSED,
                            f"{what} {say_place(*endpoint)} is revoked by {path}:{mark.line}: {fingerprint(mark.spki)}")
    authorities = [mark for mark in about if not mark.is_revoked]
    if not authorities:
        return ""
    if shown is not None:
        why = f"the certificate is of another CA, {fingerprint(shown.ca)}"
        if any(mark.spki == shown.ca for mark in authorities):
            try:
                check_host(shown, spki, endpoint[0], now)
            except MproxyError as error:
                why = str(error)
            else:
                return None
    return (f"the key {fingerprint(spki)} of {say_place(*endpoint)} is not known, and a host of that name has to show a"
            f" certificate of the CA in {path}:{authorities[0].line}: {why}")
