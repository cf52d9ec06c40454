"""A connected socket on which the handshake is under way; tells the dialer how it ends.

Its patience goes by progress: bytes that arrive, and bytes of ours that the other end's kernel acknowledges. A narrow
path takes long to carry a list of many streams, and a second attempt would not make it faster.
"""

from __future__ import annotations

import fcntl
import socket

from mproxy.ground.errors import PeerError
from mproxy.io.small_packets import send_small
from mproxy.io.socket_close import give_up
from mproxy.policy.attempt import reason_of, well_placed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.handshake import Caller, Welcome
    from mproxy.io._loop import Loop, Timer, Watch
    from mproxy.policy.paths import Way
    from mproxy.policy.tunnel import ProxyTunnel

# Without progress for this long, or four times what its connection took, a candidate is overdue: TLS and HELLO are two
# round trips. After an overdue one the next gets twice the time, up to LAST_OVERDUE_US: if the other end does not run
# at all, many candidates do not help.
OVERDUE_US = 1_000_000
LAST_OVERDUE_US = 16_000_000

RECEIVE_BYTES = 65536

# Bytes that are not acknowledged yet (tcp(7), SIOCOUTQ).
_SIOCOUTQ = 0x5411


class CandidateObserver:
    """What a candidate asks and tells; implemented by `policy.dialer.Dialer`."""

    loop: Loop
    timeout_us: int  # for an answer, if the path is not slow

    def make_caller(self) -> Caller:
        """Our side of the handshake on one connection."""
        raise NotImplementedError

    def make_tunnel(self) -> ProxyTunnel | None:
        """What is to be said on one connection before the handshake; None: it leads to sproxy."""
        return None

    def welcomed(self, candidate: Candidate, welcome: Welcome) -> None:
        """The candidate has become a carrier."""

    def candidate_heard(self, candidate: Candidate) -> None:
        """The first bytes have come; HELLO may be the answer."""

    def candidate_overdue(self, candidate: Candidate) -> None:
        """Nothing has moved on it for longer than it should take."""

    def candidate_failed(self, candidate: Candidate, error: Exception) -> None:
        """The candidate is lost; a PeerError means that the other end said so, or is not an sproxy."""


class Candidate:
    """`number` of others were overdue before it and given up; `silent_since`: when the first of all began."""

    def __init__(self, dialer: CandidateObserver, sock: socket.socket, way: Way, connect_us: int, number: int,
                 silent_since: int) -> None:
        self._loop = dialer.loop
        self._dialer = dialer
        self._sock = sock
        self.way = way
        self.local = sock.getsockname()[0]
        self._tunnel = dialer.make_tunnel()  # until it is open
        self.caller = dialer.make_caller()
        self.number = number
        self.silent_since = silent_since
        self._silence_us = max(dialer.timeout_us, 4 * connect_us)  # after this nobody will answer
        self._patience_us = max(min(OVERDUE_US << min(number, 8), LAST_OVERDUE_US), 4 * connect_us)
        self._progress_at = self._loop.now()
        self._unacknowledged = 0
        self._watch: Watch | None = None
        self._timer: Timer | None = None

    def begin(self) -> None:
        """Send the first bytes and wait for the answer."""
        try:
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._watch = self._loop.watch(self._sock.fileno(), self._on_ready, read=True, write=True)
        except OSError as error:
            self._dialer.candidate_failed(self, OSError(reason_of(error)))
            return
        self._look_later()
        self._on_ready(0)

    def overdue(self) -> bool:
        """Nothing has moved for longer than it should take."""
        self._note_acknowledged()
        return self._loop.now() - self._progress_at >= self._patience_us

    def misplaced(self) -> bool:
        """Whether its local address is one that the kernel would no longer choose."""
        return not well_placed(self._sock, self.way)

    def release(self) -> socket.socket:
        """Give the socket to the caller, whose it is from now on."""
        if self._watch is not None:
            self._watch.close()
        if self._timer is not None:
            self._timer.cancel()
        return self._sock

    def close(self) -> None:
        """Close the connection, without calling the dialer. What it said must have no more effect."""
        give_up(self.release())

    def _look_later(self) -> None:
        now = self._loop.now()
        due_at = self._progress_at + self._patience_us
        if due_at <= now:
            due_at = now + self._patience_us  # was overdue already
        due_at = min(due_at, self.silent_since + self._silence_us)
        self._timer = self._loop.call_later(max(1, due_at - now), self._look)

    def _look(self) -> None:
        overdue = self.overdue()
        if self._loop.now() - self.silent_since >= self._silence_us:
            within = f"{self._silence_us / 1e6:.3g}s"
            self._dialer.candidate_failed(self, TimeoutError(f"connected, but no welcome within {within}"))
            return
        self._look_later()
        if overdue:
            self._dialer.candidate_overdue(self)

    def _note_acknowledged(self) -> None:
        """Acknowledged bytes are progress, but not the last of them: then it is for the other end's application to
        answer."""
        queued = unacknowledged_bytes(self._sock)
        if 0 < queued < self._unacknowledged:
            self._note_progress()
        self._unacknowledged = queued

    def _note_progress(self) -> None:
        self._progress_at = self.silent_since = self._loop.now()

    def _on_ready(self, _events: int) -> None:
        if self._sock.fileno() < 0:
            return
        try:
            welcome = self._exchange()
        except (OSError, PeerError) as error:
            self._dialer.candidate_failed(self, error)
            return
        if welcome is not None:
            self._dialer.welcomed(self, welcome)

    def _exchange(self) -> Welcome | None:
        """Send and read what there is; returns the Welcome when it has arrived."""
        welcome = None
        try:
            cut_off = self._try_to_send()
            data = self._sock.recv(RECEIVE_BYTES)
            if not data:
                raise cut_off or OSError("closed")
            self._note_progress()
            if self._tunnel is not None:
                data = self._through_tunnel(self._tunnel, data)
            if data and not self.caller.met:
                self._dialer.candidate_heard(self)
            if data:
                welcome = self.caller.feed(data)
            self._send()
        except BlockingIOError:
            pass
        except OSError as error:
            raise OSError(self._say_end(reason_of(error))) from None
        return welcome

    def _through_tunnel(self, tunnel: ProxyTunnel, data: bytes) -> bytes:
        """What sproxy says in bytes that came from a proxy."""
        rest = tunnel.feed(data)
        if rest is not None:
            self._tunnel = None
        return rest or b""

    def _try_to_send(self) -> OSError | None:
        """The error of a connection that takes no more. It may have brought bytes before it was reset."""
        try:
            self._send()
        except OSError as error:
            return error
        return None

    def _say_end(self, reason: str) -> str:
        if self.caller.met:
            return f"{reason} before the welcome"
        if self._tunnel is not None:
            return f"{reason} without an answer from {self._tunnel.name}"
        return (f"{reason} without an answer: what listens there is not an sproxy (captive portals and web servers"
                " behave this way), or it is refusing this address for a while")

    def _send(self) -> None:
        """A list of many streams does not leave at once; meanwhile bytes are still read."""
        speaker = self._tunnel or self.caller
        while speaker.outgoing:
            try:
                sent = send_small(self._sock, speaker.outgoing)
            except BlockingIOError:
                break
            speaker.outgoing = speaker.outgoing[sent:]
            self._unacknowledged += sent
        if self._watch is not None:
            self._watch.set(read=True, write=bool(speaker.outgoing))


def unacknowledged_bytes(sock: socket.socket) -> int:
    """Bytes written that the other end's system has not acknowledged."""
    return int.from_bytes(fcntl.ioctl(sock.fileno(), _SIOCOUTQ, bytes(4)), "little")
