"""sproxy's clients of the worker that died, for the next one."""

from __future__ import annotations

from mproxy import _wire
from mproxy._inherit import inherit, kept_record, mark
from mproxy._session import CarrierState
from mproxy.endpoint._endpoint import Endpoint
from mproxy.endpoint._takeover import take_over
from mproxy.keeper.estate import end_unseen
from mproxy.programs.client_record import DamagedRecord, decode_record
from mproxy.programs.clients import client_of
from mproxy.programs.common import say_session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from mproxy.endpoint.observer import EndpointObserver
    from mproxy.ground.config import SessionConfig
    from mproxy.io._loop import Loop
    from mproxy.programs.client_record import ClientRecord
    from mproxy.programs.clients import Client
    from mproxy.service.status import History


class Heirs:
    """Makes clients of sessions that were found; none has a carrier."""

    def __init__(self, loop: Loop, config: SessionConfig, observer: EndpointObserver,
                 history_of: Callable[[int, bytes], History]) -> None:
        self.clients: list[tuple[Client, int]] = []  # in the order in which they began, and how many streams each lost
        self.linked: list[str] = []  # where those are (HOST:PORT) that had a carrier of datagrams
        self.over: list[Client] = []  # whose sessions were being ended when the worker died
        self.condemned: list[tuple[str, ClientRecord]] = []  # sessions that were ended: workers crashed in their turns
        self.nameless = 0  # sessions of which it cannot be told whose they are; they are ended
        self._loop = loop
        self._config = config
        self._observer = observer
        self._history_of = history_of

    def find(self, numbers: Iterable[int], ill: Collection[int]) -> None:
        """Look at sessions, by the numbers of their records, but not at those that are `ill`."""
        known: list[tuple[ClientRecord, int]] = []
        for number in numbers:
            kept = kept_record(number)
            try:
                record = decode_record(kept)
            except DamagedRecord:
                self.nameless += bool(kept)  # nothing is there yet when a session has just begun: nobody knows of it
                end_unseen(number)
                continue
            if number in ill:
                self.condemned.append((say_session(mark(number).to_bytes(_wire.SESSION_ID_BYTES)), record))
                end_unseen(number)
            else:
                known.append((record, number))
        for record, number in sorted(known, key=lambda each: each[0].began_at):
            endpoint, lost = self._endpoint(number)
            client = client_of(record, endpoint, self._config.heartbeat_us)
            client.outages.recall_history(self._history_of(number, client.session_id))
            if endpoint.session.state == CarrierState.CLOSED_FOR_GOOD:
                self.over.append(client)
            else:
                self.clients.append((client, lost))
                if record.over_udp and record.lost_at is None:
                    self.linked.append(record.peer)

    def _endpoint(self, number: int) -> tuple[Endpoint, int]:
        endpoint = Endpoint(self._loop, inherit(self._config, number, self._loop.now()), self._observer)
        return endpoint, len(take_over(endpoint, number))
