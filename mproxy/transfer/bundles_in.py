"""The bundles that a receiver is given: stored one after the other, and answered in that order.

A bundle may hold directories that the next one has files in, so they do not overtake each other; nor do they overtake a
directory that was announced by itself before them. A FILE waits for the bundles before it.
"""

from __future__ import annotations

from collections import deque
from functools import partial

from mproxy.ground.errors import PeerError
from mproxy.transfer import zstd
from mproxy.transfer.bundle import check_count, parse_bundle
from mproxy.transfer.bundle_store import BundleStore
from mproxy.transfer.destinations import IntoDirectory
from mproxy.transfer.tree import LEAF_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.transfer.arriving import Data
    from mproxy.transfer.bundle import BundleAnswer, BundleEntry
    from mproxy.transfer.destinations import Destination
    from mproxy.transfer.messages import Bundle
    from mproxy.transfer.workers import Workers
    Stored = tuple[list[BundleEntry], list[BundleAnswer]]


class BundlesInHost:
    """What IncomingBundles need of the receiver."""

    def may_store(self) -> bool:
        """Whether no directory is being made in which the next bundle might have something."""
        raise NotImplementedError

    def on_stored(self, entries: list[BundleEntry], answers: list[BundleAnswer], data: memoryview) -> None:
        """A bundle was stored; its data are no longer needed."""
        raise NotImplementedError

    def on_bad_bundle(self, error: PeerError) -> None:
        """It is malformed."""
        raise NotImplementedError


class IncomingBundles:
    """Of one sender. At the end of the connection: `close`."""

    def __init__(self, host: BundlesInHost, destination: Destination, workers: Workers) -> None:
        self._host, self._destination, self._workers = host, destination, workers
        self._waiting: deque[tuple[Bundle, memoryview]] = deque()
        self._is_storing = False
        self._closed = False
        self.received = self.stored = 0  # bundles

    def check(self, bundle: Bundle) -> None:
        """PeerError if there can be no such bundle."""
        if not isinstance(self._destination, IntoDirectory):
            raise PeerError(None, "a bundle, which this receiver does not take")
        check_count(bundle.count)
        if bundle.length > LEAF_BYTES:
            raise PeerError(None, "a bundle that is too long")

    def add(self, bundle: Bundle, data: memoryview) -> None:
        """It has come."""
        self.received += 1
        self._waiting.append((bundle, data))
        self.go_on()

    @property
    def busy(self) -> bool:
        """Whether some are not stored yet."""
        return self._is_storing or bool(self._waiting)

    def go_on(self) -> None:
        """Store the next one, if that is possible now."""
        if self._is_storing or not self._waiting or self._closed or not self._host.may_store():
            return
        self._is_storing = True
        bundle, data = self._waiting.popleft()
        self._workers.submit(partial(self._store, bundle, data), partial(self._was_stored, data), short=bundle.count)

    def _store(self, bundle: Bundle, data: Data) -> Stored:
        """On a worker's thread."""
        assert isinstance(self._destination, IntoDirectory)
        if bundle.length:
            unpacked = zstd.decompress(data, bundle.length)
            if unpacked is None or len(unpacked) != bundle.length:
                raise PeerError(None, "a bundle that is damaged, or longer than it says")
            data = unpacked
        entries = parse_bundle(data, bundle.count)
        return entries, BundleStore(self._destination, data).store(entries)

    def _was_stored(self, data: memoryview, stored: Stored | None, error: Exception | None) -> None:
        self._is_storing = False
        self.stored += 1
        if self._closed:
            return
        if stored is not None:
            self._host.on_stored(*stored, data)
        elif isinstance(error, PeerError):
            self._host.on_bad_bundle(error)
        else:
            raise error or AssertionError
        self.go_on()

    def close(self) -> None:
        """Forget those that wait."""
        self._closed = True
        self._waiting.clear()
