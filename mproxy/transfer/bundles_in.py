"""The bundles that a receiver is given: stored, and answered in the order in which they came.

A bundle may hold directories that the next one has files in. So each is prepared, which makes them, before the next one
is; nor does one overtake a directory that was announced by itself before it. The files of AT_ONCE bundles are made at
the same time, as making them takes longer than all else, and most computers have several processors. A FILE waits for
the bundles before it.
"""

from __future__ import annotations

from collections import deque, namedtuple
from functools import partial

from mproxy.ground.errors import PeerError
from mproxy.transfer import zstd
from mproxy.transfer.bundle import check_count, parse_bundle
from mproxy.transfer.bundle_store import BundleStore
from mproxy.transfer.destinations import IntoDirectory
from mproxy.transfer.tree import LEAF_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from mproxy.transfer.arriving import Data
    from mproxy.transfer.bundle import BundleEntry, FileGroup
    from mproxy.transfer.destinations import Destination
    from mproxy.transfer.messages import Bundle
    from mproxy.transfer.workers import Workers


AT_ONCE = 3  # bundles whose files are being made: one for each of two threads, and one that is prepared meanwhile


class StoredBundle(namedtuple("StoredBundle", "parts answers data")):
    """`answers`: a byte for each entry; `data`: what the parts refer to."""

    __slots__ = ()
    parts: list[BundleEntry | FileGroup]
    answers: bytes
    data: Data

    if TYPE_CHECKING:
        def __new__(cls, parts: list[BundleEntry | FileGroup], answers: bytes, data: Data) -> Self: ...


class BundlesInHost:
    """What IncomingBundles need of the receiver."""

    def may_store(self) -> bool:
        """Whether no directory is being made in which the next bundle might have something."""
        raise NotImplementedError

    def on_stored(self, stored: StoredBundle, data: memoryview) -> None:
        """A bundle was stored; its data, as they came, are no longer needed afterwards."""
        raise NotImplementedError

    def on_bad_bundle(self, error: PeerError) -> None:
        """It is malformed."""
        raise NotImplementedError


class _Arrived:
    """One bundle, from its arrival until its answer."""

    def __init__(self, bundle: Bundle, buffer: memoryview) -> None:
        self.buffer = buffer  # that it came in
        self.is_stored = False
        self.error: Exception | None = None
        self._bundle = bundle
        self._data: Data = buffer
        self._parts: list[BundleEntry | FileGroup] = []
        self._store: BundleStore | None = None

    def prepare(self, destination: Destination) -> None:
        """On a worker's thread."""
        assert isinstance(destination, IntoDirectory)
        bundle = self._bundle
        if bundle.length:
            unpacked = zstd.decompress(self._data, bundle.length)
            if unpacked is None or len(unpacked) != bundle.length:
                raise PeerError(None, "a bundle that is damaged, or longer than it says")
            self._data = unpacked
        self._parts = parse_bundle(self._data, bundle.count)
        store = self._store = BundleStore(destination, self._data)
        store.prepare(self._parts)
        if store.is_ready:
            store.close()

    @property
    def is_ready(self) -> bool:
        """Whether all is stored."""
        return self._store is None or self._store.is_ready

    def finish(self) -> None:
        """On a worker's thread."""
        if self._store is not None:
            self._store.finish()

    def close(self) -> None:
        """Nobody waits for the answer any more."""
        if self._store is not None:
            self._store.close()

    @property
    def stored(self) -> StoredBundle:
        """What became of it."""
        return StoredBundle(self._parts, self._store.answers if self._store is not None else b"", self._data)


class IncomingBundles:
    """Of one sender. At the end of the connection: `close`."""

    def __init__(self, host: BundlesInHost, destination: Destination, workers: Workers) -> None:
        self._host, self._destination, self._workers = host, destination, workers
        self._waiting: deque[_Arrived] = deque()
        self._under_way: deque[_Arrived] = deque()  # in their order
        self._is_preparing = False
        self._closed = False
        self.received = self.begun = self.stored = 0  # bundles

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
        self._waiting.append(_Arrived(bundle, data))
        self.go_on()

    @property
    def busy(self) -> bool:
        """Whether some are not stored yet."""
        return bool(self._under_way or self._waiting)

    def go_on(self) -> None:
        """Begin with the next one, if that is possible now."""
        if (self._is_preparing or not self._waiting or self._closed or len(self._under_way) >= AT_ONCE
                or not self._host.may_store()):
            return
        self._is_preparing = True
        self.begun += 1
        one = self._waiting.popleft()
        self._under_way.append(one)
        self._workers.submit(partial(one.prepare, self._destination), partial(self._was_prepared, one), short=1)

    def _was_prepared(self, one: _Arrived, _result: None, error: Exception | None) -> None:
        self._is_preparing = False
        if self._closed:
            one.close()
            return
        if error is None and not one.is_ready:
            self._workers.submit(one.finish, partial(self._was_stored, one))
        else:
            self._was_stored(one, None, error)
        self.go_on()

    def _was_stored(self, one: _Arrived, _result: None, error: Exception | None) -> None:
        one.is_stored, one.error = True, error
        while self._under_way and self._under_way[0].is_stored and not self._closed:
            first = self._under_way.popleft()
            self.stored += 1
            if first.error is None:
                self._host.on_stored(first.stored, first.buffer)
            elif isinstance(first.error, PeerError):
                self._host.on_bad_bundle(first.error)
            else:
                raise first.error
        self.go_on()

    def close(self) -> None:
        """Forget those that wait."""
        self._closed = True
        self._waiting.clear()
