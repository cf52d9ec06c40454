"""Keys and certificates that count no more, whoever says otherwise: `sproxy --revoked-keys FILE`, one a line.

    mproxy-ed25519 BASE64        a key; of a CA: everything that it has signed
    key: ssh-ed25519 BASE64      the same in OpenSSH's words
    hash: SHA256:...             the same by the fingerprint that mproxy shows, or OpenSSH; also without `hash:`
    serial: 17                   certificates with that number; 17-30: with those from 17 to 30
    id: NAME                     certificates with that key id

The words are those of `ssh-keygen -k`. A line that is none of these may have been about anybody: then nobody comes in.
"""

from __future__ import annotations

import re

from mproxy._wire import CloseCode
from mproxy.ground.errors import MproxyError, PeerError, UsageError
from mproxy.ground.key_formats import SPKI_PREFIX
from mproxy.ground.words import parse_fingerprint, printable
from mproxy.policy.keys import KEY_TYPE, fingerprint, parse_spki
from mproxy.policy.trust import SETTLE_S, check_private, file_stamp, lines_of, read_list

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mproxy.policy.certificates import Certificate
    from mproxy.policy.trust import Stamp

SERIAL = re.compile(r"(\d{1,20})(?:\s*-\s*(\d{1,20}))?", re.ASCII)
SSH_PREFIX = b"\0\0\0\x0bssh-ed25519\0\0\0 "
BINARY = b"SSHKRL\n\0"  # how OpenSSH's other form of such a list begins


class Revocations:
    """What one file says."""

    def __init__(self) -> None:
        self.keys: set[str] = set()  # their fingerprints
        self.key_ids: set[str] = set()
        self.serials: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self.keys) + len(self.key_ids) + len(self.serials)

    def why(self, spki: bytes, certificate: Certificate | None) -> str | None:
        """Why a key with that certificate does not count; None: it does."""
        if not self.keys.isdisjoint(_names(spki)):
            return f"the key is revoked: {fingerprint(spki)}"
        if certificate is None:
            return None
        if not self.keys.isdisjoint(_names(certificate.ca)):
            return f"the CA of the certificate is revoked: {certificate.say()}"
        if certificate.key_id in self.key_ids or any(
                first <= certificate.serial <= last for first, last in self.serials):
            return f"the certificate is revoked: {certificate.say()}"
        return None


def _names(spki: bytes) -> tuple[str, str]:
    """A key's fingerprint, and the one that OpenSSH shows: of its own form of the key."""
    return fingerprint(spki), fingerprint(SSH_PREFIX + spki.removeprefix(SPKI_PREFIX))


def parse_revoked(data: bytes, path: str) -> Revocations:
    """What the file's bytes say; MproxyError names the line that says nothing."""
    if data.startswith(BINARY):
        raise MproxyError(f"{path} is a binary list of OpenSSH; mproxy takes the text that 'ssh-keygen -k' reads")
    revoked = Revocations()
    for number, text in lines_of(data):
        try:
            _parse(text, revoked)
        except UsageError as error:
            raise MproxyError(f"{path}:{number}: {error}") from None
    return revoked


def _parse(text: str, revoked: Revocations) -> None:
    name, colon, value = text.partition(":")
    name, value = name.strip().lower(), value.strip()
    if not colon or " " in name:
        name, value = "key", text
    elif name == "sha256" and " " not in value:
        name, value = "hash", f"SHA256:{value}"
    if name == "hash":
        revoked.keys.add(parse_fingerprint(value))
    elif name == "id" and value:
        revoked.key_ids.add(value)
    elif name == "serial":
        found = SERIAL.fullmatch(value)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if first > last:
            raise UsageError(f"not a serial number, nor two as in 17-30: {printable(value[:60])}")
        revoked.serials.append((first, last))
    elif name in ("key", "sha256"):
        revoked.keys.add(fingerprint(_parse_key(value)))
    else:
        raise UsageError(f"not a revocation: {printable(text[:60])}; expected a key, or one of hash:, serial:, id:")


def _parse_key(text: str) -> bytes:
    kind, _blank, rest = text.partition(" ")
    word = (rest.split(None, 1) or [""])[0]
    if kind == KEY_TYPE:
        spki = parse_spki(word)
    else:
        from mproxy.policy.certificates import (
            CERTIFICATE_TYPE,
            SSH_KEY_TYPE,
            parse_certificate,
            parse_certificate_line,
            parse_ssh_key,
        )
        if kind == CERTIFICATE_TYPE:
            try:
                return parse_certificate(parse_certificate_line(text)).spki
            except MproxyError as error:
                raise UsageError(str(error)) from None
        spki = parse_ssh_key(word) if kind == SSH_KEY_TYPE else None
    if spki is None:
        raise UsageError(f"not a key: {printable(text[:60])}; expected {KEY_TYPE} BASE64")
    return spki


class RevokedKeys:
    """The list in a file, which is read again when it changes. As long as it cannot be read, or says something that
    nobody understands, newcomers are refused. They are refused by what it says now and by what it has said for
    SETTLE_S, sessions by the latter alone: a file that is just being written decides nothing."""

    def __init__(self, path: str, warn: Callable[[str], object]) -> None:
        self.path = path
        self.problem: str | None = None
        self._warn = warn
        self._stamp: Stamp | str | None = "not read yet"
        self._current = self._settled = Revocations()
        self._changed_at: float | None = None
        self.changed(0.0)
        self.settle()

    def __len__(self) -> int:
        return len(self._current)

    def changed(self, now: float) -> bool:
        """Read the file again if it has changed; returns whether it had. `now`: of a clock that does not go back."""
        try:
            stamp = file_stamp(self.path)
        except PermissionError:
            stamp = None
        if stamp == self._stamp and self.problem is None:
            return False
        current, problem = self._current, None
        try:
            check_private(self.path)
            current = parse_revoked(read_list(self.path), self.path)
        except (MproxyError, OSError) as error:
            problem = str(getattr(error, "strerror", None) or error)
        if stamp == self._stamp and problem == self.problem:
            return False
        self._stamp, self._current, self.problem, self._changed_at = stamp, current, problem, now
        if problem is not None:
            self._warn(f"nobody may connect: {problem}")
        return True

    def settles(self, now: float) -> bool:
        """Whether sessions are to be checked again at `now`: the file has been unchanged for long enough."""
        if self._changed_at is None or now - self._changed_at < SETTLE_S or self.problem is not None:
            return False
        self.settle()
        return True

    def settle(self) -> None:
        """Judge everybody by the file as it was last read."""
        self._settled = self._current
        self._changed_at = None

    def check(self, spki: bytes, certificate: bytes, living: bool) -> None:
        """PeerError if a key with that certificate counts no more; `living`: it has a session."""
        if not living and self.problem is not None:
            raise PeerError(CloseCode.KEY_REFUSED, "the list of revoked keys cannot be read")
        shown = None
        if certificate:
            from mproxy.policy.certificates import parse_certificate
            try:
                shown = parse_certificate(certificate)
            except MproxyError:
                pass  # it lets nobody in
        for each in (self._settled,) if living else (self._current, self._settled):
            why = each.why(spki, shown)
            if why is not None:
                raise PeerError(CloseCode.KEY_REFUSED, why)
