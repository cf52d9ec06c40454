"""How a sender spares the path: --limit, --delta, --compress."""

from __future__ import annotations

from mproxy.transfer.messages import PACKED, REBUILT
from mproxy.transfer.sender import FileSender
from mproxy.transfer.throttle import Throttle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from mproxy.io._loop import Loop
    from mproxy.programs.transfer_config import TransferConfig
    from mproxy.transfer.sender import SendObserver
    from mproxy.transfer.workers import Workers
    from mproxy.transport._link import Link
    from mproxy.transport.keying import KeyExchange

_WHY = {
    REBUILT: "--delta: changed files were sent whole: the receiver is older than this version, or was started without"
             " --force, or with --open",
    PACKED: "--compress: nothing was compressed: the receiver is older than this version, or has no package zstandard"}


class Thrift:
    """Makes the FileSenders of one delivery; MproxyError when something that it takes is not installed."""

    def __init__(self, config: TransferConfig, loop: Loop) -> None:
        self._loop, self._rate, self._delta = loop, config.limit // 8, config.delta
        self._squeezer = None
        if config.compress:
            from mproxy.transfer import zstd
            from mproxy.transfer.squeezer import Squeezer
            zstd.load()
            self._squeezer = Squeezer(loop.now)

    @property
    def codings(self) -> int:
        """That may be used."""
        return REBUILT * self._delta | PACKED * (self._squeezer is not None)

    def make_sender(self, link: Link, readers: Workers, observer: SendObserver,
                    keying: KeyExchange | None) -> FileSender:
        """For a connection."""
        throttle = Throttle(self._loop, link, self._rate) if self._rate else None
        return FileSender(link, readers, observer, keying, throttle, self._delta, self._squeezer)

    def complain(self, taken: int) -> Iterator[str]:
        """Why what was asked for was not done, when the receiver takes the codings `taken`."""
        for coding, why in _WHY.items():
            if self.codings & ~taken & coding:
                yield why
