"""cproxy's part in places where sproxy listens (-R): asking for them, and connecting what comes from there."""

from __future__ import annotations

import socket

from mproxy._session import CarrierState
from mproxy._wire import ResetCode
from mproxy.endpoint._asking import ask_for_places
from mproxy.ground.forwarding import is_path, say_place, say_target
from mproxy.io._socket import Target
from mproxy.policy.resolver import Resolver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.endpoint._endpoint import Endpoint
    from mproxy.ground.config import CproxyConfig
    from mproxy.ground.shapes import Address
    from mproxy.io._loop import Loop
    from mproxy.service.log import Log

# How long after a refusal to ask again: what was in the way may be gone.
AGAIN_US = 30_000_000

TOO_OLD = "this sproxy is too old to know -R: upgrade mproxy there"


class RemotePlaces:
    """All that the command line names, numbered from 1 on."""

    def __init__(self, config: CproxyConfig, log: Log, loop: Loop, endpoint: Endpoint) -> None:
        self._log = log
        self._loop = loop
        self._asks_again = False  # in a while
        self._endpoint = endpoint
        self._forwards = dict(enumerate(config.remote, 1))
        self._resolver = Resolver(loop.call_soon_threadsafe)
        self._told: dict[int, tuple[bool, str]] = {}  # what the log has of each
        self.is_known = False  # the sproxy of the present carrier knows LISTEN
        self.begin()

    @property
    def listening(self) -> list[str]:
        """Where sproxy listens now, and where that leads, as text."""
        return [f"{text} -> {self._target(number)}" for number, (listens, text) in self._told.items() if listens]

    def begin(self, is_recalled: bool = False) -> None:
        """There is another session: sproxy may open streams if it is asked to listen, or was by the worker before,
        which may have asked for something else."""
        self._endpoint.session.is_served = is_recalled or bool(self._forwards)
        self._told.clear()

    def ask(self) -> None:
        """A carrier is active: say where sproxy is to listen."""
        if self.is_known and self._endpoint.session.is_served:
            ask_for_places(self._endpoint, {
                number: say_place(place).encode() for number, (place, _target) in self._forwards.items()})
        elif not self.is_known:
            for number in self._forwards:
                self.answered(number, False, TOO_OLD)

    def close(self) -> None:
        """Have sproxy listen no more: cproxy ends."""
        self._forwards = {}
        self._told.clear()
        self._ask_again()

    def _ask_again(self) -> None:
        self._asks_again = False
        if self._endpoint.session.state == CarrierState.ACTIVE and self.is_known:
            self.ask()

    def answered(self, number: int, listens: bool, text: str) -> None:
        """sproxy has answered."""
        if not listens and not self._asks_again:
            self._asks_again = True
            self._loop.call_later(AGAIN_US, self._ask_again)
        if number not in self._forwards or self._told.get(number) == (listens, text):
            return
        self._told[number] = listens, text
        if listens:
            self._log.info("remote-listening", at=text, target=self._target(number))
        else:
            self._log.error("remote-refused", at=say_place(self._forwards[number][0]), target=self._target(number),
                            why=text)

    def connect(self, stream: int, target: bytes) -> None:
        """Connect a stream that came in at one of them."""
        number = target.partition(b" ")[0]
        forward = self._forwards.get(int(number)) if number.isdigit() else None
        if forward is None:
            self._endpoint.refuse(stream, ResetCode.NOT_ALLOWED)
            return
        host, port = forward[1]
        if is_path(host):
            self._endpoint.connect(stream, Target(host, [(socket.AF_UNIX, (host, port))]))
            return
        session = self._endpoint.session
        self._resolver.resolve(host, port, lambda addresses, error: self._resolved(
            session.session_id, stream, say_target(host, port), addresses, error))

    def _resolved(self, session_id: bytes, stream: int, text: str, addresses: list[Address], error: str | None) -> None:
        if self._endpoint.session.session_id != session_id:
            return
        if error is None:
            self._endpoint.connect(stream, Target(text, addresses))
        else:
            self.unreachable(stream, text, error)
            self._endpoint.refuse(stream, ResetCode.UNREACHABLE)

    def unreachable(self, stream: int, target: str, why: str) -> None:
        """Log that a stream's target cannot be reached from here."""
        self._log.warning("target-unreachable", stream=stream, target=target, why=why)

    def _target(self, number: int) -> str:
        return say_target(*self._forwards[number][1])
