"""The routing tag: a cproxy that was here before shows it in the clear, before anything else about it is known.

    tag = nonce (24 bits), then the first 40 bits of HMAC-SHA256(key, "mproxy 2 tag" 0x00 period nonce)

It gives no right except to be heard before strangers, so 40 bits are plenty: a guess costs a connection. Every WELCOME
has another one, so that a listener cannot link the carriers of a session by their tags. A tag that was overheard helps
one or two connections at a time (`mproxy.programs.greeting`), and nobody after its time.

Nothing here reads a clock: `now` is in seconds since 1970, because tags outlive the process that made them.
"""

from __future__ import annotations

import hmac

NONCE_BYTES = 3
MAC_BYTES = 5

LABEL = b"mproxy 2 tag\0"

# The MAC covers the period in which the tag was made. This many are tried, so a tag is valid for at least PERIODS - 1.
PERIODS = 9

LEAST_PERIOD_S = 3600


class Tags:
    """Makes tags and recognises them, even after a restart if `key` (any bytes nobody else has) is the same.

    `life_us`: how long a tag is valid, at least.
    """

    def __init__(self, key: bytes, life_us: int) -> None:
        self._key = key
        self._period_s = max(LEAST_PERIOD_S, life_us // 1_000_000 // (PERIODS - 1) + 1)

    def make(self, nonce: bytes, now: float) -> int:
        """The tag for a random nonce of NONCE_BYTES; never 0, which means none."""
        return int.from_bytes(nonce + self._mac(nonce, self._period(now)), "big") or 1

    def holds(self, tag: int, now: float) -> bool:
        """Whether the tag was made with our key, and not too long ago."""
        if not tag:
            return False
        packed = tag.to_bytes(NONCE_BYTES + MAC_BYTES, "big")
        nonce, mac = packed[:NONCE_BYTES], packed[NONCE_BYTES:]
        period = self._period(now)
        # This need not take constant time: measuring it would tell no more than a few thousand guesses.
        return any(mac == self._mac(nonce, period - back) for back in range(PERIODS))

    def _period(self, now: float) -> int:
        return int(now // self._period_s)

    def _mac(self, nonce: bytes, period: int) -> bytes:
        return hmac.digest(self._key, LABEL + period.to_bytes(8, "big", signed=True) + nonce, "sha256")[:MAC_BYTES]
