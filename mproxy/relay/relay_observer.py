"""Who is told what happens to rules, by the TCP and the UDP relay alike. `key` is the rule's."""

from __future__ import annotations

from mproxy.io.accept_observer import AcceptObserver


class RelayObserver(AcceptObserver):
    """Told of what an operator can do something about; `error` is an errno."""

    def on_wanted(self, key: int, fd: int) -> None:
        """A connection of a rule that asks for its target each time: answer with `TcpRelay.relay`."""
        raise NotImplementedError

    def on_refused(self, key: int, target: str, error: int) -> None:
        """No target could be reached for one client; error 0: no address is known."""

    def on_circle(self, key: int) -> None:
        """Connections or datagrams of the rule come back to this relay."""

    def on_target_down(self, key: int, target: str, error: int) -> None:
        """One of several addresses does not answer, and is left out for a while."""

    def on_target_up(self, key: int, target: str) -> None:
        """An address that was left out answers again."""
