"""Keys for a connection: which Noise protocol is spoken, with which key, and whether the peer's key is trusted.

The first byte of the first handshake message is a Suite; it is part of the prologue, with everything that the set-up of
the connection has agreed on, so nobody between can change any of it.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import hmac
import os
import re
import stat

from mproxy.ground._curves import ed25519_public_of
from mproxy.ground.errors import PeerError, UsageError
from mproxy.ground.key_formats import PKCS8_PREFIX, SPKI_PREFIX, foreign_key, pem_block
from mproxy.ground.words import counted
from mproxy.transport._seal import Cipher
from mproxy.transport.noise import Handshake, NoiseError, x25519_key, x25519_public

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mproxy.ground._curves import X25519Key
    from mproxy.transport._link import Link


class Suite(enum.IntEnum):
    NNPSK0_AESGCM = 1
    NNPSK0_CHACHAPOLY = 2
    XX_AESGCM = 3
    XX_CHACHAPOLY = 4
    ONE_TIME_AESGCM = 5  # transport/one_time
    ONE_TIME_CHACHAPOLY = 6
    SPAKE2_AESGCM = 7  # transport/code_keying
    SPAKE2_CHACHAPOLY = 8


_NAMES = {
    Suite.NNPSK0_AESGCM: ("Noise_NNpsk0_25519_AESGCM_SHA256", Cipher.AESGCM),
    Suite.NNPSK0_CHACHAPOLY: ("Noise_NNpsk0_25519_ChaChaPoly_SHA256", Cipher.CHACHAPOLY),
    Suite.XX_AESGCM: ("Noise_XX_25519_AESGCM_SHA256", Cipher.AESGCM),
    Suite.XX_CHACHAPOLY: ("Noise_XX_25519_ChaChaPoly_SHA256", Cipher.CHACHAPOLY),
}
_SHORTEST_SECRET = 16

DISAGREE = "the keys do not agree"  # all that a refused peer is told

# What the keys are for, when not for files.
SESSION_PURPOSE = b"mproxy session"

# The beginning of what follows a key, and all that is in the initiator's first message: whoever says it takes
# certificates (mproxy.policy.certificates). Sides that do not know it say nothing, and hear nothing of it.
TAKES_CERTIFICATES = b"\1"

# Whoever has one packet can try secrets against it for ever, so each try is made expensive: scrypt (RFC 7914) with
# 64 MiB and a third of a second, which is what OWASP's password storage guide asks for. Both sides must arrive at the
# same key before either knows the other, so the salt is the same for everybody.
_SALT = b"mproxy --key"
_COST_N, _COST_R, _COST_P, _MOST_MEMORY_BYTES = 1 << 16, 8, 2, 80 << 20
_HEXADECIMAL = re.compile(rb"[0-9a-f]{64,}|[0-9A-F]{64,}")
_MOST_BYTES = 65536


class Key:
    """What --key names: a secret that both sides know, or an Ed25519 key of `mproxy keygen`."""

    certificate = b""  # shown with an Ed25519 key to peers that take one

    def __init__(self, path: str) -> None:
        try:
            with open(path, "rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                data = file.read(_MOST_BYTES)
        except OSError as error:
            raise UsageError(f"--key {path}: {error.strerror}") from None
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise UsageError(f"--key {path}: accessible to other users; it must have mode 0600 (chmod 600)")
        self.path = path
        self.psk = self.seed = b""
        foreign = foreign_key(data)
        if b"-----BEGIN PRIVATE KEY-----" in data:
            self.seed = _seed_of(data, path)
        elif foreign == "a public key":  # the line that keygen prints
            raise UsageError(f"--key {path}: this is a public key, which is not a secret; use the file with"
                             " the private key")
        elif foreign is not None:
            raise UsageError(f"--key {path}: this is {foreign}, which is neither one of mproxy nor a secret; create"
                             " one with 'mproxy keygen', or a secret with 'head -c 32 /dev/urandom'")
        elif len(data.strip()) < _SHORTEST_SECRET:
            raise UsageError(f"--key {path}: a secret of {counted(len(data.strip()), 'byte')} is too short; at least"
                             f" {_SHORTEST_SECRET} are needed, such as the output of 'head -c 32 /dev/urandom'")
        else:
            self.psk = stretched(data.strip())

    @property
    def spki(self) -> bytes:
        """The same as DER SubjectPublicKeyInfo, of which fingerprints are made."""
        return SPKI_PREFIX + self.public

    @property
    def public(self) -> bytes:
        """The Ed25519 public key."""
        return ed25519_public_of(self.seed)

    def vouch(self, certificate: bytes) -> None:
        """Show that with it from now on; empty: nothing."""
        self.certificate = certificate

    @functools.cached_property
    def exchange_key(self) -> X25519Key:
        """The key for the exchange."""
        return x25519_key(self.seed)


class KeyPair:
    """An Ed25519 key in the place of a Key: that of a proxy, of which its container for TLS is made, too.

    `certificate` is shown with it to peers that take one."""

    psk = b""
    certificate = b""

    def __init__(self, pem: bytes | bytearray, path: str) -> None:
        self.seed = _seed_of(pem, path)
        self.public = ed25519_public_of(self.seed)
        self.exchange_key = x25519_key(self.seed)


def stretched(secret: bytes) -> bytes:
    """The 32 bytes that a secret stands for. One that cannot be guessed (not text, or hexadecimal) is used as it is."""
    if len(secret) >= 32 and (_HEXADECIMAL.fullmatch(secret) or not _is_text(secret)):
        return hashlib.blake2b(secret, digest_size=32, person=b"mproxy --key").digest()
    return hashlib.scrypt(secret, salt=_SALT, n=_COST_N, r=_COST_R, p=_COST_P, maxmem=_MOST_MEMORY_BYTES, dklen=32)


def _is_text(data: bytes) -> bool:
    try:
        return data.decode().isprintable()
    except UnicodeDecodeError:
        return False


def _seed_of(data: bytes | bytearray, path: str) -> bytes:
    der = pem_block(data, b"PRIVATE KEY")
    if not der.startswith(PKCS8_PREFIX) or len(der) < len(PKCS8_PREFIX) + 32:
        raise UsageError(f"--key {path}: contains no Ed25519 key; create one with 'mproxy keygen'")
    return bytes(der[len(PKCS8_PREFIX):len(PKCS8_PREFIX) + 32])


def has_aes() -> bool:
    """Whether the processor has instructions for AES; without them ChaCha20 is several times faster."""
    try:
        with open("/proc/cpuinfo", "rb") as file:
            text = file.read(8192)
    except OSError:
        return True
    return b" aes" in text


def trust_nobody(_spki: bytes, _link: Link) -> None:
    """PeerError, whatever the key."""
    raise NoiseError("no key of a peer is trusted here")


class KeyExchange:
    """One side of the handshake of one connection."""

    def take(self, link: Link, data: bytes) -> None:
        """Take a handshake message of the peer, or b"" to make the first one; answers over the link. PeerError."""
        raise NotImplementedError


class Keying(KeyExchange):
    """One side of the handshake of one connection. `judge(spki, link)` raises PeerError for a key of `mproxy keygen`
    that is not trusted; `spki` is its DER SubjectPublicKeyInfo. Both sides must have the same `purpose`."""

    def __init__(self, key: Key | KeyPair, initiator: bool, judge: Callable[[bytes, Link], object] = trust_nobody,
                 purpose: bytes = b"") -> None:
        self._key = key
        self._initiator = initiator
        self._judge = judge
        self._purpose = purpose
        self._handshake: Handshake | None = None
        self._suite = Suite.NNPSK0_AESGCM
        self._cipher = Cipher.AESGCM
        self._judged = False
        self.peer_spki = b""  # the peer's key, once it has proven it
        self.peer_certificate = b""  # what it has shown with that: anything, as the peer may have made it up
        self._peer_takes = False  # certificates

    @property
    def link_keys(self) -> LinkKeys | None:
        """What a session derives from the handshake; None before its end."""
        handshake = self._handshake
        if handshake is None or not handshake.finished:
            return None
        return LinkKeys(handshake.exporter(), self.peer_spki, self.peer_certificate)

    def take(self, link: Link, data: bytes) -> None:
        message: bytes | None = data
        if self._handshake is None:
            self._handshake, message = self._begin(link, data)
        handshake = self._handshake
        if message is not None:
            payload = handshake.read(message)
            try:
                self._heard(payload, handshake, link)
            except PeerError:
                if handshake.finished:  # the peer has its keys, and no longer believes anything that is not sealed
                    link.secure(*handshake.keys(), int(self._cipher))
                raise
        if not handshake.finished:
            first = bytes([self._suite]) if message is None else b""
            link.send_handshake(first + handshake.write(self._identity(handshake)))
        if handshake.finished:
            link.secure(*handshake.keys(), int(self._cipher))

    def _begin(self, link: Link, data: bytes) -> tuple[Handshake, bytes | None]:
        """The handshake, and the peer's message without its Suite; None: ours is the first."""
        message = None
        if self._initiator:
            base = Suite.NNPSK0_AESGCM if self._key.psk else Suite.XX_AESGCM
            self._suite = Suite(base + (not has_aes()))
        else:
            allowed = (Suite.NNPSK0_AESGCM, Suite.NNPSK0_CHACHAPOLY) if self._key.psk else (
                Suite.XX_AESGCM, Suite.XX_CHACHAPOLY)
            if not data or data[0] not in allowed:
                raise NoiseError("the sides have keys of different kinds")
            self._suite, message = Suite(data[0]), data[1:]
        name, self._cipher = _NAMES[self._suite]
        static = None if self._key.psk else self._key.exchange_key
        prologue = link.prologue + bytes([self._suite]) + self._purpose
        handshake = Handshake(name, self._initiator, prologue, static=static, psk=self._key.psk or None)
        return handshake, message

    def _identity(self, handshake: Handshake) -> bytes:
        """The Ed25519 key that our static key is made of, once the message can carry it in secret, with what vouches
        for it."""
        if self._key.psk:
            return b""
        if not handshake.shows_static:
            return TAKES_CERTIFICATES
        if not self._peer_takes:
            return self._key.public
        return self._key.public + TAKES_CERTIFICATES + self._key.certificate

    def _heard(self, payload: bytes, handshake: Handshake, link: Link) -> None:
        if self._key.psk or self._judged:
            return
        if not handshake.remote_static:
            self._peer_takes = payload.startswith(TAKES_CERTIFICATES)
            return
        if (x25519_public(payload[:32]) != handshake.remote_static
                or (len(payload) > 32 and not payload.startswith(TAKES_CERTIFICATES, 32))):
            raise NoiseError("the peer did not prove that it holds the key it presented")
        self._peer_takes = len(payload) > 32
        self.peer_spki, self.peer_certificate = SPKI_PREFIX + payload[:32], payload[33:]
        self._judge(self.peer_spki, link)
        self._judged = True


class LinkKeys:
    """A link whose keys are known, as `mproxy.handshake` sees the encryption of a carrier: it has nothing to seal, as
    every packet of the link is."""

    finished = True
    broken = False

    def __init__(self, exporter: bytes, spki: bytes, certificate: bytes = b"") -> None:
        self._exporter = exporter
        self._spki = spki
        self._certificate = certificate

    def receive(self, data: bytes) -> bytes:
        """What the peer has sent."""
        return data

    def seal(self, data: bytes) -> bytes:
        """What goes to the peer."""
        return data

    def take_out(self) -> bytes:
        """Nothing is waiting."""
        return b""

    def peer_spki(self) -> bytes:
        """The peer's key, as DER SubjectPublicKeyInfo."""
        return self._spki

    def peer_certificate(self) -> bytes:
        """What the peer has shown with it."""
        return self._certificate

    def hand_over(self) -> bytearray:
        """A link cannot go to another process."""
        raise NotImplementedError

    def take_over(self, state: bytes | bytearray) -> None:
        """Nor come from one."""
        raise NotImplementedError

    def exporter(self, label: bytes, context: bytes, length: int) -> bytes:
        """A secret of up to 32 bytes that both ends of this very link know and nobody else."""
        assert length <= hashlib.sha256().digest_size
        return hmac.digest(self._exporter, bytes([len(label)]) + label + context, "sha256")[:length]
