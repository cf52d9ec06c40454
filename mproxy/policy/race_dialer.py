"""Finds carriers over datagrams where they pass, and over TCP everywhere else (`cproxy --carrier auto`). Rules:

1. Datagrams have a head start; then TCP is dialled beside them, and the first welcome ends the other. So where UDP is
   blocked nobody waits longer than the head start.
2. As soon as sproxy has answered over UDP TCP is left alone, or UDP, if HELLO was already said over TCP: sproxy should
   not see two of our carriers compete. The other joins again if that leads to nothing.
3. If TCP was faster although UDP had its head start, UDP counts as blocked: it is tried after five seconds, as it may
   have been a path that was bad for a moment, then after twice as long each time, up to half an hour, and whenever the
   network has changed. A session that TCP carries then moves by an ordinary resume. Where UDP passes and soon does not
   any more, again and again, each change is a pause for the session: the times go on to grow until UDP has carried it
   for a minute.
4. An sproxy that says over TCP that it takes no carriers over UDP, as older ones do by saying nothing, is not asked
   over UDP again until it says something else. Both is remembered from one run to the next (`policy.udp_record`).
5. Where every millisecond of the start counts (`starts_quickly`: --stdio, and ssh) the first dial is TCP's, whose code
   is loaded anyway, and a session that has lasted for a while moves.
6. What is reported of failed dials is what TCP says: that UDP is blocked is no news.
"""

from __future__ import annotations

from mproxy._wire import WelcomeFeature
from mproxy.policy.combined_dialer import CombinedDialer, PassingObserver

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any

    from mproxy.ground.errors import PeerError
    from mproxy.ground.shapes import Spot
    from mproxy.handshake import Caller, Welcome
    from mproxy.io._loop import Loop
    from mproxy.policy.datagram_dialer import DatagramDialer
    from mproxy.policy.dialer import Dialer, DialObserver
    from mproxy.policy.paths import Paths
    from mproxy.policy.udp_record import UdpRecord
    from mproxy.transport._link import Link

# How long datagrams are tried alone, and how long after their first answer.
HEAD_START_US = 300_000
ANSWERED_US = 1_000_000

# When UDP is tried again where it did not pass: at first, and at most; and for how long it has to carry a session until
# that counts as passing.
AGAIN_US = 5_000_000
MOST_AGAIN_US = 1_800_000_000
LASTING_US = 60_000_000

# For how long at least the next run of cproxy does without the head start there: what it does not wait for is worth
# more to it than UDP in its first minute.
REMEMBERED_US = 60_000_000

# A session that TCP carries: how long after that began or the network changed, and for how long, UDP is tried.
MOVE_AFTER_US = 500_000
MOVE_US = 5_000_000

# With `starts_quickly`: how long TCP is tried alone, and after its welcome, when UDP is tried. What is over by then, as
# most commands through ssh are, has had no use for it.
QUICKLY_US = 1_000_000
SETTLED_US = 3_000_000


class RaceDialer(CombinedDialer):
    """As `policy.dialer.Dialer`. `make_tcp(observer)` and `make_datagram(observer, heard, paths)` make the two, the
    second when it is needed first; `heard()` is called when sproxy has answered over UDP, `paths` is what both know."""

    def __init__(self, loop: Loop, observer: DialObserver, record: UdpRecord, starts_quickly: bool,
                 make_tcp: Callable[[DialObserver], Dialer],
                 make_datagram: Callable[[DialObserver, Callable[[], object], Paths], DatagramDialer]) -> None:
        super().__init__(loop, observer)
        self._record = record
        self._starts_quickly = starts_quickly  # and there was no welcome yet
        self._make_datagram = make_datagram
        self._tcp = make_tcp(_TcpObserver(self))
        self._datagram: DatagramDialer | None = None
        self._dialers = [self._tcp]
        self._carrying = self._tcp
        self._spot: Spot | None = None  # where sproxy says that it can be reached over UDP
        self._on_tcp = False     # TCP carries a session, or did last
        self._ends: tuple[str, str] | None = None  # its addresses: sproxy's and ours
        self._is_racing = False  # a carrier is needed, and what is dialled for it has its times
        self._is_moving = False  # a session that TCP carries is on its way to UDP
        self._is_answered = False  # sproxy has answered over UDP since it is being dialled
        self._udp_from = 0         # when that began
        self._carries_from = 0     # when UDP began to carry the session
        blocked_s, self._failures = record.blocked(MOST_AGAIN_US // 1_000_000)  # times in a row that UDP did not pass
        self._again_at = self.loop.now() + blocked_s * 1_000_000  # when to try it again

    # ---- what the others see of it

    @property
    def running(self) -> bool:
        """Whether it dials for a carrier that is needed."""
        return not self._is_moving and (self._tcp.running or self._tries_udp())

    @property
    def paths(self) -> Paths:
        """What is known of the paths."""
        return self._tcp.paths

    def start(self) -> None:
        """Dial until a carrier is welcomed; does nothing if that is under way."""
        if self._is_moving and self._is_answered:
            # sproxy closes the old carrier when it welcomes the new one, and that may be seen before the welcome.
            self._is_moving, self._is_racing = False, True
            self._delay.set(ANSWERED_US, self._start_tcp)
            return
        if self._is_moving:  # what it was to replace is lost, or in doubt
            self._is_moving = False
            self._delay.cancel()
            self._stop_udp()
        if self._is_racing and self.running:
            return
        self._is_racing = True
        self._is_answered = self._is_answered and self._tries_udp()  # an attempt may have gone on when it was eased
        if not self._record.is_offered or self.loop.now() < self._again_at:
            self._start_tcp()
        elif self._starts_quickly:
            self._tcp.start()
            self._delay.set(QUICKLY_US, self._start_udp)
        else:
            self._start_udp()
            self._delay.set(HEAD_START_US, self._start_tcp)

    def stop(self) -> None:
        """Give up what is under way."""
        self._delay.cancel()
        self._on_tcp = self._is_racing = self._is_moving = False
        self._tcp.stop()
        self._stop_udp()

    def ease(self) -> None:
        """Begin nothing more."""
        super().ease()
        self._is_racing = False
        self._plan_move()

    def network_changed(self) -> None:
        """What was found out about UDP may not hold any more; try again at once, if a carrier is wanted at all."""
        self._failures = self._again_at = 0
        super().network_changed()
        if self._tcp.running:
            if self._record.is_offered:
                self._start_udp()
        elif not self._is_racing:
            self._plan_move(MOVE_AFTER_US)

    def advertised(self, spot: Spot | None) -> None:
        """Where sproxy itself can be reached over UDP, as it has just said; None: it has said nothing."""
        if spot == self._spot:
            return
        self._spot = spot
        if self._datagram is not None:
            self._datagram.advertised(spot)
        was_blocked = self.loop.now() < self._again_at
        self._failures = self._again_at = 0  # what was found out is about another address
        if was_blocked and spot is not None and not self._is_racing:
            self._plan_move(MOVE_AFTER_US)

    def close(self, closed: Callable[[], object]) -> None:
        """End, then call `closed`."""
        self.stop()
        (self._datagram or self._tcp).close(closed)

    # ---- one beside the other

    def _start_tcp(self) -> None:
        self._delay.cancel()
        self._tcp.start()

    def _start_udp(self) -> None:
        self._delay.cancel()
        if self._datagram is None:
            self._datagram = self._make_datagram(_DatagramObserver(self), self._heard, self._tcp.paths)
            self._dialers.append(self._datagram)
            self._datagram.advertised(self._spot)
        if not self._datagram.running:
            self._udp_from = self.loop.now()
        self._datagram.start()

    def _stop_udp(self) -> None:
        if self._datagram is not None:
            self._datagram.stop()

    def _tries_udp(self) -> bool:
        return self._datagram is not None and self._datagram.running

    def _heard(self) -> None:
        """sproxy answers over UDP."""
        self._is_answered = True
        if self._is_moving:
            return
        if self._tcp.has_said_hello:
            self._stop_udp()
            self._delay.set(ANSWERED_US, self._start_udp)
        else:
            self._tcp.stop()
            self._delay.set(ANSWERED_US, self._start_tcp)

    def _plan_move(self, after_us: int = 0) -> None:
        """Look again in a while whether UDP passes, if TCP carries the session."""
        if self._on_tcp and self._record.is_offered and not self._is_moving:
            self._delay.set(max(after_us, self._again_at - self.loop.now()), self._move)

    def _move(self) -> None:
        if self.observer.still_wanted():  # it is in doubt, and perhaps good
            self._plan_move(MOVE_AFTER_US)
            return
        self._is_moving, self._is_answered = True, False
        self._start_udp()
        self._delay.set(MOVE_US, self._stay)

    def _stay(self) -> None:
        """UDP does not pass."""
        self._is_moving = False
        self._stop_udp()
        self._note_blocked()
        self._plan_move()

    def _note_blocked(self) -> None:
        pause_us = min(AGAIN_US << min(self._failures, 10), MOST_AGAIN_US)
        self._again_at = self.loop.now() + pause_us
        self._failures += 1
        if self._ends is not None:
            self._record.note_blocked(max(pause_us, REMEMBERED_US) // 1_000_000, self._failures, *self._ends)

    # ---- what they tell

    def is_wanted(self) -> bool:
        """Whether the next attempt makes sense. If not, TCP has a carrier that was in doubt and is good: it moves
        later."""
        wanted = self.observer.still_wanted()
        if not wanted:
            self._is_racing = False
            self._plan_move(MOVE_AFTER_US)
        return wanted

    def datagram_is_wanted(self) -> bool:
        """The same for one over UDP."""
        return self._is_moving or self.is_wanted()

    def datagram_failed(self) -> None:
        """No answer, or one that led to nothing."""
        if self._is_moving:
            self._stay()
        elif not self._tcp.running:
            self._start_tcp()

    def datagram_welcomed(self, link: Link, caller: Caller, welcome: Welcome) -> None:
        assert self._datagram is not None
        self._again_at = 0
        self._record.passes()
        if self._carrying is not self._datagram:
            self._carries_from = self.loop.now()
        self._carrying = self._datagram
        self._welcomed()
        self.observer.on_welcome(link, caller, welcome)

    def tcp_welcomed(self, sock: socket.socket, caller: Caller, welcome: Welcome) -> None:
        had_time = self.loop.now() - self._udp_from >= HEAD_START_US
        was_slower, was_quick = self._tries_udp() and not self._is_answered and had_time, self._starts_quickly
        if self._carrying is self._datagram and self.loop.now() - self._carries_from >= LASTING_US:
            self._failures = 0
        self._carrying = self._tcp
        self._welcomed()
        self._on_tcp = True
        self._ends = addresses_of(sock)
        self._record.offer(bool(welcome.features & WelcomeFeature.UDP))
        if was_slower and self._record.is_offered:
            self._note_blocked()
        self._plan_move(SETTLED_US if was_quick else MOVE_AFTER_US)
        self.observer.on_welcome(sock, caller, welcome)

    def _welcomed(self) -> None:
        self._starts_quickly = False
        self.stop()


def addresses_of(sock: socket.socket) -> tuple[str, str] | None:
    """The peer's and ours; None if it has just been reset."""
    try:
        return sock.getpeername()[0], sock.getsockname()[0]
    except OSError:
        return None


class _TcpObserver(PassingObserver):
    """What TCP's dialer asks and tells."""

    def __init__(self, race: RaceDialer) -> None:
        super().__init__(race)
        self._race = race

    def still_wanted(self) -> bool:
        return self._race.is_wanted()

    def on_welcome(self, connection: Any, caller: Caller, welcome: Welcome) -> None:
        self._race.tcp_welcomed(connection, caller, welcome)


class _DatagramObserver(PassingObserver):
    """What the dialer of datagrams asks and tells."""

    def __init__(self, race: RaceDialer) -> None:
        super().__init__(race)
        self._race = race

    def still_wanted(self) -> bool:
        return self._race.datagram_is_wanted()

    def on_welcome(self, connection: Any, caller: Caller, welcome: Welcome) -> None:
        self._race.datagram_welcomed(connection, caller, welcome)

    def on_dial_failed(self, why: str) -> None:
        self._race.datagram_failed()

    def on_cut_off(self, why: str) -> None:
        self._race.datagram_failed()

    def on_turned_away(self, error: PeerError, caller: Caller) -> None:
        if caller.refused:
            super().on_turned_away(error, caller)  # it is our sproxy, and TCP would hear the same
        else:
            self._race.datagram_failed()
