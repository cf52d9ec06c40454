"""The routing tag: a cproxy that was here before shows it in the clear, before anything else about it is known.

    tag = node (8 bits), worker (6), nonce (20),
          then the first 30 bits of HMAC-SHA256(key, "mproxy 2 tag" 0x00 period, and the tag with zeros in their place)

It says where the session is: on which of several sproxies with one key, for whoever stands in front of them, and in
which of that one's workers (`mproxy.programs.crew`). It gives no right except to be heard before strangers, so 30 bits
are plenty: a guess costs a connection. Every WELCOME has another one, so that a listener cannot link the carriers of a
session by their tags. A tag that was overheard helps one or two connections at a time (`mproxy.programs.greeting`), and
nobody after its time.

Nothing here reads a clock: `now` is in seconds since 1970, because tags outlive the process that made them.
"""

from __future__ import annotations

import hmac

TAG_BYTES = 8
NODE_BITS, WORKER_BITS, NONCE_BITS, MAC_BITS = 8, 6, 20, 30

# A tag's random number is made of so many bytes.
NONCE_BYTES = 3

LABEL = b"mproxy 2 tag\0"

# The MAC covers the period in which the tag was made. This many are tried, so a tag is valid for at least PERIODS - 1.
PERIODS = 9

LEAST_PERIOD_S = 3600


class Tags:
    """Makes tags and recognises them, even after a restart if `key` (any bytes nobody else has) is the same.

    `life_us`: how long a tag is valid, at least. `node`: this sproxy among several, 0 to 255.
    """

    def __init__(self, key: bytes, life_us: int, node: int = 0) -> None:
        self._key = key
        self._period_s = max(LEAST_PERIOD_S, life_us // 1_000_000 // (PERIODS - 1) + 1)
        self._node = node

    def make(self, nonce: bytes, now: float, worker: int = 0) -> int:
        """The tag for a random nonce of NONCE_BYTES; never 0, which means none."""
        number = int.from_bytes(nonce) & (1 << NONCE_BITS) - 1
        head = ((self._node << WORKER_BITS | worker) << NONCE_BITS | number) << MAC_BITS
        return head | self._mac(head, self._period(now)) or 1

    def holds(self, tag: int, now: float) -> bool:
        """Whether the tag was made with our key, and not too long ago."""
        if not tag:
            return False
        head, mac = tag >> MAC_BITS << MAC_BITS, tag & (1 << MAC_BITS) - 1
        period = self._period(now)
        # This need not take constant time: measuring it would tell no more than a few thousand guesses.
        return any(mac == self._mac(head, period - back) for back in range(PERIODS))

    def worker(self, tag: int, now: float) -> int | None:
        """In which worker of this sproxy the session of a tag is; None: that cannot be told from it."""
        if tag >> TAG_BYTES * 8 - NODE_BITS != self._node or not self.holds(tag, now):
            return None
        return worker_in(tag)

    def _period(self, now: float) -> int:
        return int(now // self._period_s)

    def _mac(self, head: int, period: int) -> int:
        digest = hmac.digest(self._key, LABEL + period.to_bytes(8, signed=True) + head.to_bytes(TAG_BYTES), "sha256")
        return int.from_bytes(digest[:4]) >> 32 - MAC_BITS


def worker_in(tag: int) -> int:
    """The worker that a tag names, whoever made it."""
    return tag >> NONCE_BITS + MAC_BITS & (1 << WORKER_BITS) - 1
