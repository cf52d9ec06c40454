"""What all senders share: how many files may be open, and how much memory their digests may take."""

from __future__ import annotations

from collections.abc import Callable

from mproxy.transfer.messages import MOST_AHEAD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.transfer.arrival import Arrival

# Digests of the files that are open: 2 TiB of one sender, or a larger file alone, and 8 TiB of all.
SENDER_DIGEST_BYTES = 64 << 20
ALL_DIGEST_BYTES = 256 << 20


class Allowance:
    """Each sender may have `files_each` files open, and all of them ALL_DIGEST_BYTES of digests."""

    def __init__(self, files_each: int = MOST_AHEAD) -> None:
        self.files_each = files_each
        self._digest_bytes = 0
        self._waiting: dict[object, Callable[[], object]] = {}  # what to call when there is room again

    def take(self, amount: int, held: int, receiver: object, again: Callable[[], object]) -> bool:
        """Whether a receiver that holds `held` may open a file with `amount` bytes of digests; if not, `again` is
        called later."""
        if (held == 0 or held + amount <= SENDER_DIGEST_BYTES) and self._digest_bytes + amount <= ALL_DIGEST_BYTES:
            self._digest_bytes += amount
            return True
        self._waiting[receiver] = again
        return False

    def give(self, amount: int) -> None:
        """A file has ended."""
        self._digest_bytes -= amount
        waiting, self._waiting = self._waiting, {}
        for again in waiting.values():
            again()


class Share:
    """What one sender has of an Allowance; `again` is called when there may be room for one more file."""

    def __init__(self, allowance: Allowance, again: Callable[[], object]) -> None:
        self._allowance, self._again = allowance, again
        self._files = self._bytes = 0

    def take(self, arriving: Arrival) -> bool:
        """Whether it may be opened now."""
        if not arriving.file.has_data:
            return True
        if self._files >= self._allowance.files_each or not self._allowance.take(
                arriving.digest_bytes, self._bytes, self, self._again):
            return False
        arriving.holds = True
        self._files += 1
        self._bytes += arriving.digest_bytes
        return True

    def give(self, arriving: Arrival) -> None:
        """It has ended."""
        if arriving.holds:
            arriving.holds = False
            self._files -= 1
            self._bytes -= arriving.digest_bytes
            self._allowance.give(arriving.digest_bytes)
