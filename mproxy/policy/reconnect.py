"""When to look for a new carrier.

A carrier is in doubt from the moment something speaks against it (two missed heartbeats, a byte that is not answered,
its own address gone, another route to sproxy, the host was asleep) until bytes arrive on it again. While it is in
doubt, or counts as lost, a new one is dialled beside the old one, and the peer is sought on that; the first that works
wins, and that may be the old one: over UDP it takes one round trip, a dial four. A change of the network that does not
concern the carrier only makes it prove itself at once with a heartbeat.

A better route while the old way is still there (a cable beside the Wi-Fi) is followed, too, but not more often than
once a minute: a cable with a loose contact moves nobody to and fro. With --stay it is not followed at all.
"""

from __future__ import annotations

import math

from mproxy.policy.network import NetworkWatch, SuspendClock, outgoing_device, preferred_source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mproxy.endpoint._endpoint import Endpoint
    from mproxy.ground.shapes import Logger, Sockaddr
    from mproxy.io._loop import Loop, Timer, Watch
    from mproxy.policy.datagram_dialer import DatagramDialer
    from mproxy.policy.dialer import Dialer
    from mproxy.policy.host_dialer import HostDialer
    from mproxy.policy.race_dialer import RaceDialer
    from mproxy.policy.via_dialer import ViaDialer
    AnyDialer = Dialer | DatagramDialer | RaceDialer | ViaDialer | HostDialer

# How often to compare the clocks: the longest that waking up goes unnoticed without any other sign.
CLOCK_CHECK_US = 1_000_000

# One change of the network brings several events: address, routes, neighbours. A route that was just found to lead
# nowhere is not tried again for the rest of them.
BURST_US = 10_000_000

# A better route is followed this long after the last one at the earliest.
MOVE_US = 60_000_000


class Reconnect:
    """Watches network and clocks for one endpoint and runs its dialer.

    `wanted()` says whether a carrier is needed at all. `log` gets one line for each cause of a dial.
    """

    def __init__(self, loop: Loop, endpoint: Endpoint, dialer: AnyDialer, log: Logger,
                 wanted: Callable[[], bool]) -> None:
        self._loop = loop
        self._endpoint = endpoint
        self._dialer = dialer
        self._log = log
        self._wanted = wanted
        self._in_doubt_at: float | None = None  # inf: nothing that is heard refutes it
        self._opened = 0  # streams, when we were last told that an application waits
        self._settled_at = 0  # when the carrier was attached
        self._routed: str | None = None  # the route's device then, if the carrier is bound to one
        self._device: str | None = None  # the carrier's
        self._is_moving = False  # to a better route, though nothing else speaks against the carrier
        self._move_at = 0  # not before
        self._move_timer: Timer | None = None  # something has changed before that
        self._suspend_clock = SuspendClock()
        self._network: NetworkWatch | None = None
        self._watch: Watch | None = None
        try:
            self._network = NetworkWatch()
            self._watch = loop.watch(self._network.fileno(), self._on_network)
        except OSError as error:  # a container or a service manager may forbid route sockets
            log.warning("network-unwatched", why=error.strerror)
        self._check_clock()

    def close(self) -> None:
        """Stop watching and dialling."""
        self._dialer.stop()
        if self._move_timer is not None:
            self._move_timer.cancel()
        if self._watch is not None:
            self._watch.close()
        if self._network is not None:
            self._network.close()

    def needed(self) -> None:
        """A carrier is wanted now (an application waits, or the carrier was lost): dial unless there is one."""
        if self._wanted() and not self._endpoint.attached:
            self._dial()

    def _dial(self) -> None:
        carrier = self._endpoint.carrier
        if carrier is not None:
            carrier.seek()
        self._dialer.start()

    def doubt(self, why: str) -> None:
        """Something speaks against the carrier: look for another one beside it."""
        if not self._endpoint.attached:
            self.needed()
            return
        if self._in_doubt_at is None:
            self._log.debug("in-doubt", why=why)
        self._in_doubt_at = max(self._in_doubt_at or 0, self._loop.now())
        self._dial()

    def replace(self, why: str) -> None:
        """The carrier is alive but unusable: look for another one, whatever is still heard on it."""
        self.doubt(why)
        if self._endpoint.attached:
            self._in_doubt_at = math.inf

    def revived(self) -> None:
        """The carrier that was given up brings bytes again."""
        if not self.still_wanted():
            self._dialer.ease()

    def hurry(self) -> None:
        """An application is waiting for a carrier."""
        self.needed()
        opened = self._endpoint.session.streams.opened
        newcomer, self._opened = opened != self._opened, opened
        if not self._endpoint.attached:
            self._dialer.hurry(newcomer)

    def settled(self, addresses: tuple[Sockaddr, Sockaddr] | None) -> None:
        """A new carrier, with these addresses (local, peer), is about to be attached."""
        self._in_doubt_at = None
        self._is_moving = False
        self._settled_at = self._loop.now()
        routed = outgoing_device(addresses[1]) if addresses is not None and self._dialer.follows_routes else None
        self._routed = routed if self._dialer.device is not None else None
        self._device = self._dialer.device or routed

    def still_wanted(self) -> bool:
        """Whether the next dial attempt makes sense; clears a doubt that bytes have refuted."""
        if not self._endpoint.attached:
            return self._wanted()
        if self._in_doubt_at is not None and self._heard_since(self._in_doubt_at) and (
                self._well_placed() or (not self._is_moving and self._way_remains())):
            self._in_doubt_at = None
            self._is_moving = False
        return self._in_doubt_at is not None

    def _heard_since(self, at: float) -> bool:
        return self._loop.now() - self._endpoint.receive_silence_us > at

    def _well_placed(self) -> bool:
        """Whether the carrier has the address that the kernel would choose now (on the device to which it is bound)."""
        if not self._dialer.follows_routes:
            return True
        addresses = self._endpoint.addresses()
        return addresses is not None and preferred_source(addresses[1], self._dialer.device) == addresses[0][0]

    def _way_remains(self) -> bool:
        """Whether the carrier's device, with its address, still leads to sproxy, be it not the best."""
        addresses = self._endpoint.addresses()
        return self._device is not None and addresses is not None and (
            preferred_source(addresses[1], self._device) == addresses[0][0])

    def _bound_aside(self) -> bool:
        """Whether the carrier is bound to a device that the route does not use, and it is time to try the route
        again."""
        device, addresses = self._dialer.device, self._endpoint.addresses()
        if device is None or addresses is None or self._dialer.stays:
            return False
        routed = outgoing_device(addresses[1])
        known = routed == self._routed and self._loop.now() - self._settled_at < BURST_US
        return routed != device and not known

    def _on_network(self, _events: int) -> None:
        events = self._network.read_events() if self._network is not None else []
        if not events or not self._wanted():
            return
        self._log.debug("network", what=events[0].kind, address=events[0].address, events=len(events))
        if self._endpoint.attached:
            self._look_at_route()
        else:
            self.needed()
        self._dialer.network_changed()

    def _look_at_route(self) -> None:
        """Follow the route to sproxy if it is another one now; else see whether the carrier still lives."""
        if not self._well_placed() or self._bound_aside():
            remains = self._way_remains()
            if not remains or self._is_moving or self._may_move():
                self._is_moving = remains
                self.doubt("the route to sproxy changed")
                return
        if self._in_doubt_at is None:
            self._endpoint.probe()

    def _may_move(self) -> bool:
        """Whether to leave a carrier that has its old way still; it then counts as left. If it is too early the route
        is looked at again in time."""
        now = self._loop.now()
        if self._dialer.stays:
            return False
        if now >= self._move_at:
            self._move_at = now + MOVE_US
            return True
        if self._move_timer is None:
            self._move_timer = self._loop.call_later(self._move_at - now, self._look_again)
        return False

    def _look_again(self) -> None:
        self._move_timer = None
        if self._endpoint.attached and self._wanted():
            self._look_at_route()

    def _check_clock(self) -> None:
        self._loop.call_later(CLOCK_CHECK_US, self._check_clock)
        slept_s = self._suspend_clock.check(self._loop.now())
        if slept_s:
            self.doubt(f"this host was asleep for {slept_s:.0f}s")
            self._dialer.network_changed()
