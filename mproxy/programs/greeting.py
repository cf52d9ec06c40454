"""sproxy's reception: connections that have not shown a valid preamble, their key and HELLO yet.

Each costs a descriptor and, once it encrypts, some 20 KiB. They wait in two crowds of `--max-unfinished` each
(mproxy.policy.crowd): the silent, which have not sent a preamble, of which the oldest gives way; and the heard, of
which a random stranger gives way before those that show the tag of an earlier WELCOME. So connections that say nothing
are never in the way of one that does, and a flood of those that do leaves a part to everybody.

One source (mproxy.policy.sources) may have only a part of either crowd, and after too many failures its strangers are
turned away after their preamble: before that nobody can tell whether a session comes back. A tag is a source of its
own: an overheard one cannot be used to fill the crowd, and its failures are not held against its neighbours.

All that is done for guests is slow work of the loop: however many there are, sessions come first.
"""

from __future__ import annotations

import resource
import socket

from mproxy._wire import PREAMBLE_BYTES, CloseCode
from mproxy.carrier._tcp_carrier import TcpCarrier
from mproxy.ground.config import say_address
from mproxy.ground.errors import PeerError
from mproxy.handshake import Greeter
from mproxy.io.slow_accept import SlowAcceptor
from mproxy.io.small_packets import send_small
from mproxy.io.socket_close import finish, give_up
from mproxy.policy.crowd import TAG_SHARE, Crowd, Rank, at_random, share_of
from mproxy.policy.sources import Sources, source_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from mproxy.carrier._carrier import Carrier
    from mproxy.ground.config import SproxyConfig
    from mproxy.ground.shapes import Logger, Sockaddr
    from mproxy.handshake import Encryption, Hello
    from mproxy.io._accept import AcceptGate
    from mproxy.io._loop import Loop, Timer
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

# Refusals that count as a failure of whoever asked: not a peer of ours, or not a known one. All others are answers.
ITS_FAULT = {CloseCode.FRAME_ERROR, CloseCode.STREAM_ERROR, CloseCode.OFFSET_ERROR, CloseCode.LIMIT_ERROR,
             CloseCode.STATE_ERROR, CloseCode.VERSION_ERROR, CloseCode.BAD_PROOF, CloseCode.KEY_REFUSED,
             CloseCode.ENCRYPTION}

# Where a guest is that came through a socket of this host.
LOCAL_ADDRESS = "127.0.0.1"

# More than preamble and HELLO; what follows (the RESUME list) is read afterwards.
RECEIVE_BYTES = 65536

# Among this many of the oldest silent guests, those whose first bytes have arrived meanwhile are spared.
LOOK_AT = 16


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


def most_unfinished(config: SproxyConfig) -> int:
    """Guests in one crowd: this worker's part of --max-unfinished, but at most an eighth of the descriptors."""
    return min(-(-config.max_unfinished // config.workers), max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8))


def first_silent(guests: list[Guest]) -> Guest:
    """The oldest one without bytes waiting to be read."""
    return next((guest for guest in guests[:LOOK_AT] if not guest.has_words()), None) or at_random(guests)


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


class Reception:
    """Accepts on any number of listeners and hands over each guest that says HELLO."""

    def __init__(self, loop: Loop, gate: AcceptGate, log: Logger, config: SproxyConfig, host: ReceptionHost) -> None:
        self._loop = loop
        self._gate = gate
        self._log = log
        most = most_unfinished(config)
        self._silent: Crowd[Guest] = Crowd(most, first_silent)  # no preamble yet
        self._heard: Crowd[Guest] = Crowd(most, at_random)
        self._sources = Sources()
        self.host = host
        self.placing: Placing | None = None  # if guests may be another worker's
        self._acceptors: list[SlowAcceptor] = []
        self.balancers: Balancers | None = None
        if config.accept_proxy:
            from mproxy.programs.balancers import Balancers
            self.balancers = Balancers(config.accept_proxy, config.routed)

    def open(self, listener: socket.socket) -> None:
        """Accept on a listening socket."""
        self._acceptors.append(SlowAcceptor(self._loop, self._gate, listener, self._receive))

    def close(self) -> None:
        """Stop accepting and turn everybody away."""
        for acceptor in self._acceptors:
            acceptor.close()
        self._acceptors = []
        for guest in (*self._silent, *self._heard):
            guest.close()

    def receive_local(self, sock: socket.socket, peer: str) -> None:
        """A guest that came through a socket of this host: `peer` is what the log calls it. What it does counts as
        done from the loopback address."""
        sock.setblocking(False)
        self.receive_guest(SocketGuest(self._loop, self, sock, (LOCAL_ADDRESS, 0), peer))

    def __len__(self) -> int:
        """Guests at present."""
        return len(self._silent) + len(self._heard)

    def receive_from(self, sock: socket.socket, address: Sockaddr, local_peer: str | None, hops: int,
                     is_balanced: bool) -> SocketGuest:
        """A guest that another worker has accepted."""
        guest = SocketGuest(self._loop, self, sock, address, local_peer, hops)
        guest.is_balanced = is_balanced
        self.receive_guest(guest)
        return guest

    def receive_guest(self, guest: Guest) -> None:
        """A guest has come; another one may have to go for it."""
        self._place(self._silent, guest, Rank.STRANGER)
        self._count()

    def known_at(self, address: str) -> None:
        """There is a session at that address, or was just now: its neighbours will be heard."""
        self._sources.welcomed(source_of(address), self._loop.now())

    def _receive(self, sock: socket.socket, address: Sockaddr) -> None:
        sock.setblocking(False)
        guest = SocketGuest(self._loop, self, sock, address)
        if self.balancers is not None and self.balancers.have(address[0]):
            guest.await_header(self.balancers)
        self.receive_guest(guest)

    def _place(self, crowd: Crowd[Guest], guest: Guest, rank: Rank) -> None:
        share = share_of(crowd.most, self._sources.known(guest.source, self._loop.now()))
        self._dismiss(crowd.add(guest, guest.source, share, rank))

    def _dismiss(self, leaving: Guest | None) -> None:
        if leaving is not None:
            self._log.warning(
                "refused", peer=leaving.peer, why="too many unfinished connections, in total or from its source")
            leaving.close()

    def _note_failure(self, guest: Guest) -> None:
        if self._sources.failed(guest.source, self._loop.now()):
            self._log.warning(
                "source-blocked", source=guest.source, why="too many failed attempts; ignored for a while")

    # ---- told by the guests

    def named(self, guest: Guest) -> None:
        """A balancer has said from where the guest comes: its source has one guest more."""
        self._place(self._silent, guest, Rank.STRANGER)
        if guest.left:
            raise Unheard

    def left(self, guest: Guest) -> None:
        """The guest no longer waits: it was handed over, or its connection is closed."""
        self._silent.remove(guest)
        self._heard.remove(guest)
        self._count()

    def _count(self) -> None:
        if self.placing is not None:
            self.placing.count(len(self))

    def met(self, guest: Guest, tag: int) -> None:
        """The guest's preamble is right; Unheard if its source is not to be heard, or there are too many."""
        now = self._loop.now()
        self._silent.remove(guest)
        rank = self.host.rank(tag) if tag else Rank.STRANGER
        if rank != Rank.STRANGER:
            name = f"tag:{tag:016x}"
            if self._heard.count(name) < TAG_SHARE and not self._sources.blocked(name, now):
                guest.source = name
            else:
                rank = Rank.STRANGER
        if rank == Rank.STRANGER and self._sources.blocked(guest.source, now):
            raise Unheard
        self._place(self._heard, guest, rank)
        if guest.left:
            raise Unheard

    def is_known(self, guest: Guest) -> None:
        """Another worker has met the guest, and judged it."""
        self._silent.remove(guest)
        self._place(self._heard, guest, Rank.RETURNING)

    def proven(self, guest: Guest, session_id: bytes) -> None:
        """Its HELLO resumes that session; the list after it may take its time."""
        self._dismiss(self._heard.add(guest, session_id, TAG_SHARE, Rank.PROVEN))

    def may_come(self, spki: bytes, certificate: bytes, host: str) -> bool:
        """Whether the key of a session, shown with that certificate, may go on from that address."""
        try:
            self.host.judge(spki, host, certificate, living=True)
        except PeerError:
            return False
        return True

    def gave_up(self, guest: Guest) -> None:
        """The guest left before its HELLO was complete."""
        if guest.begun:
            self._note_failure(guest)
        guest.close()

    def introduced(self, guest: Guest, hello: Hello) -> None:
        """The guest has said HELLO, and proven it."""
        if self.host.must_wait(guest, hello, lambda: self._answered(guest, hello)):
            guest.pause()
            return
        guest.release()
        try:
            self.host.admit(guest, hello)
        except Elsewhere as where:
            guest.go(Elsewhere(where.worker, hello))
        except PeerError as error:
            self.refuse(guest, error)
        else:
            self.known_at(guest.address)

    def _answered(self, guest: Guest, hello: Hello) -> None:
        if not guest.left:
            self.introduced(guest, hello)

    def refuse(self, guest: Guest, error: PeerError) -> None:
        """Tell the guest and the log why."""
        self._log.warning("refused", peer=guest.peer, why=str(error))
        if error.code in ITS_FAULT:
            self._note_failure(guest)
        guest.finish(guest.greeter.farewell(error))


class Guest:
    """One connection until its HELLO is complete: on a socket (SocketGuest), or a link of packets."""

    local_peer: str | None = None  # it came through a socket of this host; None: over the network
    is_balanced = False  # a balancer that goes by the routing tag has brought it
    hops = 0  # from one worker to another, so far

    def __init__(self, loop: Loop, reception: Reception, address: Sockaddr, peer: str, tls: Encryption | None) -> None:
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
        try:
            hello = self.greeter.feed(data) if data else None
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
            if hello is not None:
                self._reception.introduced(self, hello)
            elif data and self.greeter.proven:
                self._wait(STEP_US, "list of streams")


class SocketGuest(Guest):
    """One that came through a socket."""

    def __init__(self, loop: Loop, reception: Reception, sock: socket.socket, address: Sockaddr,
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
        if self.left:
            return
        try:
            hello = self.greeter.take_over(about, secret)
            self._send()
        except Elsewhere as where:
            self.go(where)
        except PeerError as error:
            self._reception.refuse(self, error)
        except OSError:
            self._reception.gave_up(self)
        else:
            if hello is not None:
                self._reception.introduced(self, hello)

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
