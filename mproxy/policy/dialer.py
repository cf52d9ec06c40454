"""Dials a new carrier: many connection attempts may race, but only one at a time says HELLO.

Rules:

1. An attempt at once tries the address that last welcomed us, and meanwhile looks up the name (mproxy.policy.paths).
   The next address follows 250 ms after the last or as soon as the last has failed (RFC 8305, section 5); two seconds
   after it where another sproxy answered, which does not have our session.
2. Every attempt lives until it connects, fails, or --connect-timeout is over, and its end is reported. More begin
   beside it at the backoff's pace: they are added and never replace it, so a long round trip is outlasted, and a lost
   SYN, as on a link that is just coming up, does not hold things up.
3. The first that connects becomes the candidate: it alone says HELLO, so that sproxy never sees two of our carriers
   compete. While it makes progress no other is begun. Another takes its place only when it is overdue; as long as
   neither has said HELLO the one that is answered first goes on. If nobody has answered for --connect-timeout, that is
   reported.
4. When the network has changed, whatever uses an address that is no longer the right one is dropped, and an attempt
   begins at once. One also begins when an application is waiting.
5. Names are looked up at their own pace, at least LOOKUP_US apart, however often we dial.
"""

from __future__ import annotations

from mproxy.carrier._tcp_carrier import TcpCarrier
from mproxy.ground.errors import PeerError
from mproxy.io.socket_close import give_up
from mproxy.policy.attempt import DialAttempt, bind_to_device, connect_to, local_host
from mproxy.policy.candidate import Candidate, CandidateObserver
from mproxy.policy.dial_schedule import DialSchedule
from mproxy.policy.network import outgoing_device, preferred_source
from mproxy.policy.paths import Paths, Way
from mproxy.policy.resolver import interleave

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any

    from mproxy.ground.config import CproxyConfig
    from mproxy.ground.shapes import Address, Spot
    from mproxy.handshake import Caller, Encryption, Welcome
    from mproxy.io._loop import Loop
    from mproxy.policy.resolver import Request, Resolved, Resolver
    from mproxy.policy.tunnel import ProxyTunnel
    from mproxy.transport.keying import LinkKeys

# Most under way at once; each holds a descriptor. At the pace of unanswered attempts this many outlast 20 s.
ATTEMPTS = 16

# Overdue candidates that are kept beside the present one: each has some seconds to be answered.
MOST_ASIDE = 3

# Changes of the network come in bursts; beyond this many in a second an attempt waits for its time.
BURST = 8

# While there is an address that may do, the name is looked up no more often than this.
LOOKUP_US = 2_000_000


class DialObserver:
    """What a dialer asks and tells the one who needs a carrier."""

    def still_wanted(self) -> bool:
        """Asked before each attempt."""
        raise NotImplementedError

    def make_caller(self, keys: LinkKeys | None = None) -> Caller:
        """Our side of the handshake, for an attempt that has connected; `keys`: those of a link."""
        raise NotImplementedError

    def on_welcome(self, connection: Any, caller: Caller, welcome: Welcome) -> None:
        """There is a carrier: `connection` (a socket, or a Link) is for the dialer's `make_carrier`."""

    def on_dial_failed(self, why: str) -> None:
        """An attempt failed on all addresses, or had no answer in time."""

    def on_cut_off(self, why: str) -> None:
        """A connection was made, and ended before its welcome."""

    def on_turned_away(self, error: PeerError, caller: Caller) -> None:
        """sproxy answered with a refusal, or what answered is not an sproxy."""


class Dialer(CandidateObserver):
    """Makes connected, welcomed carriers out of a host and a port."""

    follows_routes = True  # a carrier has the address that the kernel chose

    def __init__(self, loop: Loop, resolver: Resolver, config: CproxyConfig, observer: DialObserver,
                 connect: Callable[[Way], socket.socket] | None = None) -> None:
        self.loop = loop
        self._resolver = resolver
        self._sproxy = config.sproxy_host, config.sproxy_port
        self._proxy = config.proxy
        self._host, self._port = self._sproxy if config.proxy is None else config.proxy[1:3]  # where to connect
        self.timeout_us = config.connect_timeout_us
        self.stays = config.stay
        self.observer = observer
        self._connect = connect or self._connect_by_path
        self.paths = Paths()
        self.device: str | None = None  # to which the last welcomed carrier is bound; None: it follows the routes
        self._schedule = DialSchedule(loop, self._begin_attempt)
        self._attempts: list[DialAttempt] = []
        self._candidate: Candidate | None = None
        self._aside: list[Candidate] = []  # overdue ones before it that said no HELLO: any may still be answered first
        self._source: str | None = None  # the kernel's choice towards sproxy at the last look
        self._burst_at = self._burst = 0
        self._found: list[Way] = []  # the last lookup's answer
        self._look_up_at = 0  # when to look up again
        self._answered: Way | None = None  # the way of the candidate that was last turned away
        self.running = False

    @property
    def next_try_at(self) -> int | None:
        """When the next attempt begins, in the loop's time; None while nothing is dialled."""
        return self._schedule.next_at if self.running else None

    def start(self) -> None:
        """Dial until a carrier is welcomed; does nothing if that is under way."""
        if not self.running:
            self.running = True
            self._look_anew()
            self._schedule.start()

    def stop(self) -> None:
        """Give up what is under way."""
        self._drop_candidate()
        self.ease()

    def ease(self) -> None:
        """Begin nothing more; a candidate, which sproxy may have heard, goes on to its end."""
        self.running = self._candidate is not None
        self._drop_aside()
        self._schedule.cancel()
        for attempt in self._attempts:
            attempt.cancel()
        self._attempts = []

    @property
    def has_said_hello(self) -> bool:
        """Whether sproxy may have heard HELLO from the candidate."""
        return self._candidate is not None and self._candidate.caller.finished

    def close(self, closed: Callable[[], object]) -> None:
        """End, then call `closed`."""
        self.stop()
        closed()

    def make_carrier(self, sock: socket.socket, tls: Encryption | None) -> TcpCarrier:
        """The carrier on a socket that was welcomed."""
        return TcpCarrier(self.loop, sock.detach(), tls)

    def hurry(self, newcomer: bool) -> None:
        """An application waits (`newcomer`: it has just connected): do not sit out a long pause."""
        if self.running and self._schedule.hurries(newcomer):
            self._begin_attempt()

    def network_changed(self) -> None:
        """Dial again at once, if a carrier is wanted at all."""
        if not self.running:
            return
        self._resolver.network_changed()
        self._look_up_at = 0
        for attempt in [a for a in self._attempts if a.misplaced()]:
            attempt.cancel()
            self._attempts.remove(attempt)
        if self._candidate and self._candidate.misplaced():
            self._drop_candidate()
        if any(candidate.misplaced() for candidate in self._aside):
            self._drop_aside()
        now = self.loop.now()
        if now - self._burst_at > 1_000_000:
            self._burst_at, self._burst = now, 0
        self._burst += 1
        if self._burst > BURST:
            return
        if self._source_changed():
            self._look_anew()
            self._schedule.anew()
            self._begin_attempt()
        elif self._schedule.changed():
            self._begin_attempt()

    # ---- attempts

    def _look_anew(self) -> None:
        self._look_up_at = 0
        self._source_changed()

    def _source_changed(self) -> bool:
        """Whether the kernel now uses another address towards sproxy; yes if sproxy's address is unknown."""
        known = self.paths.known(outgoing_device) or self._found
        before = self._source
        self._source = preferred_source(known[0].address) if known else None
        return self._source is None or self._source != before

    def _begin_attempt(self) -> None:
        if not self.observer.still_wanted():
            self.ease()
            return
        self._schedule.begun()
        if (self._candidate is not None and not self._candidate.overdue()) or len(self._attempts) >= ATTEMPTS:
            return
        attempt = DialAttempt(
            self.loop, self.paths, self.timeout_us, self._connect, self._on_connected, self._on_failed)
        self._attempts.append(attempt)
        known = self._known()
        attempt.begin(known, self._look_up if self._lookup_due(known) else None)

    def _known(self) -> list[Way]:
        known = self.paths.known(outgoing_device)
        return self.paths.in_order(known + [way for way in self._found if way not in known])

    def _lookup_due(self, known: list[Way]) -> bool:
        now = self.loop.now()
        if known and now < self._look_up_at:
            return False
        self._look_up_at = now + LOOKUP_US
        return True

    def _look_up(self, callback: Resolved) -> Request:
        def resolved(addresses: list[Address], error: str | None) -> None:
            if error is None:
                self._found = [Way(family, address) for family, address in interleave(addresses)]
                self._source_changed()
            callback(addresses, error)
        return self._resolver.resolve(self._host, self._port, resolved)

    def _connect_by_path(self, way: Way) -> socket.socket:
        """Connect with segments that fit the path, as far as is known. A route that was just announced may lead another
        way than the one asked about: which it is shows when the connection has its address."""
        segment_bytes = 0
        if self.paths.narrow:
            segment_bytes = self._fitting(way, preferred_source(way.address, way.device))
        sock = connect_to(way, segment_bytes)
        if self.paths.narrow and (fitting := self._fitting(way, local_host(sock))) != segment_bytes:
            give_up(sock)
            return connect_to(way, fitting)
        return sock

    def _fitting(self, way: Way, local: str | None) -> int:
        """Bytes of a segment from `local`; 0: no limit."""
        return self.paths.segment_bytes(way.address[0], local, self.loop.now())

    def _on_failed(self, attempt: DialAttempt, why: str) -> None:
        self._attempts.remove(attempt)
        self._retry()
        self.observer.on_dial_failed(why)

    def _retry(self) -> None:
        """Something failed: begin again at the backoff's pace, unless another attempt is under way."""
        if not self._attempts and self._candidate is None:
            self._schedule.failed()

    def _on_connected(self, attempt: DialAttempt, sock: socket.socket, way: Way, took_us: int) -> None:
        self._attempts.remove(attempt)
        former = self._candidate
        if (former is not None and not former.overdue()) or not self.observer.still_wanted():
            give_up(sock)
            if former is None:
                self.ease()
            return
        number, silent_since = 0, self.loop.now()
        if former is not None:
            number, silent_since = former.number, former.silent_since
            if not self._put_aside(former):
                number += 1
                self._note_unwelcome(former)
                self._drop_candidate()
        self._candidate = Candidate(self, sock, way, took_us, number, silent_since)
        self._candidate.begin()

    def _put_aside(self, candidate: Candidate) -> bool:
        """Keep an overdue candidate beside the next one, if sproxy cannot have heard HELLO from it.

        So dials can follow each other as quickly as a new outage asks for, and one that waits its turn at a busy sproxy
        does not lose it."""
        if candidate.caller.finished or self._schedule.is_old():
            return False
        self._aside.append(candidate)
        if len(self._aside) > MOST_ASIDE:
            self._aside.pop(0).close()
        return True

    def _drop_aside(self) -> None:
        for candidate in self._aside:
            candidate.close()
        self._aside = []

    def advertised(self, spot: Spot | None) -> None:
        """Where sproxy itself can be reached over UDP: TCP goes on as before, by way of a balancer."""

    def shun_answered(self) -> None:
        """Try the address that last turned us away after the others, and later: another sproxy with the same key
        answers there."""
        if self._answered is not None:
            self.paths.is_elsewhere(self._answered)

    # ---- what the candidate tells

    def make_caller(self) -> Caller:
        return self.observer.make_caller()

    def make_tunnel(self) -> ProxyTunnel | None:
        if self._proxy is None:
            return None
        from mproxy.policy.tunnel import open_tunnel
        return open_tunnel(self._proxy, *self._sproxy)

    def _drop_candidate(self) -> None:
        if self._candidate is not None:
            self._candidate.close()
            self._candidate = None

    def candidate_heard(self, candidate: Candidate) -> None:
        """The first that is answered is the one that goes on."""
        if candidate in self._aside:
            self._aside.remove(candidate)
            self._drop_candidate()
            self._candidate = candidate
        self._drop_aside()

    def welcomed(self, candidate: Candidate, welcome: Welcome) -> None:
        sock, caller, way = candidate.release(), candidate.caller, candidate.way
        self._candidate = None
        self.stop()
        device = way.device or outgoing_device(way.address)
        self.device = way.device or (device if self.stays and bind_to_device(sock, device) else None)
        self.paths.welcomed(way, device)
        self.observer.on_welcome(sock, caller, welcome)

    def _note_unwelcome(self, candidate: Candidate) -> None:
        """HELLO got no answer: it may have been too large for the path, as it comes with much else."""
        if candidate.caller.finished:
            self.paths.may_be_stuck(candidate.way.address[0], candidate.local, self.loop.now())

    def candidate_overdue(self, candidate: Candidate) -> None:
        """Begin another one beside it, unless one is under way; the other ways first, if it brought nothing at all: a
        portal may answer for everybody and then be silent."""
        if candidate is self._candidate and not self._attempts:
            if not candidate.caller.met:
                self.paths.led_nowhere(candidate.way)
            self._begin_attempt()

    def candidate_failed(self, candidate: Candidate, error: Exception) -> None:
        if candidate in self._aside:
            self._aside.remove(candidate)
            candidate.close()
            return
        if not candidate.caller.refused:
            self.paths.led_nowhere(candidate.way)
        if not isinstance(error, PeerError):
            self._note_unwelcome(candidate)
        self._answered = candidate.way
        self._drop_candidate()
        self._retry()
        if isinstance(error, PeerError):
            self.observer.on_turned_away(error, candidate.caller)
        elif isinstance(error, TimeoutError):
            self.observer.on_dial_failed(str(error))
        else:
            self.observer.on_cut_off(str(error))
