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

from mproxy._wire import CloseCode
from mproxy.ground.errors import PeerError
from mproxy.io.slow_accept import SlowAcceptor
from mproxy.policy.crowd import TAG_SHARE, Crowd, Rank, at_random, share_of
from mproxy.policy.sources import Sources, source_of
from mproxy.programs.guest import Elsewhere, Guest, GuestHost, SocketGuest, Unheard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.ground.config import SproxyConfig
    from mproxy.ground.shapes import Logger, Sockaddr
    from mproxy.handshake import Hello
    from mproxy.io._accept import AcceptGate
    from mproxy.io._loop import Loop
    from mproxy.programs.balancers import Balancers
    from mproxy.programs.guest import Placing, ReceptionHost

# Refusals that count as a failure of whoever asked: not a peer of ours, or not a known one. All others are answers.
ITS_FAULT = {CloseCode.FRAME_ERROR, CloseCode.STREAM_ERROR, CloseCode.OFFSET_ERROR, CloseCode.LIMIT_ERROR,
             CloseCode.STATE_ERROR, CloseCode.VERSION_ERROR, CloseCode.BAD_PROOF, CloseCode.KEY_REFUSED,
             CloseCode.ENCRYPTION}

# Where a guest is that came through a socket of this host.
LOCAL_ADDRESS = "127.0.0.1"

# Among this many of the oldest silent guests, those whose first bytes have arrived meanwhile are spared.
LOOK_AT = 16


def most_unfinished(config: SproxyConfig) -> int:
    """Guests in one crowd: this worker's part of --max-unfinished, but at most an eighth of the descriptors."""
    return min(-(-config.max_unfinished // config.workers), max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8))


def first_silent(guests: list[Guest]) -> Guest:
    """The oldest one without bytes waiting to be read."""
    return next((guest for guest in guests[:LOOK_AT] if not guest.has_words()), None) or at_random(guests)


class Reception(GuestHost):
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
        self.placing: Placing | None = None
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
        self._place(self._silent, guest, Rank.STRANGER)
        if guest.left:
            raise Unheard

    def left(self, guest: Guest) -> None:
        self._silent.remove(guest)
        self._heard.remove(guest)
        self._count()

    def _count(self) -> None:
        if self.placing is not None:
            self.placing.count(len(self))

    def met(self, guest: Guest, tag: int) -> None:
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
        self._silent.remove(guest)
        self._place(self._heard, guest, Rank.RETURNING)

    def proven(self, guest: Guest, session_id: bytes) -> None:
        self._dismiss(self._heard.add(guest, session_id, TAG_SHARE, Rank.PROVEN))

    def may_come(self, spki: bytes, certificate: bytes, host: str) -> bool:
        try:
            self.host.judge(spki, host, certificate, living=True)
        except PeerError:
            return False
        return True

    def gave_up(self, guest: Guest) -> None:
        if guest.begun:
            self._note_failure(guest)
        guest.close()

    def introduced(self, guest: Guest, hello: Hello) -> None:
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
        self._log.warning("refused", peer=guest.peer, why=str(error))
        if error.code in ITS_FAULT:
            self._note_failure(guest)
        guest.finish(guest.greeter.farewell(error))
