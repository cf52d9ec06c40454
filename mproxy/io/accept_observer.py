"""Who is told when accepting pauses: io/_accept."""

from __future__ import annotations


class AcceptObserver:
    """Told by an AcceptGate."""

    def on_accept_paused(self, why: str) -> None:
        """No connections are accepted for a while: there is no room, or no descriptor."""

    def on_accept_resumed(self) -> None:
        """Connections have been accepted again for CALM_US."""
