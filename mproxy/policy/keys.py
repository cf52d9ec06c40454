"""Keys: Ed25519, in self-signed certificates that are mere containers for them.

A key file is PEM: the private key (PKCS #8), then the certificate. A key is identified by its `spki`, the DER
SubjectPublicKeyInfo of 44 bytes (RFC 8410, section 4); names and dates in the certificate mean nothing.

Private keys are in bytearrays, which `wipe` clears.
"""

from __future__ import annotations

import base64
import binascii
import errno
import hashlib
import os
import stat

from mproxy.ground._curves import ed25519_public_of, ed25519_sign
from mproxy.ground._wipe import wipe
from mproxy.ground.errors import MproxyError
from mproxy.ground.key_formats import PKCS8_PREFIX, SPKI_PREFIX, foreign_key, pem_block, pem_text
from mproxy.ground.private_directory import make_private_directory
from mproxy.io import heirlooms

KEY_TYPE = "mproxy-ed25519"
SPKI_BYTES = 44
KEY_BYTES = 32

# A key file has about 700 bytes.
_MOST_BYTES = 16384

_LABEL = b"CERTIFICATE"

# Elements of a certificate: its version; the algorithm (RFC 8410, section 3); the kind of name (X.520).
_VERSION_3 = bytes.fromhex("a003020102")
_ED25519 = bytes.fromhex("300506032b6570")
_COMMON_NAME = bytes.fromhex("0603550403")


class Identity:
    """A key of our own: its file and what the peer will see of it. `pem` is a bytearray; wipe it after use."""

    def __init__(self, path: str, pem: bytearray) -> None:
        self.path = path
        self.pem = pem
        self.spki = find_spki(pem, path)

    @property
    def fingerprint(self) -> str:
        """The fingerprint that the peer's log shows."""
        return fingerprint(self.spki)


def fingerprint(spki: bytes) -> str:
    """`SHA256:...` of a key, as ssh prints it: base64 without padding."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(spki).digest()).decode().rstrip("=")


def public_line(spki: bytes, comment: str = "") -> str:
    """The key as a line of authorized_keys; a comment may have only printable characters and blanks."""
    words = "".join(char if char.isprintable() else "?" for char in comment).split()
    return " ".join([KEY_TYPE, base64.b64encode(spki).decode(), *words])


def parse_spki(text: str) -> bytes | None:
    """The key after KEY_TYPE in a line of a file; None if it is not a valid key."""
    try:
        spki = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return spki if len(spki) == SPKI_BYTES and spki.startswith(SPKI_PREFIX) else None


def find_spki(pem: bytes | bytearray, path: str) -> bytes:
    """The key of the one certificate in a PEM text; MproxyError naming `path` if there is none."""
    der = pem_block(pem, _LABEL)
    at = der.find(SPKI_PREFIX)
    if at < 0 or len(der) < at + SPKI_BYTES:
        foreign = foreign_key(pem) if b"-----BEGIN " + _LABEL not in pem else None
        if foreign is not None:
            raise MproxyError(f"{path} is {foreign}, not one of mproxy: create one with 'mproxy keygen'")
        raise MproxyError(f"{path} contains no Ed25519 certificate; move it away and a new key will be created")
    return der[at:at + SPKI_BYTES]


# ---- files

def take_identity(path: str | None, outlive: bool = False) -> tuple[Identity, bool]:
    """The Identity in the file `path`, made now if there is none: (Identity, whether it is new).

    Without a path the key is only for this process. MproxyError if others could have read or changed the file.
    `outlive`: the next build of the program is to have it, even if it may not open the file.
    """
    if path is None:
        return Identity("memory", fresh_pem()), True
    identity = read_identity(path, outlive)
    if identity is not None:
        return identity, False
    pem = fresh_pem()
    is_new = write_new(path, pem)  # or another process was faster
    wipe(pem)
    identity = read_identity(path, outlive)
    if identity is None:
        raise MproxyError(f"the key {path} vanished while it was being created")
    return identity, is_new


def read_identity(path: str, outlive: bool = False) -> Identity | None:
    """The Identity in the file `path`; None if there is no such file."""
    heirloom = f"key {path}"
    given = heirlooms.take(heirloom) if outlive and not os.access(path, os.R_OK) else None
    try:
        fd = given if given is not None else os.open(
            path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        why = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise MproxyError(f"cannot read the key {path}: {why}") from None
    if outlive and (given is not None or os.geteuid() == 0):  # root may become somebody who cannot read it
        heirlooms.note(heirloom, os.dup(fd))
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise MproxyError(f"the key {path} is not a regular file")
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o077:
            raise MproxyError(f"the key {path} is accessible to other users: it must belong to you and have mode 0600"
                              " (chmod 600)")
        pem = bytearray(_MOST_BYTES)
        length = os.preadv(fd, [pem], 0)
        wipe_from(pem, length)
        return Identity(path, pem)
    finally:
        os.close(fd)


def wipe_from(buffer: bytearray, length: int) -> None:
    """Shorten a bytearray whose rest was never used, without copying it."""
    del buffer[length:]


def write_new(path: str, data: bytes | bytearray) -> bool:
    """Write a new file of mode 0600; False, with nothing changed, if it exists.

    Others see either the whole file or none.
    """
    directory, name = os.path.split(os.path.abspath(path))
    make_private_directory(directory)
    temporary = os.path.join(directory, f".{name}.{os.urandom(8).hex()}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb", buffering=0) as file:
                file.write(data)
                os.fsync(file.fileno())
            os.link(temporary, path)
        finally:
            os.unlink(temporary)
        sync_directory(directory)
    except FileExistsError:
        return False
    except OSError as error:
        raise MproxyError(f"cannot write {path}: {error.strerror}") from None
    return True


def sync_directory(directory: str) -> None:
    """Write the names in a directory out to the disk."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# ---- making a key

def fresh_pem() -> bytearray:
    """A new key and its certificate as PEM, in a bytearray."""
    seed = os.urandom(KEY_BYTES)
    private = bytearray(PKCS8_PREFIX + bytes(KEY_BYTES))
    private[len(PKCS8_PREFIX):] = seed
    encoded = binascii.b2a_base64(private, newline=False)  # in one line: it has 64 characters
    beginning, end = b"-----BEGIN PRIVATE KEY-----\n", b"\n-----END PRIVATE KEY-----\n"
    rest = end + pem_text(_certificate(seed), _LABEL)
    pem = bytearray(len(beginning) + len(encoded) + len(rest))  # it must not grow: what it leaves behind is not wiped
    pem[:len(beginning)] = beginning
    pem[len(beginning):-len(rest)] = encoded
    pem[-len(rest):] = rest
    for secret in (seed, private, encoded):
        wipe(secret)
    return pem


def _certificate(seed: bytes) -> bytes:
    """A certificate for the key that it is signed with (RFC 5280, section 4.1), in DER."""
    serial = b"\x40" + os.urandom(15)  # positive, and of no more bytes than it needs
    name = _der(0x30, _der(0x31, _der(0x30, _COMMON_NAME + _der(0x0C, b"mproxy"))))
    # A key does not age by the calendar, and a clock that jumps must not lock anybody out (section 4.1.2.5).
    validity = _der(0x30, _der(0x17, b"000101000000Z") + _der(0x18, b"99991231235959Z"))
    words = _der(0x30, (_VERSION_3 + _der(0x02, serial) + _ED25519 + name + validity + name
                        + SPKI_PREFIX + ed25519_public_of(seed)))
    return _der(0x30, words + _ED25519 + _der(0x03, b"\0" + ed25519_sign(seed, words)))


def _der(tag: int, content: bytes) -> bytes:
    """One element, shorter than 65536 bytes."""
    length = len(content)
    size = bytes([length]) if length < 0x80 else b"\x81" + bytes([length]) if length < 0x100 else (
        b"\x82" + length.to_bytes(2))
    return bytes([tag]) + size + content
