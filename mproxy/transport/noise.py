"""The Noise Protocol Framework (revision 34, noiseprotocol.org): the patterns that mproxy uses, exactly as published.

    NNpsk0   both sides know one secret key (`--key FILE`):   -> psk, e           <- e, ee
    XX       both sides have a key pair (`mproxy keygen`):    -> e    <- e, ee, s, es    -> s, se

Protocol names are Noise_<pattern>_25519_<AESGCM or ChaChaPoly>_SHA256. It runs once a connection, so it is plain
Python; X25519 and the ciphers are libcrypto's, HMAC and hashes come from the standard library.
"""

from __future__ import annotations

import hashlib
import hmac
import os

from mproxy.ground._aead import AeadCipher
from mproxy.ground._curves import X25519Key
from mproxy.ground.errors import PeerError
from mproxy.transport._noise_cipher import open_message, seal_message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal
    ByteOrder = Literal["big", "little"]

# Tokens of each message; the initiator begins. A psk modifier puts a token in front of message 1 (section 9.4).
PATTERNS = {
    "NNpsk0": (("psk", "e"), ("e", "ee")),
    "XX": (("e",), ("e", "ee", "s", "es"), ("s", "se")),
}
HASH_BYTES = 32
KEY_BYTES = 32
TAG_BYTES = 16

# By their names: libcrypto's, and how the number of a message stands in its nonce (sections 12.3 and 12.4).
CIPHERS: dict[str, tuple[AeadCipher, ByteOrder]] = {
    "AESGCM": (AeadCipher.AES_256_GCM, "big"),
    "ChaChaPoly": (AeadCipher.CHACHA20_POLY1305, "little"),
}


class NoiseError(PeerError):
    """The peer's message is not authentic: it has another key, or somebody is in between."""

    def __init__(self, reason: str) -> None:
        super().__init__(None, reason)


def generate_key() -> X25519Key:
    """A fresh X25519 key."""
    return X25519Key(os.urandom(KEY_BYTES))


def _dh(private: X25519Key, public: bytes) -> bytes:
    """DH() of section 12.1; a public key that gives all zeros is refused."""
    try:
        return private.agree(public)
    except ValueError:
        raise NoiseError("the peer's key is unusable (low order)") from None


def _hash(data: bytes) -> bytes:
    """HASH() of section 12.5: SHA-256."""
    return hashlib.sha256(data).digest()


class CipherState:
    """Section 5.1."""

    def __init__(self, cipher: str) -> None:
        self._cipher, self._order = CIPHERS[cipher]
        self.key: bytes | None = None
        self.nonce = 0

    def initialize_key(self, key: bytes) -> None:
        self.key = key
        self.nonce = 0

    def _take_nonce(self) -> bytes:
        nonce = bytes(4) + self.nonce.to_bytes(8, self._order)
        self.nonce += 1
        return nonce

    def encrypt(self, associated: bytes, plain: bytes) -> bytes:
        if self.key is None:
            return plain
        return seal_message(self._cipher, self.key, self._take_nonce(), associated, plain)

    def decrypt(self, associated: bytes, data: bytes) -> bytes:
        if self.key is None:
            return data
        plain = open_message(self._cipher, self.key, self._take_nonce(), associated, data)
        if plain is None:
            raise NoiseError("the keys do not agree")
        return plain


class SymmetricState:
    """Section 5.2."""

    def __init__(self, name: str, cipher: str) -> None:
        encoded = name.encode()
        self.hash = encoded.ljust(HASH_BYTES, b"\0") if len(encoded) <= HASH_BYTES else _hash(encoded)
        self.chaining_key = self.hash
        self.cipher = CipherState(cipher)

    def hkdf(self, material: bytes, outputs: int) -> list[bytes]:
        """HKDF of section 4.3, which is RFC 5869's with the chaining key as salt and no info."""
        temporary = hmac.digest(self.chaining_key, material, "sha256")
        result, last = [], b""
        for number in range(1, outputs + 1):
            last = hmac.digest(temporary, last + bytes([number]), "sha256")
            result.append(last)
        return result

    def mix_key(self, material: bytes) -> None:
        self.chaining_key, key = self.hkdf(material, 2)
        self.cipher.initialize_key(key)

    def mix_hash(self, data: bytes) -> None:
        self.hash = _hash(self.hash + data)

    def mix_key_and_hash(self, material: bytes) -> None:
        self.chaining_key, middle, key = self.hkdf(material, 3)
        self.mix_hash(middle)
        self.cipher.initialize_key(key)

    def encrypt_and_hash(self, plain: bytes) -> bytes:
        data = self.cipher.encrypt(self.hash, plain)
        self.mix_hash(data)
        return data

    def decrypt_and_hash(self, data: bytes) -> bytes:
        plain = self.cipher.decrypt(self.hash, data)
        self.mix_hash(data)
        return plain

    def split(self) -> list[bytes]:
        return self.hkdf(b"", 2)


class Handshake:
    """Section 5.3. Call `write` and `read` in turns, the initiator writes first, until `finished`; then `keys`.

    `static` is the X25519 key of a pattern with s, `psk` the 32 bytes of one with psk; `ephemeral` is for
    tests alone. NoiseError when the peer's message is not what it should be; the handshake is over then.
    """

    def __init__(self, name: str, initiator: bool, prologue: bytes = b"", *, static: X25519Key | None = None,
                 psk: bytes | None = None, ephemeral: X25519Key | None = None) -> None:
        _noise, pattern, _curve, cipher, _hash_name = name.split("_")
        self._messages = list(PATTERNS[pattern])
        self._symmetric = SymmetricState(name, cipher)
        self._initiator = initiator
        self._psk_mode = "psk" in pattern
        # None, or empty: it does not exist, or not yet.
        self._s, self._psk = static, psk or b""
        self._e, self._re = ephemeral, b""
        self.remote_static = b""  # the peer's X25519 public key, once it has shown it
        assert (psk is not None) == self._psk_mode and (psk is None or len(psk) == KEY_BYTES)
        self._symmetric.mix_hash(prologue)

    @property
    def finished(self) -> bool:
        return not self._messages

    @property
    def shows_static(self) -> bool:
        """The next message to be written holds our static key."""
        return bool(self._messages) and "s" in self._messages[0]

    @property
    def hash(self) -> bytes:
        """Names this handshake (section 11.2); both sides have the same."""
        return self._symmetric.hash

    def write(self, payload: bytes = b"") -> bytes:
        """The next message, with `payload` in it."""
        symmetric, out = self._symmetric, b""
        for token in self._messages.pop(0):
            if token == "e":
                self._e = self._e or generate_key()
                out += self._e.public
                self._mix_e(self._e.public)
            elif token == "s":
                assert self._s is not None
                out += symmetric.encrypt_and_hash(self._s.public)
            else:
                self._mix(token)
        return out + symmetric.encrypt_and_hash(payload)

    def read(self, message: bytes) -> bytes:
        """The payload of the peer's message."""
        symmetric = self._symmetric
        for token in self._messages.pop(0):
            if token == "e":
                self._re, message = _cut(message, KEY_BYTES)
                self._mix_e(self._re)
            elif token == "s":
                sealed, message = _cut(message, KEY_BYTES + (TAG_BYTES if symmetric.cipher.key else 0))
                self.remote_static = symmetric.decrypt_and_hash(sealed)
            else:
                self._mix(token)
        if symmetric.cipher.key and len(message) < TAG_BYTES:
            raise NoiseError("a handshake message is too short")
        return symmetric.decrypt_and_hash(message)

    def keys(self) -> tuple[bytes, bytes]:
        """(key to send with, key to receive with)."""
        first, second = self._symmetric.split()
        return (first, second) if self._initiator else (second, first)

    def exporter(self) -> bytes:
        """A secret beside the keys, bound to all that was said; of it others may be derived for other purposes."""
        return self._symmetric.hkdf(b"mproxy exporter" + self.hash, 1)[0]

    def _mix_e(self, public: bytes) -> None:
        self._symmetric.mix_hash(public)
        if self._psk_mode:
            self._symmetric.mix_key(public)

    def _mix(self, token: str) -> None:
        if token == "psk":
            self._symmetric.mix_key_and_hash(self._psk)
            return
        mine, theirs = (token[0], token[1]) if self._initiator else (token[1], token[0])
        private = self._e if mine == "e" else self._s
        public = self._re if theirs == "e" else self.remote_static
        assert private is not None
        self._symmetric.mix_key(_dh(private, public))


def _cut(message: bytes, length: int) -> tuple[bytes, bytes]:
    if len(message) < length:
        raise NoiseError("a handshake message is too short")
    return message[:length], message[length:]


# ---- Ed25519 keys (`mproxy keygen`) as X25519 keys

_P = 2**255 - 19


def x25519_public(ed25519_public: bytes) -> bytes:
    """The X25519 key of an Ed25519 public key: u = (1 + y) / (1 - y) (RFC 7748 section 4.1)."""
    y = int.from_bytes(ed25519_public, "little") & ((1 << 255) - 1)
    if y >= _P or y == 1:
        raise NoiseError("the peer's key is not a valid key")
    return ((1 + y) * pow(1 - y, -1, _P) % _P).to_bytes(32, "little")


def x25519_key(ed25519_seed: bytes) -> X25519Key:
    """The X25519 key of an Ed25519 private key: the scalar that RFC 8032 section 5.1.5 makes of it."""
    return X25519Key(hashlib.sha512(ed25519_seed).digest()[:32])
