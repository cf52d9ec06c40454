"""A guest of sproxy: a connection from its first byte until its HELLO is complete and proven."""

from __future__ import annotations

import socket

from mproxy._wire import PREAMBLE_BYTES, CloseCode
from mproxy.carrier._tcp_carrier import TcpCarrier
from mproxy.ground.config import say_address
from mproxy.ground.errors import PeerError
from mproxy.handshake import Greeter
from mproxy.io.small_packets import send_small
from mproxy.io.socket_close import finish, give_up
from mproxy.policy.sources import source_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from mproxy.carrier._carrier import Carrier
    from mproxy.ground.shapes import Sockaddr
    from mproxy.handshake import Encryption, Hello
    from mproxy.io._loop import Loop, Timer
    from mproxy.policy.crowd import Rank
    from mproxy.programs.balancers import BalancerHeader, Balancers

    class Placing(Protocol):
        """Who knows to which worker a guest belongs: `mproxy.programs.crew.Crew`."""

        def place(self, guest: SocketGuest, tag: int) -> None:
            """A guest has shown this tag; Elsewhere."""

        def count(self, guests: int) -> None:
            """There are so many now."""

        def hand_over(self, guest: SocketGuest, where: Elsewhere) -> None:
            """Give a guest to the worker that it is for."""

        def expect(self, address: str, worker: int) -> None:
            """Whoever dials from that address next, over datagrams and without a tag, is for that worker."""

# The preamble travels right behind the connection's first packets; this is time for some of them to be lost.
SILENT_US = 5_000_000

# From one step of the handshake to the next: preamble, HELLO, each piece of the list. Some paths have a round trip of
# ten seconds and lose packets, too; whoever dawdles holds nobody up, because strangers give way.
STEP_US = 30_000_000

# More than preamble and HELLO; what follows (the RESUME list) is read afterwards.
RECEIVE_BYTES = 65536


class Elsewhere(Exception):
    """The guest is for another worker of this sproxy (mproxy.programs.crew)."""

    def __init__(self, worker: int, hello: Hello | None = None) -> None:
        super().__init__(worker)
        self.worker = worker
        self.hello = hello  # that it has said; None: it has shown only its tag


class Probed(Exception):
    """Nobody wants to be let in: it is enough that there is somebody."""


class Unheard(Exception):
    """The guest is disconnected without an answer."""


class ReceptionHost:
    """Whom a reception asks, and to whom it hands over guests."""

    def make_tls(self) -> Encryption | None:
        """For one guest; None: no encryption."""
        raise NotImplementedError

    def rank(self, tag: int) -> Rank:
        """The rank that a guest has by the routing tag it shows."""
        raise NotImplementedError

    def judge(self, spki: bytes, host: str, certificate: bytes, *, living: bool = False) -> None:
        """A guest's key is proven, and this was shown with it; PeerError refuses it. `living`: it has a session."""
        raise NotImplementedError

    def vouch(self, spki: bytes, peer: str) -> None:
        """The same of a guest that came through a socket of this host, before it is judged."""

    def must_wait(self, guest: Guest, hello: Hello, then: Callable[[], object]) -> bool:
        """Whether somebody has to be asked about the guest's key before it is admitted, who calls `then`."""
        raise NotImplementedError

    def check(self, guest: Guest, hello: Hello, channel: bytes) -> None:
        """Its HELLO is complete, and the list after it is not kept yet; PeerError refuses it."""
        raise NotImplementedError

    def admit(self, guest: Guest, hello: Hello) -> None:
        """Take the guest's carrier, its `greeter` and what is left in that; PeerError refuses it."""
        raise NotImplementedError


class GuestHost:
    """Whom guests tell what they have said, and when they leave: sproxy's reception."""

    host: ReceptionHost
    placing: Placing | None  # if guests may be another worker's

    def named(self, guest: Guest) -> None:
        """A balancer has said from where the guest comes: its source has one guest more."""
        raise NotImplementedError

    def left(self, guest: Guest) -> None:
        """The guest no longer waits: it was handed over, or its connection is closed."""
        raise NotImplementedError

    def met(self, guest: Guest, tag: int) -> None:
        """The guest's preamble is right; Unheard if its source is not to be heard, or there are too many."""
        raise NotImplementedError

    def is_known(self, guest: Guest) -> None:
        """Another worker has met the guest, and judged it."""
        raise NotImplementedError

    def may_come(self, spki: bytes, certificate: bytes, host: str) -> bool:
        """Whether the key of a session, shown with that certificate, may go on from that address."""
        raise NotImplementedError

    def proven(self, guest: Guest, session_id: bytes) -> None:
        """Its HELLO resumes that session; the list after it may take its time."""
        raise NotImplementedError

    def gave_up(self, guest: Guest) -> None:
        """The guest left before its HELLO was complete."""
        raise NotImplementedError

    def introduced(self, guest: Guest, hello: Hello) -> None:
        """The guest has said HELLO, and proven it."""
        raise NotImplementedError

    def refuse(self, guest: Guest, error: PeerError) -> None:
        """Tell the guest and the log why."""
        raise NotImplementedError


class Guest:
    """One connection until its HELLO is complete: on a socket (SocketGuest), or a link of packets."""

    local_peer: str | None = None  # it came through a socket of this host; None: over the network
    is_balanced = False  # a balancer that goes by the routing tag has brought it
    hops = 0  # from one worker to another, so far

    def __init__(self, loop: Loop, reception: GuestHost, address: Sockaddr, peer: str, tls: Encryption | None) -> None:
        self.address = address[0]
        self.source = source_of(address[0])  # or the tag that it shows: to which its failures are counted
        self.peer = peer
        self.spki = b""  # its key, proven; empty without encryption
        self.certificate = b""  # that it has shown with the key
        self.begun = False  # it has sent something
        self.left = False
        self.waits = False  # for somebody's answer, without being heard meanwhile
        self._loop = loop
        self._reception = reception
        self.greeter = Greeter(self._check, tls, self._judge, self._meet)
        self._missing = ""  # what the timer waits for
        self._timer: Timer | None = None
        self._wait(SILENT_US, "preamble")

    def release(self) -> None:
        """Stop waiting; the connection now belongs to the caller."""
        if not self.left:
            self.left = True
            if self._timer is not None:
                self._timer.cancel()
            self._reception.left(self)

    def pause(self) -> None:
        """Wait for an answer about its key, and hear nothing meanwhile."""
        if not self.waits:
            self.waits = True
            self._wait(STEP_US, "answer about its key")

    def close(self) -> None:
        """End the connection, leaving nothing of it behind."""
        raise NotImplementedError

    def finish(self, last_words: bytes) -> None:
        """Send these, and end the connection behind them."""
        raise NotImplementedError

    def make_carrier(self) -> Carrier:
        """The carrier of a guest whose HELLO was checked."""
        raise NotImplementedError

    def go(self, where: Elsewhere) -> None:
        """Be another worker's guest."""
        raise NotImplementedError

    def has_words(self) -> bool:
        """Whether a preamble is waiting to be read."""
        return False

    def _send(self) -> None:
        """Send what the handshake has to say."""
        raise NotImplementedError

    def _meet(self, tag: int) -> None:
        if self.greeter.is_probe:
            raise Probed
        self._place(tag)
        self._reception.met(self, tag)
        self._wait(STEP_US, "HELLO")

    def _place(self, tag: int) -> None:
        """Elsewhere: it is for another worker."""

    def _judge(self, spki: bytes) -> None:
        if self.local_peer is not None:
            self._reception.host.vouch(spki, self.local_peer)
        tls = self.greeter.tls
        certificate = tls.peer_certificate() if tls is not None else b""
        self._reception.host.judge(spki, self.address, certificate)
        self.spki, self.certificate = spki, certificate

    def _check(self, hello: Hello, channel: bytes) -> None:
        try:
            self._reception.host.check(self, hello, channel)
        except Elsewhere as where:
            raise Elsewhere(where.worker, hello) from None
        if hello.session_id:
            self._reception.proven(self, hello.session_id)
            self._wait(STEP_US, "list of streams")

    def _wait(self, delay_us: int, missing: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._missing = f"no {missing} within {delay_us // 1_000_000}s"
        self._timer = self._loop.call_later(delay_us, self._time_out)

    def _time_out(self) -> None:
        self._reception.refuse(self, PeerError(CloseCode.STATE_ERROR, self._missing))

    def _take(self, data: bytes | None) -> None:
        """Bytes have come, or there is room to send."""
        self.begun |= data is not None
        if self._hear(lambda: self.greeter.feed(data) if data else None) and data and self.greeter.proven:
            self._wait(STEP_US, "list of streams")

    def _hear(self, read: Callable[[], Hello | None]) -> bool:
        """Have the greeter `read`, and do what follows from it. True: more has to come."""
        try:
            hello = read()
            self._send()
        except Probed:
            self.finish(self.greeter.prefix)
        except Unheard:
            self.close()
        except Elsewhere as where:
            self.go(where)
        except PeerError as error:
            self._reception.refuse(self, error)
        except OSError:
            self._reception.gave_up(self)
        else:
            if hello is None:
                return True
            self._reception.introduced(self, hello)
        return False


class SocketGuest(Guest):
    """One that came through a socket."""

    def __init__(self, loop: Loop, reception: GuestHost, sock: socket.socket, address: Sockaddr,
                 local_peer: str | None = None, hops: int = 0) -> None:
        self.sock = sock
        self.sockaddr = address
        self.local_peer = local_peer
        self.hops = hops
        self.words = b""  # all that it has said, as long as that may have to be said again to another worker
        self._is_unplaced = reception.placing is not None and not hops
        self._header: BalancerHeader | None = None  # that a balancer still has to say
        super().__init__(loop, reception, address, local_peer or say_address(address), reception.host.make_tls())
        self._watch = loop.watch(sock.fileno(), lambda _events: self._queue())

    def await_header(self, balancers: Balancers) -> None:
        """A balancer speaks first, and says for whom."""
        from mproxy.programs.balancers import BalancerHeader
        self._header = BalancerHeader()
        self.is_balanced = balancers.routed
        self.source = self.peer  # until then none has more than one

    def release(self) -> None:
        """Stop waiting; the socket now belongs to the caller."""
        if not self.left:
            self._watch.close()
        super().release()

    def pause(self) -> None:
        """Wait for an answer about its key."""
        super().pause()
        self._watch.close()

    def close(self) -> None:
        """End the connection, leaving nothing of it in the kernel."""
        self.release()
        give_up(self.sock)

    def finish(self, last_words: bytes) -> None:
        """Send these, and end the connection behind them."""
        try:
            self.sock.send(last_words)
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it did not wait for the answer
        self.release()
        if self.local_peer is None:
            finish(self.sock)
        else:
            self.sock.close()

    def make_carrier(self) -> Carrier:
        """The carrier on its socket."""
        fd, tls = self.sock.detach(), self.greeter.tls
        if self.local_peer is None:
            return TcpCarrier(self._loop, fd, tls)
        from mproxy.carrier._local_carrier import LocalCarrier
        return LocalCarrier(self._loop, fd, tls, "attached", self.local_peer)

    def go(self, where: Elsewhere) -> None:
        """Be another worker's guest."""
        assert self._reception.placing is not None
        self._reception.placing.hand_over(self, where)

    def say_again(self, words: bytes) -> None:
        """What it has said to another worker."""
        if not self.left:
            self._take(words)

    def go_on(self, about: bytes, secret: bytearray, spki: bytes, certificate: bytes) -> None:
        """It has said HELLO to another worker, and proven that it has that key, with this."""
        if self.left:
            return
        self.begun = True
        self.spki, self.certificate = spki, certificate
        self._reception.is_known(self)
        if not self.left:
            self._hear(lambda: self.greeter.take_over(about, secret))

    def _place(self, tag: int) -> None:
        if self._is_unplaced and self._reception.placing is not None:
            self._reception.placing.place(self, tag)
            self._is_unplaced, self.words = False, b""

    def _take(self, data: bytes | None) -> None:
        if data and self._header is not None:
            try:
                data = self._through_header(self._header, data)
            except Unheard:
                return
            except PeerError as error:
                self._reception.refuse(self, error)
                return
        if data and self._is_unplaced:
            self.words += data
        super()._take(data)

    def _through_header(self, header: BalancerHeader, data: bytes) -> bytes | None:
        """What a client says in bytes that came from a balancer; None: nothing yet."""
        found = header.feed(data)
        if found is None:
            return None
        self._header = None
        client, rest = found
        if client is not None:
            self.sockaddr, self.address, self.peer = client, client[0], say_address(client)
        self.source = source_of(self.address)
        self._reception.named(self)
        return rest or None

    def has_words(self) -> bool:
        """Whether a preamble is waiting to be read."""
        try:
            return len(self.sock.recv(PREAMBLE_BYTES, socket.MSG_PEEK)) == PREAMBLE_BYTES
        except OSError:
            return False

    def _is_gone(self) -> bool:
        """Whether the guest has disconnected."""
        try:
            return not self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _queue(self) -> None:
        self._watch.pause()  # it may have gone
        self._loop.call_slow(self._on_turn)

    def _on_turn(self) -> None:
        if not self.left and not self.waits:
            self._on_ready()

    def _on_ready(self) -> None:
        try:
            data = self.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            data = None
        except OSError:
            data = b""
        is_gone = bool(data) and self._is_gone()
        if is_gone and not self.begun:
            self.close()  # it came and went while we were busy, which is not a failure
        elif is_gone or data == b"":  # a last HELLO has no effect: it may have another carrier by now
            self._reception.gave_up(self)
        else:
            self._take(data)

    def _send(self) -> None:
        """Send what the handshake has to say; the socket's empty buffer takes it, though that is not guaranteed."""
        greeter = self.greeter
        if greeter.outgoing:
            try:
                if self.local_peer is None:
                    self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                greeter.outgoing = greeter.outgoing[send_small(self.sock, greeter.outgoing):]
            except BlockingIOError:
                pass
        self._watch.set(read=True, write=bool(greeter.outgoing))
