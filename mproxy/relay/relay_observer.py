"""Who is told what happens to rules, by the TCP and the UDP relay alike. `key` is the rule's."""

from __future__ import annotations

from mproxy.io.accept_observer import AcceptObserver


class Account:
    """What is known of a connection that has ended, for the access log."""

    __slots__ = ("client", "through", "target", "address", "bytes_in", "bytes_out", "duration_us", "why")

    def __init__(self, client: str, through: str | None, target: str | None, address: str | None, bytes_in: int,
                 bytes_out: int, duration_us: int, why: str) -> None:
        self.client = client        # ADDRESS:PORT, as the client's PROXY header says, or as we see it
        self.through = through      # as we see it, if the header says something else
        self.target = target        # HOST:PORT as in the rule; None: it came to none
        self.address = address      # of the target
        self.bytes_in = bytes_in    # from the client
        self.bytes_out = bytes_out  # to the client
        self.duration_us = duration_us
        self.why = why


class RelayObserver(AcceptObserver):
    """Told of what an operator can do something about; `error` is an errno."""

    def on_wanted(self, key: int, fd: int) -> None:
        """A connection of a rule that asks for its target each time: answer with `TcpRelay.relay`."""
        raise NotImplementedError

    def on_refused(self, key: int, target: str, error: int) -> None:
        """No target could be reached for one client; error 0: no address is known."""

    def on_circle(self, key: int) -> None:
        """Connections or datagrams of the rule come back to this relay."""

    def on_limited(self, key: int, source: str, count: int) -> None:
        """So many connections or flows that came too often were turned away; `source` began the last of them. Told
        every LIMITED_TELL_US at most for each rule."""

    def on_crowded(self, key: int) -> None:
        """The UDP rule has a flow beyond `max=`, since this worker has fewer than its part: others are to give up
        some."""

    def on_ended(self, key: int, account: Account) -> None:
        """A connection or flow has ended; only if `keep_accounts` was called."""

    def on_target_down(self, key: int, target: str, error: int) -> None:
        """One of several addresses does not answer, and is left out for a while."""

    def on_target_up(self, key: int, target: str) -> None:
        """An address that was left out answers again."""
