"""Finds carriers to a host where ssh gets in: straight to sproxy's port where that is known and open, else through ssh.

`mproxy connect` uses it. Rules:

1. The port that is known is tried first. When it refuses, or has not answered for some time (less before there is a
   session, since somebody waits), the command of --via is run beside it: ssh, which starts sproxy where none runs.
2. What sproxy says there before the session begins (policy.announcement) is believed, as ssh has proven who it is: its
   port and its key. They are remembered, and no other key is accepted at the port.
3. As soon as sproxy has answered through ssh, the port is left alone: sproxy should not see two of our carriers
   compete. If it does in the end, the resume sorts that out; the first welcome ends the other way.
4. A session that ssh carries moves to the port, if that can be reached; whether it could is remembered, too.
5. What is reported of failed dials is what ssh says: a port that is closed is no news.
"""

from __future__ import annotations

from mproxy._wire import CloseCode
from mproxy.ground.errors import PeerError
from mproxy.policy.announcement import find_announcement
from mproxy.policy.combined_dialer import CombinedDialer, PassingObserver
from mproxy.policy.host_record import HostRecord
from mproxy.policy.via_dialer import ViaDialer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mproxy.ground.config import CproxyConfig
    from mproxy.ground.shapes import Logger, Spot
    from mproxy.handshake import Caller, Welcome
    from mproxy.io._loop import Loop
    from mproxy.policy.datagram_dialer import DatagramDialer
    from mproxy.policy.dialer import Dialer, DialObserver
    from mproxy.policy.paths import Paths
    from mproxy.policy.race_dialer import RaceDialer
    Direct = Dialer | DatagramDialer | RaceDialer

# How long the port alone is tried: while somebody waits for the session to begin, and later, when an outage most likely
# concerns both ways.
FIRST_ALONE_US = 1_000_000
ALONE_US = 3_000_000

# After the welcome through ssh, when to try the port, and for how long.
MOVE_AFTER_US = 500_000
MOVE_US = 8_000_000

NOT_FOUND = "exit status 127"  # of a shell: there is no such command


class HostDialer(CombinedDialer):
    """As `policy.dialer.Dialer`. `make_direct(port, observer)` makes one for that port of the host;
    `trust(fingerprint)` says which key sproxy has."""

    def __init__(self, loop: Loop, config: CproxyConfig, observer: DialObserver, log: Logger,
                 make_direct: Callable[[int, DialObserver], Direct], trust: Callable[[str], object]) -> None:
        super().__init__(loop, observer)
        self._host = config.direct or ""
        self._ssh_name = config.ssh_name or self._host
        self._make_direct = make_direct
        self._trust = trust
        self._record = HostRecord(config.state_dir, config.name or self._host)
        self._via = ViaDialer(loop, config, _ViaObserver(self), log, self._heard)
        self._direct: Direct | None = None
        self._carrying = self._via
        self._has_begun = False  # there was a welcome
        self._may_move = False   # ssh carries a session, and nothing has said yet that the port cannot be reached
        self._is_moving = False  # a session that ssh carries is on its way to the port
        self._use_port(self._record.port)
        trust(self._record.key)

    def _use_port(self, port: int) -> None:
        self._stop_direct()
        self._direct = self._make_direct(port, _DirectObserver(self)) if port else None
        self._dialers = [self._via] if self._direct is None else [self._via, self._direct]

    # ---- what the others see of it

    @property
    def will_move(self) -> bool:
        """Whether a session that ssh carries is likely to have the port soon."""
        return self._may_move and not self._record.is_shut

    @property
    def paths(self) -> Paths:
        """What is known of the paths to the port."""
        return (self._direct or self._via).paths

    def start(self) -> None:
        """Dial until a carrier is welcomed; does nothing if that is under way."""
        if self._is_moving:  # what it was to replace is lost, or in doubt
            self._is_moving = False
            self._delay.cancel()
            self._stop_direct()
        if self._via.running or (self._direct is not None and self._direct.running):
            return
        if self._direct is None or (self._record.is_reached_by_ssh and not self._has_begun):
            self._via.start()
            return
        self._direct.start()
        self._delay.set(ALONE_US if self._has_begun else FIRST_ALONE_US, self._start_via)

    def stop(self) -> None:
        """Give up what is under way."""
        self._delay.cancel()
        self._may_move = self._is_moving = False
        self._via.stop()
        self._stop_direct()

    def ease(self) -> None:
        """Begin nothing more."""
        super().ease()
        self._plan_move()

    def advertised(self, spot: Spot | None) -> None:
        """Where sproxy itself can be reached over UDP: neither way is that."""

    def close(self, closed: Callable[[], object]) -> None:
        """End, then call `closed`."""
        self.stop()
        direct = self._direct
        self._via.close(closed if direct is None else lambda: direct.close(closed))

    # ---- one way after the other

    def _start_via(self) -> None:
        self._delay.cancel()
        self._via.start()

    def _heard(self, banner: bytes) -> None:
        """sproxy answers through ssh. PeerError if it does not say where else it is."""
        found = find_announcement(banner)
        if found is None or not found.key:
            raise PeerError(CloseCode.VERSION_ERROR, "the sproxy there was not started by 'sproxy --attach --start'")
        self._trust(found.key)
        port = found.ports[0] if found.ports else 0
        if (port, found.key) != (self._record.port, self._record.key) or self._direct is None:
            self._record.learn(port, found.key)
            self._use_port(port)
        else:
            self._direct.stop()
        self._delay.cancel()

    def _stop_direct(self) -> None:
        if self._direct is not None:
            self._direct.stop()

    def _plan_move(self) -> None:
        if self._may_move and not self._is_moving:
            self._delay.set(MOVE_AFTER_US, self._move)

    def _move(self) -> None:
        """Try to leave ssh for the port."""
        if self.observer.still_wanted():  # the carrier is in doubt, and perhaps good
            self._plan_move()
        elif self._direct is not None:
            self._is_moving = True
            self._direct.start()
            self._delay.set(MOVE_US, self._stay)

    def _stay(self) -> None:
        """The port cannot be reached."""
        self._delay.cancel()
        self._may_move = self._is_moving = False
        self._record.note(is_shut=True)
        self._stop_direct()

    # ---- what the port tells

    def direct_is_wanted(self) -> bool:
        """Whether the next attempt at the port makes sense."""
        if self._via.is_answered:
            return False
        if self._is_moving or self.observer.still_wanted():
            return True
        self._plan_move()
        return False

    def direct_failed(self) -> None:
        """Refused, unreachable, or not the sproxy that is expected."""
        if self._is_moving:
            self._stay()
        elif not self._via.running:
            self._start_via()

    def direct_welcomed(self, connection: Any, caller: Caller, welcome: Welcome) -> None:
        assert self._direct is not None
        self._carrying = self._direct
        self._record.note(is_shut=False)
        self._via.keep_terminal()
        self._welcomed(connection, caller, welcome)

    # ---- what the command tells

    def via_welcomed(self, connection: Any, caller: Caller, welcome: Welcome) -> None:
        self._carrying = self._via
        self._stop_direct()
        self._welcomed(connection, caller, welcome)
        self._may_move = self._direct is not None
        self._plan_move()

    def _welcomed(self, connection: Any, caller: Caller, welcome: Welcome) -> None:
        self._delay.cancel()
        self._has_begun = True
        self._may_move = self._is_moving = False
        if self._carrying is not self._via:
            self._via.stop()
        self.observer.on_welcome(connection, caller, welcome)

    def via_failed(self) -> None:
        """The port was left alone while there was an answer through ssh."""
        if self._direct is not None and self._has_begun and self.observer.still_wanted():
            self._direct.start()

    def explain(self, why: str) -> str:
        """What a failure of ssh means."""
        if NOT_FOUND in why and not self._has_begun:
            return (f"mproxy is not installed on {self._host}, or not on the PATH of its ssh commands: 'mproxy push"
                    f" {self._ssh_name}' installs it there; until then: ssh -o ProxyCommand=none")
        return why


class _DirectObserver(PassingObserver):
    """What the port's dialer asks and tells."""

    def __init__(self, host: HostDialer) -> None:
        super().__init__(host)
        self._host = host

    def still_wanted(self) -> bool:
        return self._host.direct_is_wanted()

    def on_welcome(self, connection: Any, caller: Caller, welcome: Welcome) -> None:
        self._host.direct_welcomed(connection, caller, welcome)

    def on_dial_failed(self, why: str) -> None:
        self._host.direct_failed()

    def on_cut_off(self, why: str) -> None:
        self._host.direct_failed()

    def on_turned_away(self, error: PeerError, caller: Caller) -> None:
        if caller.refused and error.code != CloseCode.KEY_REFUSED:
            super().on_turned_away(error, caller)  # it is our sproxy, and about the session
        else:
            self._host.direct_failed()


class _ViaObserver(PassingObserver):
    """What the command's dialer asks and tells."""

    def __init__(self, host: HostDialer) -> None:
        super().__init__(host)
        self._host = host

    def on_welcome(self, connection: Any, caller: Caller, welcome: Welcome) -> None:
        self._host.via_welcomed(connection, caller, welcome)

    def on_dial_failed(self, why: str) -> None:
        self._host.via_failed()
        super().on_dial_failed(self._host.explain(why))

    def on_cut_off(self, why: str) -> None:
        self._host.via_failed()
        super().on_cut_off(why)
