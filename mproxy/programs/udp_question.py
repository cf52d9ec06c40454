"""Whether an sproxy answers over UDP: what `mproxy doctor` says there, as a cproxy would.

It goes as far as over TCP (programs/probes): both sides agree on keys, and a session that there never was is asked for.
So an answer is sproxy's own, and a carrier over UDP would have got it.
"""

from __future__ import annotations

import os
import time

from mproxy import _wire
from mproxy.ground.config import format_host_port
from mproxy.ground.errors import PeerError
from mproxy.handshake import Caller
from mproxy.io._loop import Loop
from mproxy.io._socket import Target
from mproxy.io.bind import open_udp
from mproxy.programs.introduction import make_hello
from mproxy.programs.probes import RECEIVE_BYTES, Heard
from mproxy.transport._datagram_endpoint import DatagramEndpoint
from mproxy.transport._packet import EndCode
from mproxy.transport.datagram_config import for_session
from mproxy.transport.keying import SESSION_PURPOSE, Keying, KeyPair
from mproxy.transport.observers import LinkHandler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mproxy.ground.config import CproxyConfig
    from mproxy.handshake import Hello
    from mproxy.policy.paths import Way
    from mproxy.transport._link import Link

# Bytes of the largest packet: nothing here is large.
PACKET_BYTES = 1500

# For the word that we have gone.
LEAVE_US = 20_000


def ask_over_udp(way: Way, config: CproxyConfig, pem: bytes, certificate: bytes,
                 judge: Callable[[bytes, bytes], object], patience_s: float) -> Heard:
    """What comes of it; `judge(its key, its certificate)`. `pem` is our key, shown with `certificate` if not empty.
    OSError if no packet can be sent."""
    loop = Loop()
    with open_udp(None, 0) as sock:
        endpoint = DatagramEndpoint(loop, sock.fileno(), for_session(config.session, PACKET_BYTES))
    try:
        pair = KeyPair(pem, "the key")
        pair.certificate = certificate
        question = UdpQuestion(loop, config, pair, judge)
        target = Target(format_host_port(*way.address[:2]), [(way.family, way.address)])
        link = endpoint.connect(target, question)
        loop.call_later(int(patience_s * 1e6), loop.stop)
        loop.run()
        question.is_over = True
        link.abort(int(EndCode.ABORTED), b"")
        loop.call_later(LEAVE_US, loop.stop)
        loop.run()
    finally:
        endpoint.close()
    return question.heard


class UdpQuestion(LinkHandler):
    """Asks on one link, and stops `loop` when it has the answer."""

    def __init__(self, loop: Loop, config: CproxyConfig, pair: KeyPair,
                 judge: Callable[[bytes, bytes], object]) -> None:
        self.heard = Heard()
        self.is_over = False
        self._loop = loop
        self._config = config
        self._keying = Keying(pair, True, lambda spki, _link: judge(spki, self._keying.peer_certificate),
                              SESSION_PURPOSE)
        self._caller: Caller | None = None
        self._buffer = bytearray(RECEIVE_BYTES)
        self._began = time.monotonic()

    def _compose(self) -> tuple[Hello, bytes, bytes]:
        hello = make_hello(self._config, os.urandom(_wire.SESSION_ID_BYTES), os.urandom(_wire.INSTANCE_ID_BYTES),
                           time.time_ns() // 1000)
        return hello, b"", os.urandom(_wire.SECRET_BYTES)

    def _over(self, error: PeerError | None = None, ended: str | None = None) -> None:
        if not self.is_over:
            self.is_over = True
            self.heard.error, self.heard.ended = error, ended
            self.heard.refused = self._caller is not None and self._caller.refused
            self._loop.stop()

    # ---- told by the link

    def on_handshake(self, link: Link, data: bytes) -> None:
        """Something that speaks as we do is there."""
        if self.is_over:
            return
        if not self.heard.first:
            self.heard.first = b"SYN-ACK"
            self.heard.took_s = time.monotonic() - self._began
        try:
            self._keying.take(link, data)
        except PeerError as error:
            self._over(error)
            return
        keys = self._keying.link_keys
        if keys is not None and self._caller is None:
            self._caller = Caller(self._compose, keys, lambda _spki: None)
            link.send(self._caller.outgoing)
            link.fill(self._buffer, 1)

    def on_filled(self, link: Link) -> None:
        """It has answered."""
        if self.is_over or self._caller is None:
            return
        try:
            self._caller.feed(bytes(self._buffer[:link.filled]))
        except PeerError as error:
            self._over(error)
            return
        link.fill(self._buffer, 1)

    def on_read_ended(self, _link: Link) -> None:
        """It has nothing more to say."""
        self._over(ended="closed")

    def on_ended(self, _link: Link, _code: int, reason: str, _local: bool) -> None:
        """It is over."""
        self._over(ended=reason or "ended without a reason")
