"""What is announced is opened at the receiver, or made: on a worker's thread."""

from __future__ import annotations

from collections.abc import Sequence

from mproxy.transfer.messages import FileKind
from mproxy.transfer.partial import Cancelled
from mproxy.transfer.workers import tried

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.transfer.arrival import Arrival
    from mproxy.transfer.arriving import ArrivingFile
    from mproxy.transfer.destinations import Destination
    from mproxy.transfer.rebuilding import Rebuilding
    from mproxy.transfer.workers import Tried
    Ranges = Sequence[tuple[int, int]]
    # What a file is received into and what of it is missing; whether a directory (None) was made now.
    Opened = tuple[ArrivingFile | None, Ranges, bool]


class Opening:
    """For one sender."""

    def __init__(self, destination: Destination, rebuilding: Rebuilding) -> None:
        self._destination, self._rebuilding = destination, rebuilding

    def open(self, arriving: Arrival) -> Opened:
        """Have it open, or made; all that a Destination raises, and Cancelled."""
        if arriving.file.kind == FileKind.DIRECTORY:
            return None, (), self._destination.make(arriving.file)
        if arriving.file.kind == FileKind.LINK:
            self._destination.link(arriving.file)
            return None, (), False
        if self._destination.has(arriving.file):
            return None, (), False
        anew = arriving.anew or self._rebuilding.is_likely_changed(arriving.file)
        arriving.candidate = target = self._destination.open(arriving.file, anew)
        try:
            if arriving.settled:
                raise Cancelled("the connection has ended")
            ranges = target.begin()
            if ranges:
                self._rebuilding.open_basis(arriving)
            return target, ranges, False
        except BaseException:
            target.abandon()
            raise
        finally:
            arriving.candidate = None

    def open_all(self, some: list[Arrival]) -> list[Tried[Opened]]:
        """As `open`, of small files."""
        targets = self._destination.open_together([arriving.file for arriving in some])
        return [((target, ((0, 1),), False), None) if target else tried(self.open, arriving)
                for arriving, target in zip(some, targets, strict=True)]
