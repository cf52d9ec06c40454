"""Who comes to sproxy over datagrams, until they say HELLO, and sproxy's sockets for them.

A peer that has answered the cookie is a stranger of the DatagramEndpoint (mproxy.transport.strangers) until both have
agreed on keys: a Newcomer. From then on it is a guest of the reception like those on TCP connections, and judged there:
every key may agree on keys, as every key may finish a TLS handshake.
"""

from __future__ import annotations

import os
import socket
from functools import partial

from mproxy.carrier._datagram_carrier import DatagramCarrier, is_busy, leave_link
from mproxy.ground.config import say_address
from mproxy.ground.errors import MproxyError, PeerError
from mproxy.ground.words import parse_host_port
from mproxy.io import heirlooms
from mproxy.io._socket import Target
from mproxy.io.bind import open_udp
from mproxy.programs.greeting import most_unfinished
from mproxy.programs.guest import Guest
from mproxy.transport._datagram_endpoint import DatagramEndpoint
from mproxy.transport._packet import MAX_PACKET_BYTES, EndCode, PacketType
from mproxy.transport.datagram_config import for_session
from mproxy.transport.keying import DISAGREE
from mproxy.transport.observers import DatagramObserver, LinkHandler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mproxy.ground.config import SproxyConfig
    from mproxy.ground.shapes import Logger
    from mproxy.io._loop import Loop
    from mproxy.programs.crew import Crew
    from mproxy.programs.greeting import Reception
    from mproxy.programs.guest import Elsewhere
    from mproxy.transport._detours import Detours
    from mproxy.transport._link import Link
    from mproxy.transport.keying import Keying, LinkKeys

# Time to agree on keys: two round trips, of which packets may get lost.
KEYS_US = 10_000_000

# At the end, for the acknowledgement of what was said last; and how often to look.
LEAVE_US = 1_000_000
LOOK_US = 5_000

# A HELLO and a short list are much less than the first of these; only a long list makes room for more.
FIRST_BYTES = 4096
RECEIVE_BYTES = 65536

# Steps of handshakes that wait for their turn. While there are so many nobody new is heard: what is begun is finished
# first, so that of ten thousand that come at once the first are served before they give up. The others ask again, which
# costs next to nothing.
MOST_QUEUED = 32

# Peers of a worker that died that are told so at once.
MOST_DISOWNED = 256


# Where an id is in a packet (mproxy/transport/_packet.pxd).
ID_AT = 4


class LinkDoor(DatagramObserver):
    """sproxy's UDP sockets. `make_keying()`: our side of one agreement on keys."""

    def __init__(self, loop: Loop, log: Logger, config: SproxyConfig, reception: Reception,
                 make_keying: Callable[[], Keying]) -> None:
        self._loop = loop
        self._log = log
        self._config = config
        self._reception = reception
        self._make_keying = make_keying
        self._sockets: list[list[socket.socket]] = []  # of each port, one for each worker
        self._names: list[str] = []  # of all these, for the next build
        self._detours: list[Detours | None] = []
        self._endpoints: list[DatagramEndpoint] = []
        self._is_closed = False
        self._queued = 0  # steps

    def bind(self, listeners: list[socket.socket]) -> bool:
        """Have a UDP socket for each of these TCP ones, at the same address and port. If one cannot be had there is
        none: that is an MproxyError if the user has asked for them, else the log says so."""
        try:
            for listener in listeners:
                self._bind(listener)
        except MproxyError as error:
            while self._names:
                heirlooms.forget(self._names.pop())
            for sock in (each for sockets in self._sockets for each in sockets):
                sock.close()
            self._sockets, self._detours = [], []
            if self._config.udp:
                raise
            self._log.warning("no-udp", why=f"{error}; clients come over TCP alone (--no-udp says that this is meant)")
        return bool(self._sockets)

    def _bind(self, listener: socket.socket) -> None:
        host, port, *more = listener.getsockname()
        if more and more[1]:
            host += f"%{socket.if_indextoname(more[1])}"
        self._sockets.append([])
        sockets = self._sockets[-1]
        sockets.append(self._take_or_open(f"udp {host} {port}", partial(open_udp, host, port)))
        self._detours.append(self._share(sockets, host, port) if self._config.workers > 1 else None)

    def _take_or_open(self, name: str, make: Callable[[], socket.socket]) -> socket.socket:
        """The socket of that name, which the next build is to have, too, and which we may have from the one before."""
        given = heirlooms.take(name)
        sock = socket.socket(fileno=given) if given is not None else make()
        heirlooms.note(name, sock.fileno())
        self._names.append(name)
        return sock

    def _share(self, sockets: list[socket.socket], host: str, port: int) -> Detours:
        """Have a socket for each worker."""
        from mproxy.io.shared_port import choose_by_byte, open_beside, share_udp
        from mproxy.transport._detours import Detours
        from mproxy.transport._listener import Routing
        share_udp(sockets[0])
        for number in range(1, self._config.workers):
            sockets.append(self._take_or_open(f"udp {host} {port} {number}", partial(open_beside, host, port)))
        routing = Routing(self._config.workers, os.urandom(16))
        if not choose_by_byte(sockets, ID_AT, routing.bits, int(PacketType.SYN)) and len(self._sockets) == 1:
            self._log.info("no-packet-filter", why=(
                "the kernel cannot choose a worker for each UDP packet: the workers hand packets over"))
        return Detours(routing)

    def open(self, most_sessions: int, crew: Crew | None) -> None:
        """Let peers dial; of several workers each has its own sockets."""
        worker = crew.number if crew is not None else 0
        config = for_session(self._config.session, MAX_PACKET_BYTES)
        most = most_sessions + 2 * most_unfinished(self._config)
        for sockets, detours in zip(self._sockets, self._detours, strict=True):
            if detours is not None and crew is not None:
                detours.routing.own = worker
                detours.routing.choose, detours.routing.guess = crew.choose_by_packet, crew.guess_by_tag
            self._endpoints.append(DatagramEndpoint(
                self._loop, sockets[worker].fileno(), config, self, most=most, detours=detours))

    def disown(self, peers: list[str]) -> None:
        """Let peers (HOST:PORT) of the worker before know at once that their links have gone with that one; not more
        than can dial at once, for all find out by themselves."""
        for peer in peers[:MOST_DISOWNED]:
            host, port = parse_host_port(peer)
            found: list[Any] = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
            target = Target(peer, [(each[0], each[4]) for each in found])
            for endpoint in self._endpoints:
                endpoint.disown(target)

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
            Newcomer(self._loop, self.in_turn, link, self._make_keying(), self._welcome)

    def is_busy(self) -> bool:
        return self._queued >= MOST_QUEUED

    def in_turn(self, step: Callable[[], object]) -> None:
        """Take a step of a handshake as slow work of the loop."""
        self._queued += 1
        self._loop.call_slow(partial(self._take_step, step))

    def _take_step(self, step: Callable[[], object]) -> None:
        self._queued -= 1
        step()

    def on_full(self) -> None:
        self._log.warning("refused", why="too many connections over UDP")

    def _welcome(self, link: Link, keys: LinkKeys, answer_us: int) -> None:
        if self._is_closed:
            link.abort(int(EndCode.STOPPED), b"")
        else:
            self._reception.receive_guest(LinkGuest(self._loop, self.in_turn, self._reception, link, keys, answer_us))


class Newcomer(LinkHandler):
    """A peer on `link`, until there are keys: then `welcome(link, keys, answer_us)` is called, with how long it took to
    answer, and sets another handler. `in_turn`: see LinkDoor."""

    def __init__(self, loop: Loop, in_turn: Callable[[Callable[[], object]], None], link: Link, keying: Keying,
                 welcome: Callable[[Link, LinkKeys, int], object]) -> None:
        link.handler = self
        self._loop = loop
        self._in_turn = in_turn
        self._keying = keying
        self._welcome = welcome
        self._heard = False
        self._is_over = False
        self._began = loop.now()
        self._timer = loop.call_later(KEYS_US, partial(self._give_up, link))

    def on_handshake(self, link: Link, data: bytes) -> None:
        """The first message is a stranger's: what it costs is slow work of the loop. The second is awaited, and what
        comes right behind it needs the keys."""
        if self._heard:
            self._take(link, data)
        else:
            self._heard = True
            self._in_turn(lambda: self._take(link, data))

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
            self._welcome(link, keys, self._loop.now() - self._began)

    def on_ended(self, _link: Link, _code: int, _reason: str, _local: bool) -> None:
        """It has gone."""
        self._end()


class LinkGuest(Guest, LinkHandler):
    """A guest on a link, with keys; it took `answer_us` to answer. `in_turn`: see LinkDoor."""

    def __init__(self, loop: Loop, in_turn: Callable[[Callable[[], object]], None], reception: Reception, link: Link,
                 keys: LinkKeys, answer_us: int) -> None:
        peer = link.peer
        super().__init__(loop, reception, peer, say_address(peer), keys)
        self._in_turn = in_turn
        self._link = link
        self._answer_us = answer_us
        self._buffer = bytearray(FIRST_BYTES)
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
        """The carrier on the link; it knows where this key may be."""
        may_come = partial(self._reception.may_come, self.spki, self.certificate)
        return DatagramCarrier(self._link, may_come, self._answer_us)

    def go(self, where: Elsewhere) -> None:
        """Dial again, and then reach that worker: the keys of a link and what is under way on it cannot be handed over.
        Only those come here that had no tag to show."""
        assert self._reception.placing is not None
        self._reception.placing.expect(self.address, where.worker)
        self.release()
        self._link.abort(int(EndCode.STOPPED), b"another worker has the session")

    def _send(self) -> None:
        greeter = self.greeter
        if greeter.outgoing:
            self._link.send(greeter.outgoing)
            greeter.outgoing = b""

    # ---- told by the link

    def on_filled(self, link: Link) -> None:
        """Bytes have come."""
        data = bytes(self._buffer[:link.filled])
        if link.filled == FIRST_BYTES:
            self._buffer = bytearray(RECEIVE_BYTES)
        self._in_turn(lambda: self._on_turn(data))

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
