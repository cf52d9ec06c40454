"""Keys: what all of ours have in common, and how to recognise other programs'."""

from __future__ import annotations

import base64
import binascii
import re

SPKI_PREFIX = bytes.fromhex("302a300506032b6570032100")  # RFC 8410, section 10.1: all but the key itself
PKCS8_PREFIX = bytes.fromhex("302e020100300506032b657004220420")  # section 7: all but the private key itself

# What a file named by mistake may hold. PEM labels (RFC 7468) are in capital letters; those of OpenVPN's static keys,
# which are secrets, are not.
_FOREIGN = [(re.compile(pattern), what) for pattern, what in (
    (rb"-----BEGIN OPENSSH PRIVATE KEY-----", "an OpenSSH private key"),
    (rb"-----BEGIN ([A-Z0-9 ]{1,40})-----", "a PEM file with {}"),
    (rb"\A\s*PuTTY-User-Key-File-", "a PuTTY private key"),
    (rb"(?:\A|\s)mproxy-ed25519 [A-Za-z0-9+/]{20}", "a public key"),
    (rb"(?:\A|\s)(?:ssh|ecdsa|sk)-[a-z0-9@.-]{1,60} AAAA[A-Za-z0-9+/=]{16}", "an SSH public key"))]


def pem_block(pem: bytes | bytearray, label: bytes) -> bytes:
    """What the first block with that label holds (RFC 7468), in DER; empty when there is none, or it is damaged."""
    begin, end = b"-----BEGIN " + label + b"-----", b"-----END " + label + b"-----"
    start = pem.find(begin)
    stop = pem.find(end, start)
    try:
        return base64.b64decode(bytes(pem[start + len(begin):stop])) if 0 <= start < stop else b""
    except (binascii.Error, ValueError):
        return b""


def pem_text(der: bytes, label: bytes) -> bytes:
    """The block with that label that holds this."""
    encoded = base64.b64encode(der)
    lines = [encoded[at:at + 64] for at in range(0, len(encoded), 64)]
    return b"\n".join([b"-----BEGIN " + label + b"-----", *lines, b"-----END " + label + b"-----", b""])


def foreign_key(data: bytes | bytearray) -> str | None:
    """What a file holds, if it is recognised as neither a key file of ours nor a secret; else None."""
    for pattern, what in _FOREIGN:
        found = pattern.search(data)
        if found is not None:
            return what.format(*(group.decode() for group in found.groups()))
    return None
