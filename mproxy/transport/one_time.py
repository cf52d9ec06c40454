"""Keys out of a secret for one transfer, which both sides have learnt by a trusted channel: `mproxy copy` has ssh.

    who dials                           who listens
    Suite, 32 random bytes, proof
                                        32 random bytes, proof

The secret is 32 random bytes in the memory of two processes, and gone with them: so there is nothing left for a Noise
handshake to protect, and the library that it needs, which takes longer to load than everything else, stays unloaded.
A proof is a MAC over all that was said and agreed on before, random numbers of both sides included: nothing can be
played back.
"""

from __future__ import annotations

import hmac
import os

from mproxy.transport._seal import Cipher
from mproxy.transport.keying import KeyExchange, Suite, has_aes
from mproxy.transport.noise import NoiseError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.transport._link import Link

SECRET_BYTES = 32

_CIPHERS = {Suite.ONE_TIME_AESGCM: Cipher.AESGCM, Suite.ONE_TIME_CHACHAPOLY: Cipher.CHACHAPOLY}
_RANDOM_BYTES, _PROOF_BYTES = 32, 32
_LABEL = b"mproxy one-time "


class OneTimeKeying(KeyExchange):
    """One side of the handshake of one connection."""

    def __init__(self, secret: bytes, initiator: bool) -> None:
        self._secret, self._initiator = secret, initiator
        self._said = b""

    def take(self, link: Link, data: bytes) -> None:
        if not self._initiator:
            self._answer(link, data)
        elif not self._said:
            suite = Suite.ONE_TIME_AESGCM if has_aes() else Suite.ONE_TIME_CHACHAPOLY
            self._said = bytes([suite]) + os.urandom(_RANDOM_BYTES)
            link.send_handshake(self._said + self._derive(link, b"caller proves"))
        else:
            suite = Suite(self._said[0])
            self._hear(link, data, b"listener proves")
            link.secure(self._derive(link, b"caller sends"), self._derive(link, b"listener sends"),
                        int(_CIPHERS[suite]))

    def _answer(self, link: Link, data: bytes) -> None:
        if not data or data[0] not in _CIPHERS:
            raise NoiseError("the sides have keys of different kinds")
        self._said = data[:1]
        self._hear(link, data[1:], b"caller proves")
        ours = os.urandom(_RANDOM_BYTES)
        self._said += ours
        link.send_handshake(ours + self._derive(link, b"listener proves"))
        link.secure(self._derive(link, b"listener sends"), self._derive(link, b"caller sends"),
                    int(_CIPHERS[Suite(data[0])]))

    def _hear(self, link: Link, data: bytes, what: bytes) -> None:
        """The peer's random bytes and its proof."""
        self._said += data[:_RANDOM_BYTES]
        if len(data) != _RANDOM_BYTES + _PROOF_BYTES or not hmac.compare_digest(
                data[_RANDOM_BYTES:], self._derive(link, what)):
            raise NoiseError("the peer has another secret")

    def _derive(self, link: Link, what: bytes) -> bytes:
        return hmac.digest(self._secret, _LABEL + what + b"\0" + link.prologue + self._said, "sha256")
