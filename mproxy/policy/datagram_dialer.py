"""Finds a new carrier over datagrams (`--carrier datagram`), where `dialer` connects over TCP.

One attempt at a time: it dials the address that last welcomed us, looks the name up meanwhile, and dials the others,
one beside the other (RFC 8305), until one answers; with that it agrees on keys, and says HELLO. The engine repeats what
gets lost, so more attempts would not help. The links of all attempts, and the one that carries the session, have one
socket: when the network has changed each of them sends a packet from the new address at once, and goes on. The pauses
are those of every dial (mproxy.policy.backoff).
"""

from __future__ import annotations

import contextlib
import socket

from mproxy.carrier._datagram_carrier import DatagramCarrier, is_busy
from mproxy.ground.config import format_host_port
from mproxy.ground.errors import PeerError
from mproxy.ground.words import is_loopback
from mproxy.io._socket import Target
from mproxy.io.bind import open_udp
from mproxy.io.delay import Delay
from mproxy.policy.network import outgoing_device
from mproxy.policy.paths import Paths, Way
from mproxy.policy.resolver import interleave
from mproxy.policy.single_dialer import SingleDialer
from mproxy.policy.stagger import Stagger
from mproxy.transport._datagram_endpoint import DatagramEndpoint
from mproxy.transport._packet import EndCode
from mproxy.transport.datagram_config import JUMBO_PACKET_BYTES, LOOPBACK_PACKET_BYTES, for_session
from mproxy.transport.keying import DISAGREE
from mproxy.transport.observers import LinkHandler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mproxy.ground.config import CproxyConfig
    from mproxy.ground.shapes import Address, Spot
    from mproxy.handshake import Caller, Encryption, Welcome
    from mproxy.io._loop import Loop
    from mproxy.policy.dialer import DialObserver
    from mproxy.policy.resolver import Request, Resolver
    from mproxy.transport._link import Link
    from mproxy.transport.keying import Keying

# At the end, for the acknowledgement of what was said last; and how often to look.
LEAVE_US = 500_000
LOOK_US = 5_000

RECEIVE_BYTES = 65536


class DatagramDialer(SingleDialer):
    """As `policy.dialer.Dialer`, over datagrams. `make_keying()`: our side of one agreement on keys; `routing_tag()`:
    what leads back to the worker that has our session, 0: nothing; `heard()` is called when an address has answered;
    `paths`: what is known of the ways, if another dialer knows it, too."""

    def __init__(self, loop: Loop, resolver: Resolver, config: CproxyConfig, observer: DialObserver,
                 make_keying: Callable[[], Keying], routing_tag: Callable[[], int],
                 heard: Callable[[], object] = lambda: None,
                 paths: Paths | None = None) -> None:
        super().__init__(loop, observer, Paths() if paths is None else paths)
        self.heard = heard
        self.resolver = resolver
        self.sproxy = self._given = config.sproxy_host, config.sproxy_port
        self.timeout_us = config.connect_timeout_us
        self.make_keying = make_keying
        self.routing_tag = routing_tag
        local = is_loopback(config.sproxy_host)
        self._config = for_session(
            config.session, LOOPBACK_PACKET_BYTES if local else JUMBO_PACKET_BYTES)
        self._answered: Way | None = None  # where the last attempt was turned away
        self._endpoint: DatagramEndpoint | None = None
        # Connected to where we were welcomed, as that of the carrier is to nobody: by it the worker after this one
        # learns where its predecessor's carrier led (programs/succession).
        self._signpost: socket.socket | None = None
        self._leaves_signpost = config.keeper

    def network_changed(self) -> None:
        """Let sproxy see where we are, and dial again at once if a carrier is wanted at all."""
        if self._endpoint is not None:
            self._endpoint.probe()
        if self.running:
            self.resolver.network_changed()
            if self._schedule.changed():
                self._begin()

    def advertised(self, spot: Spot | None) -> None:
        """Dial there from now on; None: where the command line says."""
        self.sproxy = spot or self._given

    def shun_answered(self) -> None:
        """Try the address that last turned us away after the others: another sproxy with the same key answers there."""
        if self._answered is not None:
            self.paths.is_elsewhere(self._answered)

    def close(self, closed: Callable[[], object]) -> None:
        """End; call `closed` when the last words have arrived, or it is too late for that."""
        self.stop()
        self._leave(closed, self.loop.now() + LEAVE_US)

    def _leave(self, closed: Callable[[], object], until: int) -> None:
        if self._endpoint is not None and is_busy(self._endpoint) and self.loop.now() < until:
            self.loop.call_later(LOOK_US, lambda: self._leave(closed, until))
            return
        if self._endpoint is not None:
            self._endpoint.close()
            self._endpoint = None
        closed()

    def make_carrier(self, link: Link, _keys: Encryption | None) -> DatagramCarrier:
        """The carrier on a link that was welcomed."""
        return DatagramCarrier(link)

    # ---- attempts

    def _make_attempt(self) -> LinkAttempt:
        return LinkAttempt(self, self._open())

    def _open(self) -> DatagramEndpoint:
        if self._endpoint is None:
            with open_udp(None, 0) as sock:
                self._endpoint = DatagramEndpoint(self.loop, sock.fileno(), self._config)
        return self._endpoint

    def welcomed(self, attempt: LinkAttempt, link: Link, caller: Caller, welcome: Welcome) -> None:
        """It has become a carrier."""
        attempt.release()
        self._attempt = None
        self.stop()
        if attempt.way is not None:
            self.paths.welcomed(attempt.way, outgoing_device(attempt.way.address))
            self._set_signpost(attempt.way)
        self.observer.on_welcome(link, caller, welcome)

    def _set_signpost(self, way: Way) -> None:
        if self._signpost is not None:
            self._signpost.close()
            self._signpost = None
        if self._leaves_signpost:
            self._signpost = socket.socket(way.family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            with contextlib.suppress(OSError):
                self._signpost.connect(way.address)

    def attempt_failed(self, attempt: LinkAttempt, error: Exception) -> None:
        """It has not; a PeerError means that the other end said so, or is not an sproxy."""
        self._drop_attempt()
        self._answered = attempt.way
        self._schedule.failed()
        if isinstance(error, PeerError) and attempt.caller is not None:
            self.observer.on_turned_away(error, attempt.caller)
        elif isinstance(error, (PeerError, TimeoutError)) or attempt.caller is None:
            self.observer.on_dial_failed(str(error))
        else:
            self.observer.on_cut_off(str(error))


class LinkAttempt(LinkHandler):
    """Links to the addresses of sproxy, of which the first that answers has to bring a WELCOME. Its patience is
    `--connect-timeout` from one sign of life to the next. If the carrier that was in doubt works again before HELLO is
    said, it is over: sproxy would close that one for it."""

    def __init__(self, dialer: DatagramDialer, endpoint: DatagramEndpoint) -> None:
        self.caller: Caller | None = None  # once there are keys
        self._dialer = dialer
        self._endpoint = endpoint
        self.way: Way | None = None  # to what has answered
        self._links: dict[Link, Way] = {}
        self._link: Link | None = None  # the one that has answered
        self._keying = dialer.make_keying()
        self._buffer = bytearray(RECEIVE_BYTES)
        self._is_open = True
        self._errors: list[str] = []
        self._ways: Stagger[Way] = Stagger(dialer.loop, self._dial, self._fail_if_over, dialer.paths.pause_us)
        self._patience = Delay(dialer.loop)
        self._request: Request | None = None

    def begin(self) -> None:
        """Look the name up, and meanwhile dial what is known."""
        paths = self._dialer.paths
        self._progress()
        self._request = self._dialer.resolver.resolve(*self._dialer.sproxy, self._resolved)
        known = [way for way in paths.known(outgoing_device) if way.device is None]  # the socket has none
        if known and not paths.is_sour(known[0]):
            self._go_on(known)

    def release(self) -> None:
        """Touch nothing any more; the link that has answered is the caller's."""
        self._is_open = False
        self._patience.cancel()
        self._ways.stop()
        if self._request is not None:
            self._request.cancel()
            self._request = None
        for link in self._links:
            if link is not self._link:
                link.abort(int(EndCode.ABORTED), b"")

    def close(self) -> None:
        """End the links, without calling the dialer."""
        if self._is_open:
            self.release()
            if self._link is not None:
                self._link.abort(int(EndCode.HANDSHAKE_FAILED), DISAGREE.encode())

    def _fail(self, error: Exception) -> None:
        if self._is_open:
            self._dialer.attempt_failed(self, error)

    def _time_out(self) -> None:
        within = f"within {self._dialer.timeout_us / 1e6:g}s"
        if self._link is not None:
            self._fail(TimeoutError(f"UDP: answered, but no welcome {within}"))
        elif self._links:
            where = ", ".join(format_host_port(*link.peer) for link in self._links)
            self._fail(TimeoutError(f"UDP: no answer {within} ({where})"))
        else:
            self._fail(TimeoutError(f"no answer from the name service {within}"))

    def _progress(self) -> None:
        self._patience.set(self._dialer.timeout_us, self._time_out)

    # ---- addresses

    def _resolved(self, addresses: list[Address], error: str | None) -> None:
        self._request = None
        if error is not None:
            self._errors.append(error)
        ways = [Way(family, sockaddr) for family, sockaddr in interleave(addresses)]
        tried = set(self._links.values())
        self._go_on(self._dialer.paths.in_order([way for way in ways if way not in tried]))

    def _go_on(self, ways: list[Way]) -> None:
        """Dial these, unless one has answered; the first at once if no other is being tried."""
        if self._link is not None:
            return
        self._ways.left = ways
        if not self._links:
            self._ways.go_on()
        elif ways:
            self._ways.wait(self._dialer.paths.pause_us(ways[0]))

    def _dial(self, way: Way) -> bool:
        target = Target(format_host_port(way.address[0], way.address[1]), [(way.family, way.address)])
        self._links[self._endpoint.connect(target, self, self._dialer.routing_tag())] = way
        return True

    def _fail_if_over(self) -> None:
        if self._link is None and not self._links and self._request is None:
            self._fail(OSError("; ".join(dict.fromkeys(self._errors)) or "no address found"))

    # ---- told by the links

    def on_handshake(self, link: Link, data: bytes) -> None:
        """It has answered, and keys are to be agreed on."""
        if not self._is_open or (self._link is not None and link is not self._link):
            return
        if self._link is None:
            self._link = link
            self.way = self._links[link]
            self._ways.stop()
            for other in self._links:
                if other is not link:
                    other.abort(int(EndCode.ABORTED), b"")
            self._dialer.heard()
        self._progress()
        if not self._dialer.observer.still_wanted():
            self._dialer.stop()
            return
        try:
            self._keying.take(link, data)
        except PeerError as error:
            self._fail(error)
            return
        keys = self._keying.link_keys
        if keys is not None:
            self.caller = self._dialer.observer.make_caller(keys)
            link.send(self.caller.outgoing)
            link.fill(self._buffer, 1)

    def on_filled(self, link: Link) -> None:
        """sproxy has said something."""
        if not self._is_open or self.caller is None:
            return
        self._progress()
        try:
            welcome = self.caller.feed(bytes(self._buffer[:link.filled]))
        except PeerError as error:
            self._fail(error)
            return
        if welcome is not None:
            self._dialer.welcomed(self, link, self.caller, welcome)
        else:
            link.fill(self._buffer, 1)

    def on_read_ended(self, link: Link) -> None:
        """sproxy has nothing more to say."""
        if link is self._link:
            self._fail(OSError("closed before the welcome"))

    def on_ended(self, link: Link, _code: int, reason: str, _local: bool) -> None:
        """The link is over."""
        if not self._is_open:
            return
        del self._links[link]
        where = f"UDP: {reason or 'ended without a reason'} ({format_host_port(*link.peer)})"
        if link is self._link:
            self._fail(OSError(where))
        else:
            self._errors.append(where)
            self._ways.go_on()
