"""Dialling a host that has several addresses: one after the other joins in until one answers (policy/stagger).

A packet that is not answered says nothing: there is no refusal as with TCP, and waiting for all tries at an address
where nobody is would take a minute.
"""

from __future__ import annotations

from mproxy.ground.config import format_host_port
from mproxy.io._socket import Target
from mproxy.policy.stagger import Stagger
from mproxy.transport.observers import LinkHandler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mproxy.ground.shapes import Address
    from mproxy.io._loop import Loop
    from mproxy.transport._datagram_endpoint import DatagramEndpoint
    from mproxy.transport._link import Link

OVERTAKEN = 1  # any code: nobody sees it, as the peer has not answered


class Reach(LinkHandler):
    """Links to `addresses` [(family, sockaddr)], one after the other. The first that answers goes to `adopt(link)`,
    which must set its handler; if none answers, the last one's end goes to `fail(code, reason)`."""

    def __init__(self, loop: Loop, endpoint: DatagramEndpoint, addresses: Iterable[Address],
                 adopt: Callable[[Link], object], fail: Callable[[int, str], object]) -> None:
        self._endpoint = endpoint
        self._adopt, self._fail = adopt, fail
        self._links: list[Link] = []
        self._over = False
        self._end = 0, ""  # code and reason of the last one that ended
        self._addresses: Stagger[Address] = Stagger(loop, self._begin, self._fail_if_over)
        self._addresses.left = list(addresses)
        self._addresses.go_on()

    def _begin(self, address: Address) -> bool:
        family, sockaddr = address
        target = Target(format_host_port(sockaddr[0], sockaddr[1]), [(family, sockaddr)])
        self._links.append(self._endpoint.connect(target, self))
        return True

    def _fail_if_over(self) -> None:
        if not self._links and not self._over:
            self._over = True
            self._fail(*self._end)

    def give_up(self, code: int, reason: str) -> None:
        """Stop dialling; `fail` is told."""
        self._addresses.stop()
        for link in list(self._links):
            link.abort(int(code), reason.encode())

    # ---- of Link, until the peer has answered

    def on_handshake(self, link: Link, data: bytes) -> None:
        """It is there and wants keys."""
        self._take(link).on_handshake(link, data)

    def on_established(self, link: Link) -> None:
        """The receiver has answered."""
        self._take(link).on_established(link)

    def on_ended(self, link: Link, code: int, reason: str, _local: bool) -> None:
        """No answer, or a refusal."""
        self._links.remove(link)
        if not self._over:
            self._end = code, reason
            self._addresses.go_on()

    def _take(self, link: Link) -> LinkHandler:
        """Set the link's handler from now on."""
        self._over = True
        self._addresses.stop()
        for other in list(self._links):
            if other is not link:
                other.abort(OVERTAKEN, b"")
        self._adopt(link)
        assert link.handler is not None
        return link.handler
