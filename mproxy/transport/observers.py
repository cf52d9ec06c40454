"""Who is told what happens on a Link and on its endpoint: base classes, so that nobody has to hear everything."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.transport._link import Link


class LinkHandler:
    """Told of the events of one Link, in the order in which they happen."""

    def on_handshake(self, link: Link, data: bytes) -> None:
        """A handshake message; empty: send the first one."""

    def on_established(self, link: Link) -> None:
        """The peer is there, with the keys."""

    def on_filled(self, link: Link) -> None:
        """The buffer given to `fill` has what was asked for: `link.filled` bytes."""

    def on_sent(self, link: Link) -> None:
        """The last buffer given to `send` is in the ring: there is room for more."""

    def on_read_ended(self, link: Link) -> None:
        """The peer's stream has ended, and all of it was taken."""

    def on_address_changed(self, link: Link) -> None:
        """The peer has another address."""

    def on_address_seen(self, link: Link) -> None:
        """The peer seems to have another address, and has yet to prove it. Told only if addresses are judged
        (transport/_path.pxd)."""

    def on_address_asked(self, link: Link) -> None:
        """The peer has asked whether we are where it sees us now."""

    def on_unknown(self, link: Link) -> None:
        """Whoever is where the peer was says that he does not know the connection: the process may be another one.
        Nothing proves it. Told at most once in UNKNOWN_US, on the active side."""

    def on_ended(self, link: Link, code: int, reason: str, local: bool) -> None:
        """It is over; `local`: because of this side. Nothing follows."""


class DatagramObserver:
    """Told of peers that dial a DatagramEndpoint."""

    def on_link(self, link: Link) -> None:
        """A peer has dialled; without a `link.handler` it is turned away."""
        raise NotImplementedError

    def is_busy(self) -> bool:
        """Whether those that have come are enough to do for now: whoever dials is not heard, and asks again."""
        return False

    def on_full(self) -> None:
        """Another peer waits because `most` are there; told at most once in FULL_US."""
