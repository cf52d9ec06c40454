"""The other end of `mproxy copy` where it is the one that sends."""

from __future__ import annotations

import os

from mproxy.ground.errors import MproxyError
from mproxy.ground.words import is_loopback
from mproxy.io.bind import open_udp
from mproxy.programs.awaited import MOST_STRANGERS, AwaitedDelivery
from mproxy.programs.delivery import DeliveryObserver
from mproxy.programs.early_search import begin_search, count_later
from mproxy.programs.started import free_udp_port
from mproxy.programs.thrift import Thrift
from mproxy.programs.transfer import show_name, with_packet_size
from mproxy.service.run import Program
from mproxy.transfer.deletion_out import NOT_ALL_FOUND, Deletion, DeletionObserver
from mproxy.transfer.source_queue import SourceQueue
from mproxy.transfer.walk import check_named
from mproxy.transfer.workers import Workers
from mproxy.transport._datagram_endpoint import DatagramEndpoint
from mproxy.transport._packet import EndCode
from mproxy.transport.one_time import OneTimeKeying

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from mproxy.io._loop import Loop
    from mproxy.programs.transfer_config import TransferConfig
    from mproxy.service.log import Log
    from mproxy.transfer.deletion_out import Surplus

# At the end: how long the engine may answer the last repetitions.
LAST_WORDS_US, LAST_LOOK_US = 5_000_000, 5_000

MOST_NAMED = 1000  # of what is left out


class Agreement(DeletionObserver):
    """--delete of what is copied from here: the other end asks."""

    def on_surplus(self, surplus: Sequence[Surplus], answer: Callable[[bool], object]) -> None:
        answer(True)


class Sending(Program, DeliveryObserver):
    """Sends to the one that dials and has the key. `on_found(answer)` is told what there is to send. `is_watched`:
    somebody wants to know soon how much that is."""

    _workers: Workers
    _endpoint: DatagramEndpoint

    def __init__(self, config: TransferConfig, log: Log, loop: Loop, dry_run: bool,
                 on_found: Callable[[dict[str, Any]], object], is_watched: bool = False) -> None:
        self.exit_status = 1
        self._config, self._log, self._loop = config, log, loop
        self._dry_run, self._is_watched = dry_run, is_watched
        self._on_found = on_found
        self._left_out: list[tuple[str, str]] = []  # until the answer, which names it
        self._named = 0  # of what was left out
        self._deletion = Deletion((), config.rules, Agreement()) if config.delete else None
        self._has_answered = False
        self._delivery = AwaitedDelivery(loop, self._make_keying, self, Thrift(config, loop))

    def _make_keying(self) -> OneTimeKeying:
        assert self._config.secret is not None
        return OneTimeKeying(self._config.secret, False)

    @property
    def peer(self) -> tuple[str, int] | None:
        """Where the receiver is; None while there is none."""
        return self._delivery.peer

    def start(self) -> None:
        self._workers = Workers(self._loop.call_soon_threadsafe, min(4, os.cpu_count() or 1))
        config = self._config
        search = begin_search(self._loop, config, config.paths, config.renamed)
        sources = SourceQueue(search=search)
        sources.on_left_out = self._leave_out

        def look() -> None:
            check_named(config.paths)
            search.wait()
        self._workers.submit(look, lambda _none, error: self._were_found(sources, error))

    def _leave_out(self, path: str, why: str | OSError) -> None:
        """The answer names what was found to be left out before it; later the receiver is told."""
        self._named += 1
        if self._deletion is not None and not isinstance(why, str):
            self._deletion.spoil(NOT_ALL_FOUND)
        text = why if isinstance(why, str) else why.strerror or ""
        if not self._has_answered:
            self._left_out.append((show_name(os.fsencode(path)), text))
        elif self._named <= MOST_NAMED:
            self._delivery.leave_out(os.fsencode(path), text)
        elif self._named == MOST_NAMED + 1:
            self._delivery.leave_out(b"", f"only the first {MOST_NAMED} are named")

    def _were_found(self, sources: SourceQueue, error: Exception | None) -> None:
        """All of them, or at least as many as are kept waiting."""
        if isinstance(error, MproxyError):
            self._on_found({"error": str(error), "status": 1})
            return
        if error is not None:
            raise error
        sources.tell_left_out()
        if self._dry_run:
            self._list(sources)
            return
        self._delivery.start(sources, (), self._workers, self._deletion)
        self._answer({"port": self._listen(), "bytes": sources.total_bytes or 0})
        if self._is_watched:
            count_later(self._loop, self._config, sources, self._config.renamed)

    def _list(self, sources: SourceQueue) -> None:
        names: list[tuple[str, str, int]] = []

        def go_on() -> None:
            while (source := sources.take(True)) is not None:
                names.append((show_name(source.name), source.kind.name.lower(), source.expected_bytes))
                if self._deletion is not None:
                    self._deletion.add(source)
            if not sources.ended or self._has_answered:
                return
            answer: dict[str, Any] = {"names": names}
            if self._deletion is not None:
                answer |= {"port": self._listen(), "bytes": 0}
                self._delivery.start(SourceQueue(), (), self._workers, self._deletion)
            self._answer(answer)
        sources.on_more = go_on
        go_on()

    def _answer(self, answer: dict[str, Any]) -> None:
        self._has_answered = True
        self._on_found({**answer, "left_out": self._left_out[:MOST_NAMED], "left_out_count": self._named})

    def _listen(self) -> int:
        with open_udp(None, free_udp_port()) as own:
            datagram = with_packet_size(self._config.datagram, _is_same_host())
            self._endpoint = DatagramEndpoint(self._loop, own.fileno(), datagram, self._delivery, most=MOST_STRANGERS)
            port: int = own.getsockname()[1]
        return port

    def on_finished(self, error: str | None, code: int) -> None:
        self.exit_status = 0 if error is None else 1
        self._leave()

    def _leave(self, left_us: int = LAST_WORDS_US) -> None:
        if self._endpoint.count and left_us > 0:
            self._loop.call_later(LAST_LOOK_US, lambda: self._leave(left_us - LAST_LOOK_US))
        else:
            self._loop.stop()

    def shut_down(self, signal_name: str) -> None:
        if self._delivery.peer is None:
            self._loop.stop()
        else:
            self._delivery.give_up(EndCode.STOPPED, f"the sender was interrupted by {signal_name}")


def _is_same_host() -> bool:
    """Whether ssh has come from this very host, where packets may be large."""
    seen = os.environ.get("SSH_CONNECTION", "").split()
    return len(seen) == 4 and is_loopback(seen[0])
