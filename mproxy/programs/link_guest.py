"""Who comes to sproxy over datagrams, until they say HELLO, and sproxy's sockets for them.

A peer that has answered the cookie is a stranger of the DatagramEndpoint (mproxy.transport.strangers) until both have
agreed on keys: a Newcomer. From then on it is a guest of the reception like those on TCP connections, and judged there:
every key may agree on keys, as every key may finish a TLS handshake.
"""

from __future__ import annotations

import socket
from functools import partial

from mproxy.carrier._datagram_carrier import DatagramCarrier, is_busy, leave_link
from mproxy.ground.config import say_address
from mproxy.ground.errors import MproxyError, PeerError
from mproxy.io import heirlooms
from mproxy.io.bind import open_udp
from mproxy.programs.greeting import Guest, most_unfinished
from mproxy.transport._datagram_endpoint import DatagramEndpoint
from mproxy.transport._packet import MAX_PACKET_BYTES, EndCode
from mproxy.transport.datagram_config import for_session
from mproxy.transport.keying import DISAGREE
from mproxy.transport.observers import DatagramObserver, LinkHandler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mproxy.ground.config import SproxyConfig
    from mproxy.ground.shapes import Logger
    from mproxy.io._loop import Loop
    from mproxy.programs.greeting import Reception
    from mproxy.transport._datagram_endpoint import Link
    from mproxy.transport.keying import Keying, LinkKeys

# Time to agree on keys: two round trips, of which packets may get lost.
KEYS_US = 10_000_000

# At the end, for the acknowledgement of what was said last; and how often to look.
LEAVE_US = 1_000_000
LOOK_US = 5_000

RECEIVE_BYTES = 65536


class LinkDoor(DatagramObserver):
    """sproxy's UDP sockets. `make_keying()`: our side of one agreement on keys."""

    def __init__(self, loop: Loop, log: Logger, config: SproxyConfig, reception: Reception,
                 make_keying: Callable[[], Keying]) -> None:
        self._loop = loop
        self._log = log
        self._config = config
        self._reception = reception
        self._make_keying = make_keying
        self._sockets: list[socket.socket] = []
        self._names: list[str] = []  # of these, for the next build
        self._endpoints: list[DatagramEndpoint] = []
        self._is_closed = False

    def bind(self, listeners: list[socket.socket]) -> bool:
        """Have a UDP socket for each of these TCP ones, at the same address and port. If one cannot be had there is
        none: that is an MproxyError if the user has asked for them, else the log says so."""
        try:
            for listener in listeners:
                self._bind(listener)
        except MproxyError as error:
            while self._sockets:
                heirlooms.forget(self._names.pop())
                self._sockets.pop().close()
            if self._config.udp:
                raise
            self._log.warning("no-udp", why=f"{error}; clients come over TCP alone (--no-udp says that this is meant)")
        return bool(self._sockets)

    def _bind(self, listener: socket.socket) -> None:
        host, port, *more = listener.getsockname()
        if more and more[1]:
            host += f"%{socket.if_indextoname(more[1])}"
        name = f"udp {host} {port}"
        given = heirlooms.take(name)
        sock = socket.socket(fileno=given) if given is not None else open_udp(host, port)
        heirlooms.note(name, sock.fileno())
        self._sockets.append(sock)
        self._names.append(name)

    def open(self, most_sessions: int) -> None:
        """Let peers dial."""
        config = for_session(self._config.session, MAX_PACKET_BYTES)
        most = most_sessions + 2 * most_unfinished(self._config)
        self._endpoints = [DatagramEndpoint(self._loop, sock.fileno(), config, self, most=most)
                           for sock in self._sockets]

    def close(self) -> None:
        """Let nobody in any more."""
        self._is_closed = True

    def leave(self, done: Callable[[], object]) -> None:
        """Call `done` when the last words on all links have arrived, or it is too late for that."""
        self._leave(done, self._loop.now() + LEAVE_US)

    def _leave(self, done: Callable[[], object], until: int) -> None:
        if any(is_busy(endpoint) for endpoint in self._endpoints) and self._loop.now() < until:
            self._loop.call_later(LOOK_US, lambda: self._leave(done, until))
        else:
            done()

    # ---- told by the endpoints

    def on_link(self, link: Link) -> None:
        if not self._is_closed:
            Newcomer(self._loop, link, self._make_keying(), self._welcome)

    def on_full(self) -> None:
        self._log.warning("refused", why="too many connections over UDP")

    def _welcome(self, link: Link, keys: LinkKeys) -> None:
        if self._is_closed:
            link.abort(int(EndCode.STOPPED), b"")
        else:
            self._reception.receive_guest(LinkGuest(self._loop, self._reception, link, keys))


class Newcomer(LinkHandler):
    """A peer on `link`, until there are keys: then `welcome(link, keys)` is called, and sets another handler."""

    def __init__(self, loop: Loop, link: Link, keying: Keying, welcome: Callable[[Link, LinkKeys], object]) -> None:
        link.handler = self
        self._loop = loop
        self._keying = keying
        self._welcome = welcome
        self._heard = False
        self._is_over = False
        self._timer = loop.call_later(KEYS_US, partial(self._give_up, link))

    def on_handshake(self, link: Link, data: bytes) -> None:
        """The first message is a stranger's: what it costs is slow work of the loop. The second is awaited, and what
        comes right behind it needs the keys."""
        if self._heard:
            self._take(link, data)
        else:
            self._heard = True
            self._loop.call_slow(lambda: self._take(link, data))

    def _take(self, link: Link, data: bytes) -> None:
        if self._is_over:
            return
        try:
            self._keying.take(link, data)
        except PeerError:
            self._give_up(link)

    def _give_up(self, link: Link) -> None:
        if not self._is_over:
            self._end()
            link.abort(int(EndCode.HANDSHAKE_FAILED), DISAGREE.encode())

    def _end(self) -> None:
        self._is_over = True
        self._timer.cancel()

    def on_established(self, link: Link) -> None:
        """It has used the keys."""
        keys = self._keying.link_keys
        if not self._is_over and keys is not None:
            self._end()
            self._welcome(link, keys)

    def on_ended(self, _link: Link, _code: int, _reason: str, _local: bool) -> None:
        """It has gone."""
        self._end()


class LinkGuest(Guest, LinkHandler):
    """A guest on a link, with keys."""

    def __init__(self, loop: Loop, reception: Reception, link: Link, keys: LinkKeys) -> None:
        super().__init__(loop, reception, link.peer, say_address(link.peer), keys)
        self._link = link
        self._buffer = bytearray(RECEIVE_BYTES)
        link.handler = self
        link.fill(self._buffer, 1)

    def close(self) -> None:
        """End the link without a word."""
        self.release()
        self._link.abort(int(EndCode.ABORTED), b"")

    def finish(self, last_words: bytes) -> None:
        """Send these, and end the link behind them."""
        self.release()
        self._link.send(last_words)
        leave_link(self._link)

    def make_carrier(self) -> DatagramCarrier:
        """The carrier on the link."""
        return DatagramCarrier(self._link)

    def _send(self) -> None:
        greeter = self.greeter
        if greeter.outgoing:
            self._link.send(greeter.outgoing)
            greeter.outgoing = b""

    # ---- told by the link

    def on_filled(self, link: Link) -> None:
        """Bytes have come."""
        data = bytes(self._buffer[:link.filled])
        self._loop.call_slow(lambda: self._on_turn(data))

    def _on_turn(self, data: bytes) -> None:
        if not self.left:
            self._take(data)
        if not self.left and not self.waits:
            self._link.fill(self._buffer, 1)

    def on_read_ended(self, _link: Link) -> None:
        """It has nothing more to say."""
        if not self.left:
            self._reception.gave_up(self)

    def on_ended(self, _link: Link, _code: int, _reason: str, _local: bool) -> None:
        """It has gone."""
        if not self.left:
            self._reception.gave_up(self)
