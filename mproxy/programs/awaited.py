"""A transfer whose sender waits to be dialled: for a Delivery without dialling.

The first that has the keys is the receiver; nobody else is let in after it. Its connection survives changes of address
on either side, and there is no other one: what was interrupted is sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mproxy.programs.delivery import DeliveryObserver
from mproxy.transfer.sender import FileSender, SendObserver
from mproxy.transfer.source_queue import SourceQueue
from mproxy.transport._packet import EndCode
from mproxy.transport.observers import DatagramObserver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.ground.shapes import Address
    from mproxy.io._loop import Loop
    from mproxy.programs.thrift import Thrift
    from mproxy.transfer.deletion_out import Deletion
    from mproxy.transfer.file_run import FileRun
    from mproxy.transfer.source_file import SourceFile
    from mproxy.transfer.workers import Workers
    from mproxy.transport._link import Link
    from mproxy.transport.keying import KeyExchange

# Whoever has not shown the keys has a place this long; and how many of them there may be.
OPEN_WITHIN_US = 10_000_000
MOST_STRANGERS = 16

TAKEN = "this sender already has its receiver"


class AwaitedDelivery(DatagramObserver, SendObserver):
    """Sends sources to the first that dials the endpoint that it observes, with what `keying()` gives."""

    def __init__(self, loop: Loop, keying: Callable[[], KeyExchange], observer: DeliveryObserver,
                 thrift: Thrift) -> None:
        self._loop, self._keying, self._observer, self._thrift = loop, keying, observer, thrift
        self._sources = SourceQueue()
        self._readers: Workers | None = None
        self._deletion: Deletion | None = None
        self._strangers: set[FileSender] = set()  # who have not shown that they have the keys
        self._sender: FileSender | None = None
        self._left_out: list[tuple[bytes, str]] = []  # what a receiver is to be told, once there is one
        self._over = False

    def start(self, sources: SourceQueue, _addresses: Sequence[Address], readers: Workers,
              deletion: Deletion | None = None) -> None:
        """Let the receiver in from now on. Addresses are for those who dial."""
        self._sources, self._readers, self._deletion = sources, readers, deletion

    def leave_out(self, name: bytes, why: str) -> None:
        """Tell the receiver that something is not sent."""
        if self._sender is not None:
            self._sender.leave_out(name, why)
        else:
            self._left_out.append((name, why))

    def give_up(self, code: int, reason: str) -> None:
        """End everything, with this reason; the observer is told."""
        for stranger in list(self._strangers):
            stranger.give_up(code, reason)
        if self._sender is not None:
            self._sender.give_up(code, reason)
        else:
            self._finish(reason, code)

    # ---- getters

    @property
    def peer(self) -> tuple[str, int] | None:
        """Where the receiver is; None while there is none."""
        return self._sender.link.peer if self._sender is not None and not self._over else None

    @property
    def sent_bytes(self) -> int:
        """Bytes of files sent."""
        return self._sender.sent_bytes if self._sender is not None else 0

    @property
    def done_bytes(self) -> int:
        """Bytes of files that have arrived or are on their way."""
        return self._sender.done_bytes if self._sender is not None else 0

    @property
    def kept_bytes(self) -> int:
        """That the receiver had at the beginning."""
        return self._sender.kept_bytes if self._sender is not None else 0

    @property
    def saved_bytes(self) -> int:
        """That were sent in a shorter way."""
        return self._sender.saved_bytes if self._sender is not None else 0

    @property
    def takes_codings(self) -> int:
        """Of those that we may use; as far as is known."""
        return self._sender.takes_codings if self._sender is not None else self._thrift.codings

    @property
    def takes_attributes(self) -> bool:
        """Of files, as far as is known."""
        return self._sender is None or self._sender.takes_attributes

    @property
    def statistics(self) -> dict[str, int]:
        """Counters of the connection, {name: number}; empty before there is one."""
        return self._sender.link.statistics if self._sender is not None else {}

    # ---- of DatagramEndpoint

    def on_link(self, link: Link) -> None:
        if self._sender is not None or self._over or self._readers is None:
            link.abort(int(EndCode.ABORTED), TAKEN.encode())
            return
        stranger = self._thrift.make_sender(link, self._readers, self, self._keying())
        self._strangers.add(stranger)
        self._loop.call_later(OPEN_WITHIN_US, lambda: self._check_open(stranger))

    def _check_open(self, stranger: FileSender) -> None:
        if stranger in self._strangers:
            stranger.give_up(EndCode.TIMED_OUT, "no keys within 10 s")

    # ---- of FileSender

    def on_open(self, sender: FileSender) -> None:
        self._strangers.discard(sender)
        if self._sender is not None:
            sender.give_up(EndCode.ABORTED, TAKEN)
            return
        self._sender = sender
        for name, why in self._left_out:
            sender.leave_out(name, why)
        sender.start(self._sources, self._deletion)

    def on_file(self, _sender: FileSender, source: SourceFile) -> None:
        self._observer.on_file(source)

    def on_run(self, _sender: FileSender, run: FileRun) -> None:
        self._observer.on_run(run)

    def on_over(self, sender: FileSender, error: str | None, code: int, local: bool) -> None:
        self._strangers.discard(sender)
        if sender is self._sender:
            self._finish(error, code)

    def _finish(self, error: str | None, code: int) -> None:
        if not self._over:
            self._over = True
            self._observer.on_finished(error, code)
