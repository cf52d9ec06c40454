"""cproxy's part in datagrams (--udp): where they come in, and where sproxy is to send them.

The sockets are opened before there is a worker, so they outlive each; they go to the next build with other heirlooms.
What sproxy is to do is asked for again on every carrier, as with places where it listens.
"""

from __future__ import annotations

from mproxy._session import CarrierState
from mproxy._wire import WelcomeFeature
from mproxy.endpoint._asking import ask_for_targets
from mproxy.endpoint._client_flows import ClientFlows
from mproxy.ground.config import format_host_port
from mproxy.ground.forwarding import ANYWHERE, say_target
from mproxy.io.bind import open_udp_sockets
from mproxy.keeper.main_process import has_past, is_first

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from mproxy.endpoint._endpoint import Endpoint
    from mproxy.ground.config import CproxyConfig
    from mproxy.io._loop import Loop
    from mproxy.service.log import Log

EVERY_ADDRESS = ("0.0.0.0", "::")

# How long after a refusal to ask again: what was in the way may be gone.
AGAIN_US = 30_000_000

TOO_OLD = "this sproxy is too old to know --udp: upgrade mproxy there"


class DatagramForwards:
    """All that the command line names, numbered from 1 on."""

    def __init__(self, config: CproxyConfig, log: Log, loop: Loop, endpoint: Endpoint) -> None:
        self._log = log
        self._loop = loop
        self._config = config
        self._endpoint = endpoint
        self._forwards = dict(enumerate(config.udp, 1))
        self._sockets: list[tuple[int, socket.socket]] = []
        self._told: dict[int, tuple[bool, str]] = {}  # what the log has of each
        self._features = 0        # of the present sproxy
        self._asks_again = False  # in a while
        self._doubt_until: int | None = None
        self._flows = ClientFlows(loop, endpoint, config.udp_idle_us, lambda: endpoint.observer.on_waiting(endpoint))
        self._flows.told = self._answered
        endpoint.flows = self._flows

    def open(self) -> None:
        """Open the ports."""
        for number, ((host, port), _target) in self._forwards.items():
            hosts = EVERY_ADDRESS if host == ANYWHERE else (host,) if host else self._config.bind_addresses
            named = bool(self._config.bind) if not host else host != ANYWHERE
            for sock in open_udp_sockets(hosts, port, named=named):
                self._sockets.append((number, sock))

    def start(self) -> None:
        """Take datagrams from now on."""
        for number, sock in self._sockets:
            self._flows.listen(sock.fileno(), number, self._target(number))
            if is_first():
                host, port = sock.getsockname()[:2]
                self._log.info("listening", address=host, port=port, udp="yes", target=self._target(number),
                               sproxy=self._config.sproxy_name)

    def close(self) -> None:
        """Take no more."""
        self._flows.close()
        for _number, sock in self._sockets:
            sock.close()
        self._sockets.clear()

    @property
    def addresses(self) -> list[str]:
        """Where datagrams come in, as text."""
        return [f"udp {format_host_port(*sock.getsockname()[:2])}" for _number, sock in self._sockets]

    @property
    def busy(self) -> bool:
        """Some application has used one of late, or may have, as the worker before this one knew."""
        if self._doubt_until is None:
            self._doubt_until = self._loop.now() + self._config.udp_idle_us if has_past() else 0
        return self._flows.flow_count > 0 or self._loop.now() < self._doubt_until

    def ask(self, features: int) -> None:
        """A carrier is active: say where datagrams are to go, if sproxy has the feature."""
        self._features = features
        if features & WelcomeFeature.DATAGRAMS:
            ask_for_targets(self._endpoint, {
                number: say_target(*target).encode() for number, (_place, target) in self._forwards.items()})
        else:
            for number in self._forwards:
                self._answered(self._endpoint, number, False, TOO_OLD)

    def _ask_again(self) -> None:
        self._asks_again = False
        if self._endpoint.session.state == CarrierState.ACTIVE and self._sockets:
            self.ask(self._features)

    def _answered(self, _endpoint: Endpoint, number: int, goes: bool, text: str) -> None:
        """sproxy has answered."""
        if not goes and not self._asks_again:
            self._asks_again = True
            self._loop.call_later(AGAIN_US, self._ask_again)
        if number not in self._forwards or self._told.get(number) == (goes, text):
            return
        self._told[number] = goes, text
        if goes:
            self._log.info("datagrams-forwarded", target=text)
        else:
            self._log.error("datagrams-refused", target=self._target(number), why=text)

    def _target(self, number: int) -> str:
        return say_target(*self._forwards[number][1])
