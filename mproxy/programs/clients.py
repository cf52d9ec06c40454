"""sproxy's clients: what it remembers about each session, and by what it finds one again."""

from __future__ import annotations

from mproxy._inherit import keep_record
from mproxy.policy.keys import fingerprint
from mproxy.policy.places import Places
from mproxy.programs.client_record import ClientRecord
from mproxy.programs.common import say_session
from mproxy.service.status import Outages, pack_history

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Protocol

    from mproxy.endpoint._endpoint import Endpoint
    from mproxy.io._loop import Timer
    from mproxy.policy.grants import Grant
    from mproxy.programs.client_record import PlaceSocket
    from mproxy.programs.served_place import ServedPlace

    class Board(Protocol):
        """Where other workers see our clients: `mproxy.programs.client_board.ClientBoard`."""

        def add(self, client: Client, /) -> None: ...
        def remove(self, client: Client, /) -> None: ...
        def streams_of(self, holder: bytes | str, /) -> int: ...

# Why a session ends that gives its place up.
MADE_ROOM = "all places were taken: it made room for a new session"

# The tags that a cproxy may show: that of the newest WELCOME may not have arrived.
TAGS = 2


class Client:
    """One session and what sproxy remembers about it."""

    def __init__(self, endpoint: Endpoint, spki: bytes, instance_id: bytes, host: str, peer: str, holder: bytes | str,
                 now: int, heartbeat_us: int) -> None:
        self.endpoint = endpoint
        self.spki = spki     # the key it began with; empty without encryption
        self.instance_id = instance_id
        self.host = host     # where its newest carrier comes from,
        self.peer = peer     # with the port
        self.holder = holder  # whose place it has
        self.certificate = b""  # that its key has shown, with which the session began, or a newer one
        self.grant: Grant | None = None          # what its key may do; None: everything
        self.places: dict[int, ServedPlace] = {}    # where sproxy listens for it, by number
        self.datagrams: dict[int, tuple[int, str]] = {}  # (epoch, target) of what it sends datagrams to, by number
        self.kept_places: list[PlaceSocket] = []    # the same of the worker before, until it is taken up
        self.stdio = False         # all its streams come from --stdio
        self.tags: list[int] = []             # that its cproxy may show, the newest last
        self.began_at = now
        self.outages = Outages(heartbeat_us)
        self.lost_at: int | None = None  # the last carrier's last byte
        self.end_timer: Timer | None = None  # of --session-ttl
        self.revived_at: int | None = None  # the carrier that counted as lost worked again, which is not noted yet
        self.resumed = False   # had a carrier before
        self.attached_at = 0   # when it got its newest carrier
        self.probed_at: int | None = None  # when that carrier was last made to show that it is alive
        self.mark = b""        # its holder, as the roster has it
        self.on_note: Callable[[Client], object] | None = None  # who else is told of changes

    @property
    def session_id(self) -> bytes:
        return self.endpoint.session.session_id

    @property
    def attached(self) -> bool:
        return self.endpoint.attached

    @property
    def lent(self) -> bool:
        return self.grant is None or self.grant.max_sessions is None

    @property
    def streams(self) -> int:
        return self.endpoint.session.streams.open_count

    @property
    def name(self) -> str:
        """What the log calls the session."""
        return say_session(self.session_id)

    def say_key(self) -> dict[str, str | None]:
        """Whose session it is, for the log: None without encryption."""
        comment = self.grant.comment if self.grant is not None else ""
        return {"key": fingerprint(self.spki) if self.spki else None, "comment": comment or None}

    def note(self) -> None:
        """Have the next worker know this client, if there will be one: after every change of what is in the record."""
        outages = self.outages
        record = ClientRecord(
            spki=self.spki, instance_id=self.instance_id, host=self.host, peer=self.peer, holder=self.holder,
            stdio=self.stdio, resumed=self.resumed, tags=self.tags, began_at=self.began_at, lost_at=self.lost_at,
            away_at=outages.began_at, outages=outages.count, longest_us=outages.longest_us, total_us=outages.total_us,
            resent_bytes=outages.resent_bytes,
            certificate=self.certificate, over_udp=self.endpoint.carrier is not None and self.endpoint.carrier.pulls,
            places=[*self.kept_places, *(each for place in self.places.values() for each in place.memory())])
        keep_record(self.endpoint.session, record.encode(), pack_history(outages.history()))
        if self.on_note is not None:
            self.on_note(self)

    def begin_outage(self, why: str) -> None:
        """Its carrier is gone, or counts as lost."""
        self.lost_at = self.endpoint.session.received_at
        self.outages.begin(self.lost_at, why)
        self.note()

    def end_outage(self, now: int, resent_bytes: int) -> int:
        """A carrier works, the first, another, or the one that counted as lost; returns the microseconds since the last
        byte before."""
        lost_at, self.lost_at, self.resumed = self.lost_at, None, True
        self.outages.end(now, resent_bytes, lost_at)
        self.note()
        return now - (lost_at or now)

    def set_end_timer(self, timer: Timer | None) -> None:
        """Have this timer, and not the former one, end the session."""
        if self.end_timer is not None:
            self.end_timer.cancel()
        self.end_timer = timer


def client_of(record: ClientRecord, endpoint: Endpoint, heartbeat_us: int) -> Client:
    """The client that the worker before this one has noted; its grant is to be looked up."""
    client = Client(endpoint, record.spki, record.instance_id, record.host, record.peer, record.holder,
                    record.began_at, heartbeat_us)
    client.stdio, client.resumed = record.stdio, record.resumed
    client.tags, client.certificate = record.tags, record.certificate
    client.kept_places = record.places
    client.lost_at = record.lost_at
    client.outages.began_at, client.outages.count = record.away_at, record.outages
    client.outages.longest_us, client.outages.total_us = record.longest_us, record.total_us
    client.outages.resent_bytes = record.resent_bytes
    return client


class Clients:
    """All of them, by session, by the cproxy they are of, by tag and by whose place they have. `board`: where other
    workers see them; None: there is no other."""

    def __init__(self, most: int, board: Board | None = None) -> None:
        self._board = board
        self.places: Places[Client] = Places(most)
        self._by_session: dict[bytes, Client] = {}
        self._by_instance: dict[tuple[bytes, bytes], Client] = {}  # (key, instance id) -> the newest
        self._by_tag: dict[int, Client] = {}

    def __len__(self) -> int:
        return len(self._by_session)

    def __iter__(self) -> Iterator[Client]:
        """Those that there are now, whatever becomes of them meanwhile."""
        return iter(list(self._by_session.values()))

    def find(self, session_id: bytes) -> Client | None:
        """The client with that session, if it has not ended."""
        return self._by_session.get(session_id)

    def of(self, endpoint: Endpoint) -> Client:
        """The client whose session an endpoint serves."""
        return self._by_session[endpoint.session.session_id]

    def of_instance(self, spki: bytes, instance_id: bytes) -> Client | None:
        """The client of a running cproxy."""
        return self._by_instance.get((spki, instance_id))

    def streams_of(self, holder: bytes | str) -> int:
        """Open streams of all sessions of a holder."""
        elsewhere = self._board.streams_of(holder) if self._board is not None else 0
        return elsewhere + sum(client.streams for client in self.places.held(holder))

    def flows_of(self, holder: bytes | str) -> int:
        """Flows of datagrams of all sessions of a holder that are here: all it has, if they are counted."""
        return sum(client.endpoint.flows.flow_count for client in self.places.held(holder))

    def has_tag(self, tag: int) -> bool:
        """Whether the client with that tag is here."""
        return tag in self._by_tag

    def add(self, client: Client) -> None:
        """Its session begins."""
        self._by_session[client.session_id] = client
        self._by_instance[client.spki, client.instance_id] = client
        self._by_tag.update(dict.fromkeys(client.tags, client))
        self.places.add(client, client.holder)
        if self._board is not None:
            self._board.add(client)

    def remove(self, client: Client) -> None:
        """Its session is over."""
        self._by_session.pop(client.session_id, None)
        if self._by_instance.get((client.spki, client.instance_id)) is client:
            del self._by_instance[client.spki, client.instance_id]
        for tag in client.tags:
            self._by_tag.pop(tag, None)
        self.places.remove(client, client.holder)
        if self._board is not None:
            self._board.remove(client)

    def give_tag(self, client: Client, tag: int) -> None:
        """Its cproxy may show that tag, too. The WELCOME with it may not arrive, so the former one stays valid."""
        client.tags.append(tag)
        self._by_tag[tag] = client
        if len(client.tags) > TAGS:
            self._by_tag.pop(client.tags.pop(0), None)
        client.note()

    def rehouse(self, client: Client, holder: bytes | str) -> None:
        """It has a place of that holder from now on."""
        self.places.remove(client, client.holder)
        client.holder = holder
        self.places.add(client, holder)
        client.note()
