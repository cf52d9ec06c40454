"""How a cproxy finds out, before it ends, whether sproxy is there and has everything."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mproxy.endpoint._endpoint import Endpoint
    from mproxy.io._loop import Loop

# How often to look whether the peer has acknowledged or answered; and how long to wait for an answer.
ACK_LOOK_US = 5_000
ANSWER_US = 1_000_000


class Parting:
    """Begins with `ask`; the others are for afterwards."""

    def __init__(self, loop: Loop, endpoint: Endpoint) -> None:
        self._loop = loop
        self._endpoint = endpoint
        self._asked_at: int | None = None

    def ask(self) -> None:
        """Find out whether the path to sproxy works."""
        self._asked_at = self._loop.now()
        if self._endpoint.attached:
            self._endpoint.probe()

    @property
    def is_believed(self) -> bool:
        """Whether what is said now will be heard: there was no question, or it was answered."""
        return self._asked_at is None or self._has_answered()

    def _has_answered(self) -> bool:
        return self._loop.now() - self._endpoint.receive_silence_us > (self._asked_at or 0)

    def when_answered(self, act: Callable[[], object]) -> None:
        """Act as soon as it is known whether sproxy is there."""
        late = self._loop.now() - (self._asked_at or 0) >= ANSWER_US
        if self._endpoint.attached and not self._has_answered() and not late:
            self._loop.call_later(ACK_LOOK_US, lambda: self.when_answered(act))
        else:
            act()

    def when_acknowledged(self, deadline: int, act: Callable[[], object]) -> None:
        """Act as soon as the peer has everything, or at that time of the loop, and it has answered, too."""
        session = self._endpoint.session
        if session.streams.open_count and session.session_id and self._loop.now() < deadline:
            self._loop.call_later(ACK_LOOK_US, lambda: self.when_acknowledged(deadline, act))
        else:
            self.when_answered(act)
