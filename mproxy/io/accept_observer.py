"""Who is told when accepting pauses: io/_accept."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.ground.shapes import Logger


class AcceptObserver:
    """Told by an AcceptGate."""

    def on_accept_paused(self, why: str) -> None:
        """No connections are accepted for a while: there is no room, or no descriptor."""

    def on_accept_resumed(self) -> None:
        """Connections have been accepted again for CALM_US."""


class AcceptLog(AcceptObserver):
    """Says it in the log."""

    def __init__(self, log: Logger) -> None:
        self._log = log

    def on_accept_paused(self, why: str) -> None:
        self._log.warning("accept-paused", why=why)

    def on_accept_resumed(self) -> None:
        self._log.info("accept-resumed")
