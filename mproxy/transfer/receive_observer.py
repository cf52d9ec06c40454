"""Who is told, and asked, what a receiver should do."""

from __future__ import annotations

from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.transfer.deletion_out import Surplus
    from mproxy.transfer.messages import File, Result
    from mproxy.transfer.receiver import FileReceiver


class ReceiveObserver:
    """Told of, and asked about, what a FileReceiver receives."""

    def on_open(self, receiver: FileReceiver) -> None:
        """A sender is there, with the keys."""

    def on_first_file(self, receiver: FileReceiver) -> str | None:
        """It has announced something. Returns why that is not accepted; None: it is."""
        return None

    def on_file(self, receiver: FileReceiver, file: File, code: Result, root: bytes, text: str) -> None:
        """The outcome of a file."""

    def on_left_out(self, receiver: FileReceiver, name: bytes, why: str) -> None:
        """The sender was to send this, and does not. No name: there is more of it."""

    def on_finished(self, receiver: FileReceiver, error: str | None, code: int) -> None:
        """The connection is over; `error` None: all has arrived."""

    def on_busy(self, receiver: FileReceiver, file: File, looks: int, again: Callable[[], None]) -> bool:
        """Another transfer is writing that file, for the `looks`th time. True: `again` will be called later; False: the
        file fails."""
        return False

    def on_surplus(self, receiver: FileReceiver, surplus: list[Surplus], answer: Callable[[bool], object]) -> None:
        """The sender would have this deleted, which it does not have: call `answer`, now or later."""
        answer(False)

    def on_crowded(self, again: Callable[[], None]) -> None:
        """Too many files are open here: call `again` later."""
        raise NotImplementedError
