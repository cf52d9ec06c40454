"""One transfer over as many connections as it takes.

1. The first connection that answers carries the transfer.
2. When nothing has been heard on it for DOUBT_US the receiver is dialled again beside it, at the last address and at
   those that its name has now: it may have been restarted, or have given us up while this host slept. The old
   connection is kept meanwhile; if it is heard again the new one is dropped. Otherwise the new one, once it is open,
   takes over what has not arrived; the receiver knows each file by its identity and continues where it was.
3. A receiver that says that it has stopped, or has not heard us for too long, is dialled again until `silence_us` have
   passed since it was last heard.
4. The transfer is over when the receiver has been silent for that long (the engine's idle time, in which a stopped
   process or a host without a network does not count), or when it refuses.

Standard input that has been read cannot be sent again: then there is only the first connection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mproxy.ground.config import format_host_port
from mproxy.ground.errors import MproxyError
from mproxy.ground.words import counted
from mproxy.policy.resolver import numeric_address
from mproxy.programs.reach import Reach
from mproxy.programs.sounding import Sounding
from mproxy.transfer.messages import FileKind, Result
from mproxy.transfer.sender import FileSender, SendObserver
from mproxy.transfer.source_queue import SourceQueue
from mproxy.transfer.workers import Workers
from mproxy.transport._packet import EndCode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.ground.shapes import Address
    from mproxy.io._loop import Loop
    from mproxy.programs.thrift import Thrift
    from mproxy.transfer.deletion_out import Deletion
    from mproxy.transfer.file_run import FileRun
    from mproxy.transfer.source_file import SourceFile
    from mproxy.transport._datagram_endpoint import DatagramEndpoint
    from mproxy.transport._link import Link
    from mproxy.transport.keying import KeyExchange

LOOK_US = 250_000     # between two looks at how long it has been silent
LATE_US = 1_000_000   # a look that is so late shows that this process was stopped
DOUBT_US = 4_500_000  # two questions (the engine's keepalive) without an answer
REDIAL_US = 10_000_000  # for one round of dialling; the next one looks names up again
PAUSE_US = 1_000_000  # between two rounds
SOUND_AFTER_US = 300_000  # after this long without an answer to the first dial find out why

OVERTAKEN = EndCode.ABORTED

# Ends announced by the peer that a new connection may overcome.
_TRANSIENT = (EndCode.STOPPED, EndCode.IDLE)


class DeliveryObserver:
    """Told by a Delivery."""

    def on_file(self, source: SourceFile) -> None:
        """The outcome of a file is known."""

    def on_run(self, run: FileRun) -> None:
        """Small files have arrived, all of these."""
        for source in run.arrived():
            self.on_file(source)

    def on_trouble(self, event: str, **fields: object) -> None:
        """Something that the user should know meanwhile."""

    def on_finished(self, error: str | None, code: int) -> None:
        """It is over; `error` None: all has arrived."""
        raise NotImplementedError


class Delivery(SendObserver):
    """Sends sources to `host`, `port`. `look_up()` gives its addresses, `keying()` what a new connection needs."""

    _readers: Workers  # that read files, from `start` on

    def __init__(self, loop: Loop, endpoint: DatagramEndpoint, host: str, port: int,
                 look_up: Callable[[], list[Address]], keying: Callable[[], KeyExchange | None],
                 observer: DeliveryObserver, silence_us: int, thrift: Thrift) -> None:
        self._loop, self._endpoint = loop, endpoint
        self._host, self._port = host, port
        self._look_up, self._keying = look_up, keying
        self._observer = observer
        self._silence_us = silence_us
        self._thrift = thrift
        self._asker: Workers | None = None  # the worker that looks names up
        self._sources = SourceQueue()
        self._deletion: Deletion | None = None
        self._left: list[SourceFile] = []  # what the last connection, once it is over, has left unsettled
        self._first: SourceFile | None = None  # what it announced first
        self._again: list[SourceFile] = []  # what has arrived and would be announced again over another connection
        self._known: set[SourceFile] = set()  # of what was taken: those whose outcome was told
        self._reach: Reach | None = None
        self._sounding: Sounding | None = None
        self._reach_at = self._pause_until = 0  # when the round of dialling began, and until when there is no other
        self._asking = False
        self._sender: FileSender | None = None  # the FileSender whose files arrive
        self._candidate: FileSender | None = None  # the FileSender on a connection that is being made
        self._heard_at = 0  # when `_sender`, now gone, was last heard
        self._look_at = 0  # when the next look is due
        self._silent = False  # the observer was told of silence
        self._why: tuple[str, int] | None = None  # the last failed dial's (error, code)
        self._over = False
        self._ended: dict[str, int] = {}  # statistics of connections that are over
        self._sent_bytes = self._saved_bytes = 0
        self.takes_codings = thrift.codings  # of those that we may use, as far as is known
        self._settled_bytes = 0  # of files that were settled over this connection
        self._done_before = 0  # and over those before it
        self._done_last = 0  # bytes of files over the last connection, once it is over
        self.takes_attributes = True  # of files, as far as is known
        self.kept_bytes = 0  # that the receiver had at the beginning

    def start(self, sources: SourceQueue, addresses: Sequence[Address], readers: Workers,
              deletion: Deletion | None = None) -> None:
        """Dial. `readers` are Workers."""
        self._deletion = deletion
        self._sources, self._readers = sources, readers
        self._heard_at = self._loop.now()
        self._dial(addresses)
        self._look_later()

    def give_up(self, code: int, reason: str) -> None:
        """End everything, with this reason; the observer is told."""
        if self._reach is not None:
            self._reach.give_up(code, reason)
        for sender in (self._candidate, self._sender):
            if sender is not None:
                sender.give_up(code, reason)
        if self._sender is None:
            self._finish(reason, code)

    # ---- getters

    @property
    def sent_bytes(self) -> int:
        """Bytes of files sent, some of them perhaps twice."""
        return self._sent_bytes + (self._sender.sent_bytes if self._sender else 0)

    @property
    def saved_bytes(self) -> int:
        """Bytes of files that were sent in a shorter way."""
        return self._saved_bytes + (self._sender.saved_bytes if self._sender else 0)

    @property
    def done_bytes(self) -> int:
        """Bytes of files that have arrived or are on their way."""
        sender = self._sender
        return self._done_before + (sender.done_bytes if sender else self._done_last)

    @property
    def peer(self) -> tuple[str, int] | None:
        """Where the receiver is; None while there is no connection."""
        return self._sender.link.peer if self._sender is not None else None

    @property
    def statistics(self) -> dict[str, int]:
        """Counters of all connections, {name: number}; empty before the first one."""
        total = dict(self._ended)
        if self._sender is not None:
            _add(total, self._sender.link.statistics)
        return total

    # ---- dialling

    def _dial(self, addresses: Sequence[Address]) -> None:
        self._reach_at = self._loop.now()
        self._reach = Reach(self._loop, self._endpoint, addresses, self._begin, self._unreached)
        self._sounding = Sounding(self._loop, addresses, SOUND_AFTER_US, self._sounded)

    def _dial_anew(self) -> None:
        """Look the name up, and dial."""
        if self._asker is None:
            self._asker = Workers(self._loop.call_soon_threadsafe, 1)
        self._asking = True
        self._asker.submit(self._look_up, self._looked_up)

    def _looked_up(self, addresses: list[Address] | None, error: Exception | None) -> None:
        self._asking = False
        if self._over or not self._is_doubted():
            return
        if error is not None and not isinstance(error, MproxyError):
            raise error
        last = [entry for entry in self._last_address() if entry not in (addresses or [])]
        if last or addresses:
            self._dial(last + (addresses or []))
        else:
            self._unreached(EndCode.TIMED_OUT, str(error))

    def _last_address(self) -> list[Address]:
        if self._sender is None:
            return []
        host, port = self._sender.link.peer
        return (numeric_address(host, port) or ([], None))[0]

    def _sounded(self, why: str) -> None:
        if self._sender is None or self._is_doubted():
            self._why = why, EndCode.TIMED_OUT
            self._observer.on_trouble("not-reached", why=why)

    def _begin(self, link: Link) -> None:
        """A receiver has answered: send to it, or try it beside the old connection."""
        self._stop_dialling()
        if self._sender is None and not self._ended:
            sender = self._sender = self._send_over(link)
            sender.start(self._sources, self._deletion)
        else:
            self._candidate = self._send_over(link)

    def _send_over(self, link: Link) -> FileSender:
        return self._thrift.make_sender(link, self._readers, self, self._keying())

    def _stop_dialling(self) -> None:
        self._reach = None
        if self._sounding is not None:
            self._sounding.close()
            self._sounding = None

    def _unreached(self, code: int, reason: str) -> None:
        """No address has answered: report it and try again."""
        self._stop_dialling()
        self._dial_failed(reason, code)

    def _dial_failed(self, reason: str, code: int) -> None:
        self._pause_until = self._loop.now() + PAUSE_US
        if self._sender is None and not self._may_dial(self._pause_until):
            self._finish(*(self._why or (reason, code)))

    # ---- doubts

    def _is_doubted(self) -> bool:
        """Whether there is no connection to rely on."""
        return self._sender is None or self._silence() > DOUBT_US

    def _silence(self) -> int:
        return self._loop.now() - (self._sender.link.heard_us if self._sender else self._heard_at)

    def _may_dial(self, at: int) -> bool:
        """Whether there is time left and everything can be sent again."""
        return at - self._heard_at < self._silence_us and bool(self._ended) and not self._is_spent()

    @property
    def _unsettled(self) -> list[SourceFile]:
        return self._sender.unsettled if self._sender is not None else self._left

    def _is_settled(self) -> bool:
        return self._sources.ended and not self._unsettled and (self._deletion is None or self._deletion.is_over)

    def _is_spent(self) -> bool:
        return any(source.is_spent for source in self._unsettled)

    def _look(self) -> None:
        if self._over:
            return
        now = self._loop.now()
        if now - self._look_at > LATE_US:
            # It may have been stopped just when it read what the receiver said last, and took the time of before.
            self._heard_at = min(now, self._heard_at + now - self._look_at)
        doubted = self._is_doubted()
        if self._sender is not None and self._silent and not doubted:
            self._silent = False
            self._observer.on_trouble("heard-again")
        if self._reach is not None:
            if self._sender is not None and not doubted:
                self._reach.give_up(OVERTAKEN, "the old connection still works")
            elif now - self._reach_at > REDIAL_US and (self._sender is not None or self._ended):
                self._reach.give_up(EndCode.TIMED_OUT, "the other side does not answer")
        elif self._sender is None and self._candidate is None and now - self._heard_at >= self._silence_us:
            self._finish(*(self._why or ("the other side does not answer", EndCode.TIMED_OUT)))
            return
        elif self._candidate is not None:
            if now - self._reach_at > REDIAL_US:
                self._candidate.give_up(EndCode.TIMED_OUT, "the other side does not answer")
        elif doubted and not self._asking and now >= self._pause_until:
            self._doubt()
        self._look_later()

    def _look_later(self) -> None:
        self._look_at = self._loop.now() + LOOK_US
        self._loop.call_later(LOOK_US, self._look)

    def _doubt(self) -> None:
        if self._is_settled():
            self._finish(None, EndCode.DONE)  # only the goodbye is missing
            return
        if not self._silent:
            self._silent = True
            self._observer.on_trouble("silent", seconds=round(self._silence() / 1e6, 1))
        if not self._is_spent():
            self._dial_anew()

    # ---- of FileSender

    def on_open(self, sender: FileSender) -> None:
        if sender is not self._candidate:
            return
        if not self._is_doubted():
            self._candidate = None
            sender.give_up(OVERTAKEN, "the old connection still works")
            return
        self._candidate = None
        if self._sender is not None:
            self._drop(self._sender)
            self._sender.give_up(OVERTAKEN, "reconnected")
        again = self._take_again()
        self._sources.put_back(again)
        self._sender = sender
        self._silent, self._why = False, None
        self._observer.on_trouble("dialled-anew", peer=format_host_port(*sender.link.peer),
                                  files=counted(len(again), "file"))
        sender.start(self._sources, self._deletion)

    def _take_again(self) -> list[SourceFile]:
        """What was taken before and has not arrived. A receiver recognises a returning sender by the first thing it
        announces, so that is announced again, although the outcome is known. So are directories, which get their times
        when everything in them has arrived."""
        left = sorted(self._again + self._left, key=lambda source: source is not self._first)
        again = [source.again() for source in left]
        self._known = {one for one, source in zip(again, left, strict=True)
                       if source.outcome is not None or source in self._known}
        self._done_before += self._settled_bytes - sum(source.size for source in self._again)
        self._settled_bytes, self._left, self._again = 0, [], []
        return again

    def on_file(self, sender: FileSender, source: SourceFile) -> None:
        self._settled_bytes += source.size
        outcome = source.outcome
        if outcome is not None and outcome.code == Result.DONE and source.path is not None and (
                source is sender.first or source.kind == FileKind.DIRECTORY):
            self._again.append(source)
        if source in self._known:
            self._known.remove(source)
        else:
            self._observer.on_file(source)

    def on_run(self, sender: FileSender, run: FileRun) -> None:
        self._settled_bytes += run.size
        self._observer.on_run(run)

    def on_over(self, sender: FileSender, error: str | None, code: int, local: bool) -> None:
        if sender is self._candidate:
            self._candidate = None
            why = error or "the receiver closed the connection"
            self._why = why, code
            self._dial_failed(why, code)
        elif sender is self._sender:
            self._drop(sender)
            self._sender = None
            if self._is_settled():
                error = None
            if error is None or local or code not in _TRANSIENT or not self._may_dial(self._loop.now()):
                self._finish(error, code)
            else:
                self._observer.on_trouble("silent", why=error)
                self._silent, self._why = True, (error, code)
                self._pause_until = self._loop.now() + PAUSE_US

    def _drop(self, sender: FileSender) -> None:
        """It no longer carries anything."""
        if not self._ended:
            self.kept_bytes = sender.kept_bytes
        self._left, self._first = sender.unsettled, sender.first
        self._heard_at = sender.link.heard_us
        self.takes_attributes = sender.takes_attributes
        self.takes_codings = sender.takes_codings
        self._sent_bytes += sender.sent_bytes
        self._saved_bytes += sender.saved_bytes
        self._done_last = sender.done_bytes
        _add(self._ended, sender.link.statistics)

    def _finish(self, error: str | None, code: int) -> None:
        if self._over:
            return
        self._over = True
        for sender in (self._candidate, self._sender):
            if sender is not None:
                sender.give_up(code or EndCode.ABORTED, error or "")
        if self._reach is not None:
            self._reach.give_up(code or EndCode.ABORTED, error or "")
        self._stop_dialling()
        self._observer.on_finished(error, code)


def _add(total: dict[str, int], statistics: dict[str, int]) -> None:
    for name, number in statistics.items():
        total[name] = number if name == "round_trip_us" else total.get(name, 0) + number
