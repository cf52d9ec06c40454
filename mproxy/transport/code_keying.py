"""Keys out of a short code that people tell each other: SPAKE2 (the `spake2` package) in place of Noise.

    receiver, who dials                 sender
    Suite, SPAKE2 message
                                        SPAKE2 message
    proof
                                        proof

A proof is a MAC over all of it with a key that only the code and this exchange give. The receiver proves first: whoever
does not know the code has one guess, that the sender sees, and learns nothing but whether it was right. So the sender
ends the code after one wrong proof. Codes cannot be tried against a recording.
"""

from __future__ import annotations

import hmac

from mproxy.ground.code_words import WORDS
from mproxy.ground.errors import PeerError, UsageError
from mproxy.ground.packages import CODES, import_packages
from mproxy.transport._seal import Cipher
from mproxy.transport.keying import DISAGREE, KeyExchange, Suite, has_aes
from mproxy.transport.noise import NoiseError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from spake2 import SPAKE2_A, SPAKE2_B

    from mproxy.transport._link import Link

MOST_NUMBER = 999

_CIPHERS = {Suite.SPAKE2_AESGCM: Cipher.AESGCM, Suite.SPAKE2_CHACHAPOLY: Cipher.CHACHAPOLY}
_MESSAGE_BYTES = 33  # a byte for the side, a point of Ed25519
_LABEL = b"mproxy code "


class Code:
    """`7-violet-harbour`: a number, by which a receiver finds the sender, and two words, which are secret."""

    def __init__(self, number: int, words: tuple[str, str]) -> None:
        self.number, self.words = number, words

    def __str__(self) -> str:
        return f"{self.number}-{'-'.join(self.words)}"

    @property
    def secret(self) -> bytes:
        """What SPAKE2 makes keys of."""
        return str(self).encode()


def make_code() -> Code:
    """One that nobody can guess."""
    import secrets
    return Code(1 + secrets.randbelow(MOST_NUMBER), (secrets.choice(WORDS), secrets.choice(WORDS)))


def is_code(text: str) -> bool:
    """Whether a word of a command line is meant as a code."""
    number, *words = text.split("-")
    return number.isascii() and number.isdigit() and bool(words) and all(word.isalpha() for word in words)


def parse_code(text: str) -> Code:
    """The code; UsageError with a guess at what was meant."""
    number, *words = text.lower().split("-")
    if not is_code(text) or len(words) != 2 or not 1 <= int(number) <= MOST_NUMBER:
        raise UsageError(f"a code is a number up to {MOST_NUMBER} and two words, such as 7-violet-harbour")
    for word in words:
        if word not in WORDS:
            from difflib import get_close_matches
            close = get_close_matches(word, WORDS, 1)
            hint = f"; is it {close[0]}?" if close else ""
            raise UsageError(f"{word} is not a word of any code{hint}")
    return Code(int(number), (words[0], words[1]))


def load() -> None:
    """Import now what the handshake needs; MproxyError if it is not installed."""
    import_packages(CODES)


class CodeKeying(KeyExchange):
    """One side of the handshake of one connection. `on_wrong()`: the other side had a wrong code."""

    def __init__(self, code: Code, receives: bool, on_wrong: Callable[[], object] = lambda: None) -> None:
        self._code = code
        self._receives = receives
        self._on_wrong = on_wrong
        self._suite = Suite.SPAKE2_AESGCM
        self._exchange: SPAKE2_A | SPAKE2_B | None = None
        self._said = b""  # both sides' SPAKE2 messages so far
        self._key = b""

    def take(self, link: Link, data: bytes) -> None:
        if self._receives:
            self._take_as_receiver(link, data)
        else:
            self._take_as_sender(link, data)

    def _take_as_receiver(self, link: Link, data: bytes) -> None:
        if self._exchange is None:
            import spake2
            self._suite = Suite.SPAKE2_AESGCM if has_aes() else Suite.SPAKE2_CHACHAPOLY
            self._exchange = spake2.SPAKE2_A(self._code.secret)
            self._said = self._exchange.start()
            link.send_handshake(bytes([self._suite]) + self._said)
        elif not self._key:
            self._said += data
            self._agree(link, data)
            link.send_handshake(self._derive(b"receiver proves"))
        else:
            self._check(data, b"sender proves")
            link.secure(self._derive(b"receiver sends"), self._derive(b"sender sends"), int(_CIPHERS[self._suite]))

    def _take_as_sender(self, link: Link, data: bytes) -> None:
        if self._exchange is None:
            import spake2
            if not data or data[0] not in _CIPHERS:
                raise NoiseError("the other side has a key and no code")
            self._suite, message = Suite(data[0]), data[1:]
            self._exchange = spake2.SPAKE2_B(self._code.secret)
            ours = self._exchange.start()
            self._said = message + ours
            self._agree(link, message)
            link.send_handshake(ours)
        else:
            self._check(data, b"receiver proves")
            link.send_handshake(self._derive(b"sender proves"))
            link.secure(self._derive(b"sender sends"), self._derive(b"receiver sends"), int(_CIPHERS[self._suite]))

    def _agree(self, link: Link, message: bytes) -> None:
        """The key that both sides have, if both have the code. It depends on all that was agreed on before."""
        if len(message) != _MESSAGE_BYTES or self._exchange is None:
            raise NoiseError("not a message of SPAKE2")
        try:
            shared = self._exchange.finish(message)
        except Exception:  # whatever it finds wrong with a point that a stranger has sent
            raise NoiseError("not a message of SPAKE2") from None
        self._key = hmac.digest(shared, _LABEL + link.prologue + bytes([self._suite]) + self._said, "sha256")

    def _derive(self, what: bytes) -> bytes:
        return hmac.digest(self._key, _LABEL + what, "sha256")

    def _check(self, proof: bytes, what: bytes) -> None:
        if not hmac.compare_digest(proof, self._derive(what)):
            self._on_wrong()
            raise PeerError(None, DISAGREE)
