"""Certificates: a CA says that a key belongs to somebody, for some time. OpenSSH's format, for Ed25519 keys.

    string ssh-ed25519-cert-v01@openssh.com | string nonce | string key | uint64 serial | uint32 role
    string key id | string principals | uint64 valid after | uint64 valid before
    string critical options | string extensions | string reserved | string CA's key | string signature

(PROTOCOL.certkeys of OpenSSH; a string is its length in 4 bytes, and so many bytes.) So `ssh-keygen -s` makes them,
too, with whatever keeps the CA's key. Nothing here reads a file or a clock.
"""

from __future__ import annotations

import base64
import binascii
import functools
import os
import struct

from mproxy.ground._curves import ed25519_public_of, ed25519_sign, ed25519_verify
from mproxy.ground.errors import MproxyError
from mproxy.ground.key_formats import SPKI_PREFIX
from mproxy.ground.words import printable
from mproxy.policy.keys import fingerprint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

CERTIFICATE_TYPE = "ssh-ed25519-cert-v01@openssh.com"
SSH_KEY_TYPE = "ssh-ed25519"

# Both carriers show one of that length with a key (carrier/_container, transport/keying).
MOST_BYTES = 800

# Roles, as on the wire: who may show the certificate.
CLIENT, HOST = 1, 2
ROLES = {CLIENT: "client", HOST: "host"}

FOR_EVER = (1 << 64) - 1

KEY_BYTES, NONCE_BYTES, SIGNATURE_BYTES = 32, 32, 64

# Critical options that bind a client: one of OpenSSH, and those of authorized_keys, by the names that they have there.
OPTION_NAMES = {"source-address": "from", **{f"{name}@mproxy": name for name in (
    "target", "listen", "max-streams", "max-sessions")}}


class CertificateError(MproxyError):
    """It is not a certificate, or does not count here: why, in words."""


class Certificate:
    """What a CA has signed. `spki` and `ca` are keys as DER SubjectPublicKeyInfo; times in seconds since 1970."""

    __slots__ = ("ca", "critical", "extensions", "key_id", "principals", "role", "serial", "spki", "valid_after",
                 "valid_before")

    def __init__(self, *, spki: bytes, ca: bytes, serial: int, role: int, key_id: str, principals: Sequence[str],
                 valid_after: int, valid_before: int, critical: Mapping[str, str] | None = None,
                 extensions: Mapping[str, str] | None = None) -> None:
        self.spki = spki
        self.ca = ca
        self.serial = serial
        self.role = role
        self.key_id = key_id
        self.principals = tuple(principals)
        self.valid_after = valid_after
        self.valid_before = valid_before  # FOR_EVER: it does not expire
        self.critical = dict(critical or {})
        self.extensions = dict(extensions or {})

    def check(self, spki: bytes, role: int) -> None:
        """CertificateError unless it is one for that key, in that role."""
        if self.spki != spki:
            raise CertificateError("the certificate is for another key")
        if self.role != role:
            raise CertificateError(f"the certificate is for a {ROLES[self.role]}, not for a {ROLES[role]}")

    def check_time(self, now: float, living: bool = False) -> None:
        """CertificateError unless it is valid at `now`; of a session that began with it, it need not have ended."""
        if now < self.valid_after:
            raise CertificateError(f"the certificate is not valid before {say_time(self.valid_after)}")
        if now >= self.valid_before and not living:
            raise CertificateError(f"the certificate expired at {say_time(self.valid_before)}")

    def say(self) -> str:
        """Whose it is, for the log: by that it can be revoked."""
        return f"{printable(self.key_id[:60])} (serial {self.serial}, CA {fingerprint(self.ca)})"


# ---- reading

@functools.lru_cache(maxsize=1024)
def parse_certificate(data: bytes) -> Certificate:
    """The certificate in these bytes, whose signature is right; CertificateError."""
    if len(data) > MOST_BYTES:
        raise CertificateError(f"the certificate has {len(data)} bytes, and may have {MOST_BYTES}: name fewer"
                               " principals or options")
    reader = _Reader(data)
    kind = reader.text()
    if kind != CERTIFICATE_TYPE:
        raise CertificateError(f"the certificate is of the type {printable(kind[:60])}, not {CERTIFICATE_TYPE}")
    reader.string()  # the nonce
    key = reader.string()
    serial, role = reader.number(8), reader.number(4)
    key_id = reader.text()
    principals = [each.text() for each in reader.items()]
    valid_after, valid_before = reader.number(8), reader.number(8)
    critical, extensions = _options(reader), _options(reader)
    reader.string()  # reserved
    authority = _Reader(reader.string())
    signed = data[:reader.at]
    signature = _Reader(reader.string())
    ca, mark = _signed_by(authority, signature)
    if len(key) != KEY_BYTES or not reader.is_over:
        raise CertificateError(MALFORMED)
    if role not in ROLES:
        raise CertificateError(f"the certificate has the unknown role {role}")
    if not ed25519_verify(ca, mark, signed):
        raise CertificateError("the signature of the certificate is wrong")
    return Certificate(
        spki=SPKI_PREFIX + key, ca=SPKI_PREFIX + ca, serial=serial, role=role, key_id=key_id, principals=principals,
        valid_after=valid_after, valid_before=valid_before, critical=critical, extensions=extensions)


MALFORMED = "the certificate is malformed"


def _signed_by(authority: _Reader, signature: _Reader) -> tuple[bytes, bytes]:
    """The key of the CA and its signature."""
    kind = authority.text()
    if kind != SSH_KEY_TYPE:
        raise CertificateError(f"the certificate is signed with a key of the type {printable(kind[:60])}; a CA must"
                               f" have one of the type {SSH_KEY_TYPE}")
    ca, kind, mark = authority.string(), signature.text(), signature.string()
    if (kind != SSH_KEY_TYPE or len(ca) != KEY_BYTES or len(mark) != SIGNATURE_BYTES or not authority.is_over
            or not signature.is_over):
        raise CertificateError(MALFORMED)
    return ca, mark


def _options(reader: _Reader) -> dict[str, str]:
    """{name: value}; a value is a string in a string, or nothing."""
    options: dict[str, str] = {}
    inner = _Reader(reader.string())
    while not inner.is_over:
        name, value = inner.text(), _Reader(inner.string())
        if name in options:
            raise CertificateError(f"the certificate has the option {printable(name[:60])} twice")
        options[name] = "" if value.is_over else value.text()
        if not value.is_over:
            raise CertificateError(MALFORMED)
    return options


class _Reader:
    """Takes one thing after another from bytes; CertificateError at their end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    @property
    def is_over(self) -> bool:
        return self.at == len(self._data)

    def _take(self, length: int) -> bytes:
        if length > len(self._data) - self.at:
            raise CertificateError(MALFORMED)
        self.at += length
        return self._data[self.at - length:self.at]

    def number(self, length: int) -> int:
        return int.from_bytes(self._take(length))

    def string(self) -> bytes:
        return self._take(self.number(4))

    def text(self) -> str:
        try:
            return self.string().decode()
        except UnicodeDecodeError:
            raise CertificateError(MALFORMED) from None

    def items(self) -> Iterator[_Reader]:
        """A reader in front of each string in a string."""
        inner = _Reader(self.string())
        while not inner.is_over:
            yield inner


# ---- making

def encode_certificate(certificate: Certificate, seed: bytes | bytearray) -> bytes:
    """It as bytes, signed with the CA's private key; CertificateError if it cannot be shown."""
    ca = ed25519_public_of(seed)
    words = (
        _string(CERTIFICATE_TYPE), _string(os.urandom(NONCE_BYTES)), _string(certificate.spki[len(SPKI_PREFIX):]),
        struct.pack(">QI", certificate.serial, certificate.role), _string(certificate.key_id),
        _string(b"".join(map(_string, certificate.principals))),
        struct.pack(">QQ", certificate.valid_after, certificate.valid_before),
        _encode_options(certificate.critical), _encode_options(certificate.extensions), _string(b""),
        _string(_string(SSH_KEY_TYPE) + _string(ca)))
    data = b"".join(words)
    data += _string(_string(SSH_KEY_TYPE) + _string(ed25519_sign(seed, data)))
    parse_certificate(data)
    return data


def _string(data: bytes | str) -> bytes:
    data = data.encode() if isinstance(data, str) else data
    return len(data).to_bytes(4) + data


def _encode_options(options: Mapping[str, str]) -> bytes:
    """In the order of their names, as the format wants it."""
    return _string(b"".join(_string(name) + _string(_string(value) if value else b"")
                            for name, value in sorted(options.items())))


# ---- lines of files

def certificate_line(data: bytes, comment: str = "") -> str:
    """It as the one line of a file, as ssh-keygen writes it."""
    return " ".join([CERTIFICATE_TYPE, base64.b64encode(data).decode(), *printable(comment).split()])


def parse_certificate_line(text: str) -> bytes:
    """The bytes of the certificate in the first line of a file that says something; CertificateError."""
    for line in text.splitlines():
        words = line.split(None, 2)
        if not words or words[0].startswith("#"):
            continue
        if words[0] != CERTIFICATE_TYPE or len(words) < 2:
            break
        try:
            return base64.b64decode(words[1], validate=True)
        except (binascii.Error, ValueError):
            break
    raise CertificateError(f"contains no certificate: its line must begin with {CERTIFICATE_TYPE}")


def parse_ssh_key(text: str) -> bytes | None:
    """The key after `ssh-ed25519` in a line, as DER SubjectPublicKeyInfo; None if it is not a valid one."""
    try:
        reader = _Reader(base64.b64decode(text, validate=True))
        kind, key = reader.text(), reader.string()
    except (CertificateError, binascii.Error, ValueError):
        return None
    return SPKI_PREFIX + key if kind == SSH_KEY_TYPE and len(key) == KEY_BYTES and reader.is_over else None


def ssh_public_line(spki: bytes, comment: str = "") -> str:
    """The key as OpenSSH writes it."""
    words = _string(SSH_KEY_TYPE) + _string(spki[len(SPKI_PREFIX):])
    return " ".join([SSH_KEY_TYPE, base64.b64encode(words).decode(), *printable(comment).split()])


# ---- what it says

def matches(name: str, pattern: str) -> bool:
    """Whether a host's name is one of a pattern, in which * stands for any letters, and ? for one."""
    name, pattern = name.lower(), pattern.lower()
    at = place = 0
    star, tried = -1, 0  # the last * and how much of the name it does not stand for
    while at < len(name):
        if place < len(pattern) and pattern[place] == "*":
            star, tried = place, at
            place += 1
        elif place < len(pattern) and pattern[place] in (name[at], "?"):
            at += 1
            place += 1
        elif star >= 0:
            tried += 1
            at, place = tried, star + 1
        else:
            return False
    return not pattern[place:].strip("*")


def check_host(certificate: Certificate, spki: bytes, host: str, now: float) -> None:
    """CertificateError unless it is one of the host of that name, with that key, at `now` (seconds since 1970)."""
    certificate.check(spki, HOST)
    certificate.check_time(now)
    if certificate.critical:
        raise CertificateError(f"the certificate has the unknown option {printable(min(certificate.critical)[:60])}")
    if certificate.principals and not any(matches(host, each) for each in certificate.principals):
        raise CertificateError(f"the certificate is for {say_names(certificate.principals)}, not for {host}")


def say_names(names: Sequence[str]) -> str:
    """Some of them, for a line of the log."""
    shown = ", ".join(printable(name[:60]) for name in names[:4])
    return f"{shown} and {len(names) - 4} others" if len(names) > 4 else shown or "nobody"


def say_time(seconds: int) -> str:
    """A time as text, in UTC; seconds since 1970."""
    from datetime import UTC, datetime
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return "a time that is too far away"
