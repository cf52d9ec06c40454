"""Many cproxies in one process: each has a session, an endpoint and a dialer of its own, all of them one event loop.

They are the project's own parts, wired as cproxy wires them, so that sproxy cannot tell them from as many programs:
each has its own identity and its own encrypted carrier, and dials by itself, at cproxy's pace, when the carrier is
lost. Left out is what sproxy never sees: listening ports, logs, keepers, and watching the network. An application is
one end of a socket pair.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence

from harness.load import Address, Worker, raise_descriptor_limit
from mproxy._session import Session
from mproxy.carrier._tls import Tls, TlsContext
from mproxy.endpoint._endpoint import Endpoint
from mproxy.endpoint.observer import EndpointObserver
from mproxy.ground.config import CproxyConfig
from mproxy.handshake import Caller
from mproxy.io._loop import Loop
from mproxy.io.bind import open_udp
from mproxy.policy.datagram_dialer import DatagramDialer
from mproxy.policy.dialer import Dialer, DialObserver
from mproxy.policy.keys import fresh_pem
from mproxy.policy.resolver import Request
from mproxy.programs.introduction import make_hello
from mproxy.transport._datagram_endpoint import DatagramEndpoint
from mproxy.transport.datagram_config import JUMBO_PACKET_BYTES, for_session
from mproxy.transport.keying import SESSION_PURPOSE, Keying, KeyPair

INSTANCE_BYTES = 16
# Of linux/in.h: the port is chosen when the peer is known, so each source has all ports towards each peer.
IP_BIND_ADDRESS_NO_PORT = 24

# Dials under way while a crowd begins.
FIRST_DIALS = 48
KEY = b"k"


def crowd_of_cproxies(worker: Worker, control, sproxy: Address, sources: Sequence[str], carrier: str) -> None:
    """Counter 0: sessions with a carrier; 1: carriers, ever. Commands: methods of Crowd; answered by what they send."""
    raise_descriptor_limit()
    crowd = Crowd(worker, control, sproxy, sources, carrier)
    control.send("ready")
    crowd.loop.run()


class Crowd:
    """Any number of cproxies; `sources`: the addresses that they dial from, in turn; `carrier`: "tcp" or "datagram"."""

    def __init__(self, worker: Worker, control, sproxy: Address, sources: Sequence[str], carrier: str):
        self.loop = Loop()
        self.config = CproxyConfig(sproxy_host=sproxy[0], sproxy_port=sproxy[1], carrier=carrier, keeper=False)
        pem = fresh_pem()
        self.context = TlsContext(pem, is_server=False)
        self.pair = KeyPair(pem, "the key")
        self._sockets: dict[str | None, DatagramEndpoint] = {}
        self.failures: dict[str, int] = {}  # of dials: how often
        self._counters = worker.counters
        self._control = control
        self._sources = sources
        self._cproxies: list[Cproxy] = []
        self._wanted = self._begun = 0
        self._times: list[float] = []
        self._type_until = 0.0
        self._type_every_us = self._typed = 0
        self.loop.on_error = lambda error: control.send(OSError(f"{type(error).__name__}: {error}"))
        self.loop.watch(control.fileno(), lambda _events: self._obey())

    def _obey(self) -> None:
        try:
            verb, *arguments = self._control.recv()
        except EOFError:
            os._exit(0)
        getattr(self, verb)(*arguments)

    # ---- commands

    def open(self, count: int) -> None:
        """Begin so many sessions more, each with one stream; "done" when a byte was echoed on each."""
        self._wanted += count
        for _ in range(min(count, FIRST_DIALS)):
            self._begin_next()

    def type(self, seconds: float, rate: float) -> None:
        """For so long type a key on one session after the other, `rate` a second; sends the time in ms of each to its
        echo. A session whose last echo has not come is passed over, but its time will count."""
        self._times = []
        self._type_until = time.monotonic() + seconds
        self._type_every_us = int(1e6 / rate)
        self._typed = 0
        self._type_next()

    def endpoint_from(self, source: str | None) -> DatagramEndpoint:
        """A socket for UDP, which all cproxies at one address share: sproxy sees that by the port alone."""
        if source not in self._sockets:
            with open_udp(source, 0) as sock:
                self._sockets[source] = DatagramEndpoint(
                    self.loop, sock.fileno(), for_session(self.config.session, JUMBO_PACKET_BYTES))
        return self._sockets[source]

    def tell_failures(self) -> None:
        """Sends how often which dial failed, and forgets it."""
        self._control.send(self.failures)
        self.failures = {}

    # ---- told by the cproxies

    def count(self, more: int) -> None:
        """A carrier has come, or gone."""
        self._counters[0] += more
        if more > 0:
            self._counters[1] += 1

    def echoed(self, cproxy: Cproxy, took_ms: float | None) -> None:
        """A byte has come back; None: the first."""
        if took_ms is not None:
            self._times.append(took_ms)
            return
        self._begun += 1
        self._begin_next()
        if self._begun == self._wanted:
            self._control.send("done")

    def _begin_next(self) -> None:
        if len(self._cproxies) < self._wanted:
            source = self._sources[len(self._cproxies) % len(self._sources)] if self._sources else None
            self._cproxies.append(Cproxy(self, source))

    def _type_next(self) -> None:
        now = time.monotonic()
        if now >= self._type_until:
            if any(each.typed_at for each in self._cproxies) and now < self._type_until + 10:
                self.loop.call_later(10_000, self._type_next)
            else:
                self._control.send(self._times)
            return
        self._cproxies[self._typed % len(self._cproxies)].type()
        self._typed += 1
        self.loop.call_later(self._type_every_us, self._type_next)


class Cproxy(EndpointObserver, DialObserver):
    """One of them, which wants a carrier as long as it lives."""

    def __init__(self, crowd: Crowd, source: str | None):
        self._crowd = crowd
        self._source = source
        self._instance_id = os.urandom(INSTANCE_BYTES)
        self._tag = self._epoch = 0
        self._in_doubt = False
        self._doubt_at = 0
        self.endpoint = Endpoint(crowd.loop, Session(crowd.config.session, is_server=False), self)
        self._dialer: Dialer | DatagramDialer
        if crowd.config.carrier == "tcp":
            self._dialer = Dialer(crowd.loop, Numeric(crowd.loop), crowd.config, self, self._connect)
        else:
            self._dialer = BoundDialer(crowd, source, self)
        self._application, inner = socket.socketpair()
        self._application.setblocking(False)
        inner.setblocking(False)
        self.typed_at: float | None = None
        self._has_begun = False
        crowd.loop.watch(self._application.fileno(), lambda _events: self._read())
        self.endpoint.add_greeted(inner.detach(), b"", 0, 0)
        self.type()
        self._dialer.start()

    def type(self) -> None:
        """Press a key, unless the last one was not echoed yet."""
        if self.typed_at is None:
            self.typed_at = time.monotonic()
            self._application.send(KEY)

    def _read(self) -> None:
        data = self._application.recv(16)
        if len(data) != 1 or self.typed_at is None:
            raise ConnectionError(f"{len(data)} bytes came where one was expected")
        took_ms = (time.monotonic() - self.typed_at) * 1e3
        self.typed_at = None
        self._crowd.echoed(self, took_ms if self._has_begun else None)
        self._has_begun = True

    def _connect(self, way) -> socket.socket:
        sock = socket.socket(way.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            if self._source is not None:
                sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
                sock.bind((self._source, 0))
            sock.connect(way.address)
        except BlockingIOError:
            pass
        except OSError:
            sock.close()
            raise
        return sock

    # ---- told by the endpoint

    def on_lost(self, endpoint: Endpoint, why: str) -> None:
        self._crowd.count(-1)
        self._dial()

    def on_resumed(self, endpoint: Endpoint) -> None:
        self._in_doubt = False

    def on_suspect(self, endpoint: Endpoint) -> None:
        self._in_doubt = True
        self._doubt_at = self._crowd.loop.now()
        self._dial()

    on_denied = on_suspect

    def on_revived(self, endpoint: Endpoint) -> None:
        self._crowd.count(1)
        if not self.still_wanted():
            self._dialer.ease()

    def on_waiting(self, endpoint: Endpoint) -> None:
        self._dial()

    def _dial(self) -> None:
        """Beside the carrier that is there, which may be the first to work again."""
        if self.endpoint.carrier is not None:
            self.endpoint.carrier.seek()
        self._dialer.start()

    def on_closed(self, endpoint: Endpoint, code: int, reason: str, local: bool) -> None:
        raise ConnectionError(f"a session has ended: {reason}")

    # ---- told by the dialer

    def still_wanted(self) -> bool:
        if self.endpoint.attached and self._in_doubt and (
                self._crowd.loop.now() - self.endpoint.receive_silence_us > self._doubt_at):
            self._in_doubt = False
        return self._in_doubt or not self.endpoint.attached

    def make_caller(self, keys=None) -> Caller:
        return Caller(self._compose_hello, keys or Tls(self._crowd.context), tag=self._tag)

    def make_keying(self) -> Keying:
        """Our side of the agreement on keys for one link."""
        return Keying(self._crowd.pair, True, lambda _spki, _link: None, SESSION_PURPOSE)

    @property
    def tag(self) -> int:
        """That of the last WELCOME."""
        return self._tag

    def _compose_hello(self):
        session = self.endpoint.session
        self._epoch = max(self._epoch + 1, time.time_ns() // 1000)
        hello = make_hello(self._crowd.config, session.session_id, self._instance_id, self._epoch)
        return hello, session.streams.resume_list(), session.secret

    def on_welcome(self, connection, caller: Caller, welcome) -> None:
        session = self.endpoint.session
        self._tag = welcome.routing_tag
        if not session.session_id:
            session.learn_identity(welcome.session_id, welcome.secret)
        if not self.endpoint.attached:
            self._crowd.count(1)
        carrier = self._dialer.make_carrier(connection, caller.tls)
        self.endpoint.attach(carrier, welcome.epoch, welcome.window_bytes, welcome.budget_bytes, b"", caller.leftover)

    def on_dial_failed(self, why: str) -> None:
        self._note(why)

    def on_cut_off(self, why: str) -> None:
        self._note(why)

    def on_turned_away(self, error, caller: Caller) -> None:
        self._note(f"turned away: {error}")

    def _note(self, why: str) -> None:
        self._crowd.failures[why] = self._crowd.failures.get(why, 0) + 1


class BoundDialer(DatagramDialer):
    """A dialer over UDP from one address."""

    def __init__(self, crowd: Crowd, source: str | None, cproxy: Cproxy):
        super().__init__(crowd.loop, Numeric(crowd.loop), crowd.config, cproxy, cproxy.make_keying, lambda: cproxy.tag)
        self._crowd = crowd
        self._source = source

    def _open(self) -> DatagramEndpoint:
        return self._crowd.endpoint_from(self._source)


class Numeric:
    """A resolver for addresses."""

    def __init__(self, loop: Loop):
        self._loop = loop

    def resolve(self, host: str, port: int, callback) -> Request:
        request = Request(port, callback)
        self._loop.call_later(0, lambda: request.answer([(socket.AF_INET, (host, 0))], None))
        return request

    def network_changed(self) -> None:
        """Addresses stay what they are."""
