"""What cproxy keeps for the worker after this one, and does with what the one before has left. Without a keeper there
is neither."""

from __future__ import annotations

import struct

from mproxy._inherit import (
    inherit,
    keep_record,
    kept_record,
    mark,
    named_descriptors,
)
from mproxy._session import CarrierState, Session
from mproxy._wire import SESSION_ID_BYTES, CloseCode
from mproxy.endpoint._endpoint import Endpoint
from mproxy.endpoint._takeover import take_over
from mproxy.endpoint.observer import EndpointObserver
from mproxy.handshake import session_tag
from mproxy.keeper.estate import Estate, end_unseen, peer_of
from mproxy.policy.paths import Way
from mproxy.service.status import Outages, pack_history

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Collection

    from mproxy.ground.config import CproxyConfig
    from mproxy.io._loop import Loop
    from mproxy.policy.instance import Instance
    from mproxy.programs.introduction import Introduction
    from mproxy.service.inspection import Inspection

# The version; when the session began, its last carrier's last byte (0: it has one), its last tag and its site, and its
# outages as they are remembered; behind that the key of the sproxy that has it.
RECORD = struct.Struct("=BQQQQ5Q")
VERSION = 1

ENDING = "it was being ended when the worker died"

# A longer key is not kept: then known_hosts alone says whether it is the right one.
LONGEST_KEY = 1960


class Past:
    """What a worker knows again of the session that it has taken over."""

    def __init__(self, began_at: int, lost_at: int, site: int, outages: Outages) -> None:
        self.began_at = began_at
        self.lost_at = lost_at or None  # its last carrier, if it had none when the worker died
        self.site = site
        self.outages = outages
        self.lost = 0                   # streams of which it cannot be told what was done
        self.ending: str | None = None  # why the session is to be ended; None: it goes on


class Succession:
    """Of one cproxy."""

    def __init__(self, config: CproxyConfig, loop: Loop, instance: Instance, introduction: Introduction,
                 inspection: Inspection) -> None:
        self._config = config.session
        self._dialled_port = config.sproxy_port if config.proxy is None else config.proxy[2]
        self._loop = loop
        self._instance = instance
        self._introduction = introduction
        self._inspection = inspection
        self.estate = Estate()
        self.way: Way | None = None  # where a former carrier led
        self.over: list[tuple[bytes, str]] = []  # ids of sessions that do not go on, and why

    def claim(self, fds: list[int], listeners: list[socket.socket]) -> Collection[int]:
        """Look what there is; of the descriptors `fds` those that are still wanted."""
        wanted = self.estate.claim(fds, listeners)
        for peer in filter(None, map(peer_of, set(fds) - wanted)):
            if peer[1][1] == self._dialled_port:
                self.way = Way(*peer)
        return wanted

    def note(self, session: Session, began_at: int | None, lost_at: int | None, site: int, outages: Outages) -> None:
        """Keep what the next worker has to know: before the session has an identity, and after every change."""
        tag, spki = self._introduction.memory()
        keep_record(session, RECORD.pack(VERSION, began_at or 0, lost_at or 0, tag, site, *outages.memory())
                    + (spki if len(spki) <= LONGEST_KEY else b""), pack_history(outages.history()))

    def understands(self, record: bytes) -> bool:
        """Whether that was noted by a cproxy whose version this one knows."""
        return len(record) >= RECORD.size and record[0] == VERSION

    def take_over(self, endpoint: Endpoint, condemned: Collection[int]) -> Past | None:
        """Have `endpoint` go on with the session of the worker before, or, if there is none, with one that outlives
        this one."""
        now = self._loop.now()
        self._inspection.outlive()
        ill = self.estate.ill(condemned)
        for number in ill:
            self.over.append((mark(number).to_bytes(SESSION_ID_BYTES), "workers died in its turn"))
            end_unseen(number)
        found = [(inherit(self._config, number, now), number) for number in self.estate.sessions if number not in ill]
        self._instance.recall()
        if not found:
            endpoint.renew(Session(self._config, is_server=False))
            return None
        found.sort(key=lambda each: rank(each[0], bool(named_descriptors(each[1]))))
        session, number = found.pop()
        for other in found:  # it died while one followed the other
            self._end(*other)
        endpoint.renew(session)
        lost = take_over(endpoint, number)
        past = self._recall(number, session)
        past.lost = len(lost)
        if session.state == CarrierState.CLOSED_FOR_GOOD:
            past.ending = ENDING
        elif session.session_id and self._instance.former != session_tag(session.session_id):
            self._instance.began(session_tag(session.session_id))
        return past

    def _recall(self, number: int, session: Session) -> Past:
        """What the former worker has noted."""
        kept, outages = kept_record(number), Outages(self._config.heartbeat_us)
        if not self.understands(kept):
            return Past(self._loop.now(), 0, 0, outages)
        _version, began_at, lost_at, tag, site, *figures = RECORD.unpack_from(kept)
        self._introduction.recall(tag, kept[RECORD.size:], session.epoch)
        outages.recall(*figures)
        outages.recall_history(self._inspection.history_of(number, session.session_id))
        return Past(began_at, lost_at, site, outages)

    def _end(self, session: Session, number: int) -> None:
        if session.session_id:
            self._inspection.ended.add(session, self._recall(number, session).outages, self._loop.now())
            self.over.append((session.session_id, ENDING))
        endpoint = Endpoint(self._loop, session, EndpointObserver())
        take_over(endpoint, number)
        endpoint.close(CloseCode.ORDERLY, "")
        endpoint.dispose()


def rank(session: Session, has_applications: bool) -> tuple[bool, bool]:
    """Of several sessions the one that goes on has the highest: one that is over has none to lose, and one that sproxy
    has not named yet may have applications."""
    named = bool(session.session_id)
    return session.state != CarrierState.CLOSED_FOR_GOOD and (named or has_applications), named
