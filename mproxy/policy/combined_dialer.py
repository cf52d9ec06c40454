"""What the dialers have in common that have two others dial, one beside the other (`race_dialer`, `host_dialer`)."""

from __future__ import annotations

from mproxy.io.delay import Delay
from mproxy.policy.dialer import DialObserver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from mproxy.carrier._carrier import Carrier
    from mproxy.ground.errors import PeerError
    from mproxy.handshake import Caller, Encryption, Welcome
    from mproxy.io._loop import Loop
    from mproxy.policy.datagram_dialer import DatagramDialer
    from mproxy.policy.dialer import Dialer
    from mproxy.policy.via_dialer import ViaDialer
    from mproxy.transport.keying import LinkKeys
    Part: TypeAlias = "Dialer | DatagramDialer | ViaDialer | CombinedDialer"


class CombinedDialer:
    """As `policy.dialer.Dialer`. Kinds set `_dialers` and `_carrying`."""

    def __init__(self, loop: Loop, observer: DialObserver) -> None:
        self.loop = loop
        self.observer = observer
        self._dialers: list[Part] = []
        self._carrying: Part  # the one that was welcomed last
        self._delay = Delay(loop)  # to the next thing to be done

    @property
    def next_try_at(self) -> int | None:
        """When the next attempt begins, in the loop's time; None while none is due."""
        return min((dialer.next_try_at for dialer in self._dialers if dialer.next_try_at is not None), default=None)

    @property
    def follows_routes(self) -> bool:
        """Whether the carrier has the address that the kernel chose."""
        return self._carrying.follows_routes

    @property
    def stays(self) -> bool:
        """Whether it is kept although there is a better route."""
        return self._carrying.stays

    @property
    def device(self) -> str | None:
        """To which it is bound."""
        return self._carrying.device

    def ease(self) -> None:
        """Begin nothing more."""
        self._delay.cancel()
        for dialer in self._dialers:
            dialer.ease()

    def hurry(self, newcomer: bool) -> None:
        """An application waits, or has just come."""
        for dialer in self._dialers:
            dialer.hurry(newcomer)

    def network_changed(self) -> None:
        """Try again at once, if a carrier is wanted at all."""
        for dialer in self._dialers:
            dialer.network_changed()

    def shun_answered(self) -> None:
        """Try the other addresses first."""
        for dialer in self._dialers:
            dialer.shun_answered()

    def make_carrier(self, connection: Any, keys: Encryption | None) -> Carrier:
        """The carrier on the connection of the last welcome."""
        return self._carrying.make_carrier(connection, keys)


class PassingObserver(DialObserver):
    """Of one of the two: passes on what it is asked and told to whom observes both. Kinds keep what is not for them."""

    def __init__(self, dialer: CombinedDialer) -> None:
        self._observer = dialer.observer

    def still_wanted(self) -> bool:
        return self._observer.still_wanted()

    def make_caller(self, keys: LinkKeys | None = None) -> Caller:
        return self._observer.make_caller(keys)

    def on_welcome(self, connection: Any, caller: Caller, welcome: Welcome) -> None:
        self._observer.on_welcome(connection, caller, welcome)

    def on_dial_failed(self, why: str) -> None:
        self._observer.on_dial_failed(why)

    def on_cut_off(self, why: str) -> None:
        self._observer.on_cut_off(why)

    def on_turned_away(self, error: PeerError, caller: Caller) -> None:
        self._observer.on_turned_away(error, caller)
