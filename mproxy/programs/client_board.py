"""sproxy's clients as the workers of one crew see each other's: through the roster."""

from __future__ import annotations

import hashlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.policy._roster import Roster
    from mproxy.programs.clients import Client


class ClientBoard:
    """Shows this worker's clients to the others."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._rows: dict[Client, int] = {}

    def add(self, client: Client) -> None:
        """Its session begins."""
        row = self._roster.add(client.session_id, instance_mark(client.spki, client.instance_id),
                               client.endpoint.session.streams, client.began_at)
        if row >= 0:
            self._rows[client] = row
            client.on_note = self._note
            self._note(client)

    def remove(self, client: Client) -> None:
        """Its session is over."""
        row = self._rows.pop(client, None)
        if row is not None:
            self._roster.remove(row)
            client.on_note = None

    def streams_of(self, holder: bytes | str) -> int:
        """Open streams of a holder's sessions in the other workers."""
        return self._roster.count(holder_mark(holder))[1]

    def _note(self, client: Client) -> None:
        client.mark = holder_mark(client.holder)
        self._roster.note(self._rows[client], client.mark, client.attached, client.lost_at or 0, client.lent,
                          client.tags)


class Remote:
    """A session of another worker, as the roster shows it: what `mproxy.policy.places` asks of one."""

    def __init__(self, row: tuple[int, int, bytes, bytes, int, bool, int | None, int, bool]) -> None:
        (self.worker, self.row, self.session_id, self.mark, self.streams, self.attached, self.lost_at, self.began_at,
         self.lent) = row


def holder_mark(holder: bytes | str) -> bytes:
    """16 bytes for a key, or a source."""
    return hashlib.sha256(holder if isinstance(holder, bytes) else b"source " + holder.encode()).digest()[:16]


def instance_mark(spki: bytes, instance_id: bytes) -> bytes:
    """16 bytes for a cproxy."""
    return hashlib.sha256(spki + instance_id).digest()[:16]
