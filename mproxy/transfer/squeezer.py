"""--compress: which blocks are compressed before they are sent.

Data that do not become shorter are found out by trying: after some that gained nothing twice as many are not tried, and
twice as many again each time, so that a film costs next to nothing and the text behind it is noticed.

On a fast path compressing may take longer than sending: whether it pays is found out by trying, too. Where more passes
than FAST_BYTES a second, a few blocks are sent as they are, and what has passed in that time decides for a while.
"""

from __future__ import annotations

from collections.abc import Callable

from mproxy.transfer import zstd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.transfer.arriving import Data

MOST_SKIPPED = 64 << 20  # bytes between two tries
GAIN = 16  # a block has to become shorter by this part of it

FAST_BYTES = 40_000_000  # a second; slower paths gain by every byte that is not sent
TRIAL_BLOCKS, STAY_BLOCKS = 24, 384  # that are measured, and for which the winner counts
SLOWER = 1.5  # a trial that takes so much longer than the other way ends at once


class Squeezer:
    """Compresses blocks; used by several threads at a time, which may see each other's notes late."""

    def __init__(self, clock: Callable[[], int]) -> None:
        """`clock()` tells the time in us."""
        self._clock = clock
        self.is_on = True
        self._skipped = self._left = 0  # bytes not to be tried: of the last pause, and of this one
        self._began = self._blocks = self._bytes = 0  # of what is being measured
        self._rates: dict[bool, float] = {}  # bytes a microsecond, compressed or not
        self._stays = 0  # blocks for which it is decided

    def squeeze(self, data: Data) -> bytes | None:
        """A frame of `data`, or None: they are better sent as they are. On a worker's thread."""
        if not self.is_on:
            return None
        if self._left >= len(data):
            self._left -= len(data)
            return None
        packed = zstd.compress(data)
        if len(packed) <= len(data) - len(data) // GAIN:
            self._skipped = 0
            return packed
        self._skipped = self._left = min(MOST_SKIPPED, max(self._skipped, len(data)) * 2)
        return None

    def note(self, count: int) -> None:
        """Data were handed to the connection now; `count` is what they are uncompressed. On the loop's thread."""
        now = self._clock()
        if self._stays > 0:
            self._stays -= 1
            if self._stays == 0:
                self._measure(True, now)
            return
        if self._blocks == 0:
            self._measure(self.is_on, now)
        self._blocks += 1
        self._bytes += count
        took = now - self._began
        other = self._rates.get(not self.is_on)
        is_slower = other is not None and took * other > SLOWER * max(self._bytes, TRIAL_BLOCKS * count)
        if self._blocks < TRIAL_BLOCKS and not is_slower:
            return
        self._rates[self.is_on] = self._bytes / max(1, took)
        if len(self._rates) == 2:
            self.is_on = self._rates[True] >= self._rates[False]
            self._stays = STAY_BLOCKS
        elif self._rates[True] * 1_000_000 >= FAST_BYTES:
            self._measure(False, now)
        else:
            self._rates.clear()
            self._measure(True, now)

    def _measure(self, is_on: bool, now: int) -> None:
        """Begin to measure one way."""
        if is_on:
            self._rates.clear()
        self.is_on = is_on
        self._began, self._blocks, self._bytes = now, 0, 0
