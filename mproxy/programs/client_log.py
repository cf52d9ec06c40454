"""What sproxy's log says of the carriers of its sessions, from `connected` and `lost` to `resumed` and `moved`."""

from __future__ import annotations

from mproxy.programs.common import say_carrier, say_seconds
from mproxy.programs.daemons import loopback_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.programs.clients import Client
    from mproxy.service.log import Log


class ClientLog:
    """Lines in `log`. `names_sources`: each key has an address of its own towards the daemons."""

    def __init__(self, log: Log, names_sources: bool) -> None:
        self._log = log
        self._names_sources = names_sources

    def connected(self, client: Client) -> None:
        """A new session has its first carrier."""
        fields = say_carrier(client.endpoint, client.peer)
        if self._names_sources:
            fields["source"] = ".".join(map(str, loopback_of(client.spki)))
        self._log.info("connected", session=client.name, **fields, **client.say_key())

    def resumed(self, client: Client, after_us: int, resent: int) -> None:
        """The session goes on, that long after the last byte before; so many bytes are sent again."""
        session = client.endpoint.session
        self._log.info("resumed", session=client.name, after=say_seconds(after_us), resent=resent,
                       streams=session.streams.open_count, epoch=session.epoch,
                       **say_carrier(client.endpoint, client.peer))

    def lost(self, client: Client, why: str) -> None:
        """There is no carrier, or none that works."""
        streams = client.endpoint.session.streams
        self._log.warning("lost", session=client.name, peer=client.peer, why=why, streams=streams.open_count,
                          unacknowledged=streams.out_held)

    def moved(self, client: Client) -> None:
        """The client has another address."""
        self._log.info("moved", session=client.name, peer=client.peer)
