"""What a program reports when `mproxy status` asks: facts as JSON, by the schema in docs/status.schema.json.

Counters are in the sessions and are read on request; only outages are counted for this alone, once for each.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

from mproxy import __version__
from mproxy.ground.config import format_host_port
from mproxy.ground.words import escaped
from mproxy.keeper.main_process import main_pid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mproxy._session import Session
    from mproxy.endpoint._endpoint import Endpoint
    from mproxy.io._loop import Loop

    History = Sequence[tuple[int, int, str]]

# Of a session: what its objects have outside themselves, such as lists; and what a carrier has that seals. As a test
# measures them.
SMALL_BYTES = 2200
SEALED_BYTES = 3000

# Of a carrier over UDP beside its object: the link with its keys.
LINK_BYTES = 10_200

# Flows of datagrams of a session that are shown.
MOST_FLOWS = 20

# Of a session's outages, and of sessions that have ended, the newest are remembered.
REMEMBERED = 16

# Of a history that outlives a worker, and of those of all sessions that go to the next build: most bytes. An upgrade's
# message has 64 KiB for all that it says.
HISTORY_BYTES = 1400
HISTORIES_BYTES = 24_000
LONGEST_WHY = 100

# What outlives a worker of the sessions that were over: seven sums, then the ids of the last sessions in them.
SUMS = struct.Struct("=7Q")
SESSION_ID = struct.Struct("=16s")
LAST_ADDED = 16


class Outages:
    """The times in which a session had no working carrier. All times in microseconds of the loop's clock."""

    __slots__ = ("began_at", "connected_at", "count", "heartbeat_us", "longest_us", "past", "resent_bytes", "total_us",
                 "why")

    def __init__(self, heartbeat_us: int) -> None:
        self.heartbeat_us = heartbeat_us   # shorter silence between two carriers is not an outage
        self.connected_at: int | None = None  # when the newest carrier was attached
        self.count = 0
        self.longest_us = 0
        self.total_us = 0
        self.resent_bytes = 0              # sent again after all outages so far
        self.began_at: int | None = None   # when the present one began; None: connected
        self.why = ""                      # of the latest one
        self.past: deque[tuple[int, int, str]] = deque(maxlen=REMEMBERED)  # (began at, ended at, why) of the last ones

    def begin(self, at: int, why: str) -> None:
        """An outage begins, the last byte having arrived `at`; does nothing if one has begun already."""
        if self.began_at is None:
            self.began_at = at
            self.count += 1
        self.why = why

    def end(self, now: int, resent_bytes: int, heard_at: int | None) -> None:
        """Streams flow again; the former carrier brought its last byte `heard_at`; None: there was none."""
        self.resent_bytes += resent_bytes
        self.connected_at = now
        if self.began_at is None and heard_at is not None and now - heard_at >= self.heartbeat_us:
            self.begin(heard_at, "nothing heard for too long")
        if self.began_at is not None:
            lasted_us = now - self.began_at
            self.longest_us = max(self.longest_us, lasted_us)
            self.total_us += lasted_us
            self.past.append((self.began_at, now, self.why))
            self.began_at = None

    def memory(self) -> tuple[int, int, int, int, int]:
        """For `recall` in another process."""
        return self.began_at or 0, self.count, self.longest_us, self.total_us, self.resent_bytes

    def recall(self, began_at: int, count: int, longest_us: int, total_us: int, resent_bytes: int) -> None:
        """Go on with the outages of a session of another process."""
        self.began_at = began_at or None
        self.count, self.longest_us, self.total_us, self.resent_bytes = count, longest_us, total_us, resent_bytes

    def history(self) -> History:
        """For `recall_history` in another process: (began at, ended at, why) of the last ones, the newest first; of the
        present one the end is 0."""
        present = [(self.began_at, 0, self.why)] if self.began_at is not None else []
        return [(began_at, ended_at, why[:LONGEST_WHY]) for began_at, ended_at, why in [*present, *reversed(self.past)]]

    def recall_history(self, history: History) -> None:
        """After `recall`: go on with the list, too."""
        for began_at, ended_at, why in reversed(history):
            self.why = why
            if ended_at:
                self.past.append((began_at, ended_at, why))

    def until(self, now: int) -> int:
        """How long they lasted together, with the one that lasts."""
        return self.total_us + (now - self.began_at if self.began_at is not None else 0)

    def facts(self, now: int) -> dict[str, Any]:
        """All outages, including the present one so far."""
        lasts_us = now - self.began_at if self.began_at is not None else 0
        known = [*self.past, (self.began_at, now, self.why)] if self.began_at is not None else list(self.past)
        recent = [{"began_s": seconds(now - began_at), "lasted_s": seconds(ended_at - began_at), "why": why}
                  for began_at, ended_at, why in reversed(known)]
        return {"count": self.count, "longest_s": seconds(max(self.longest_us, lasts_us)),
                "total_s": seconds(self.until(now)), "recent": recent}


class Ended:
    """Sums of a program's sessions that are over, so that what a program has done altogether never grows less.

    `keep` gets what the next worker needs for its `recall`. A session that is over can be found by that one, whether it
    is in the sums or not; so they know the last ones that are.
    """

    __slots__ = ("_added", "_sums", "keep")

    def __init__(self, keep: Callable[[bytes], object] | None = None) -> None:
        self.keep = keep
        self._sums = [0] * 7
        self._added: deque[bytes] = deque(maxlen=LAST_ADDED)

    def add(self, session: Session, outages: Outages, now: int) -> None:
        """That one is over; does nothing the second time."""
        if session.session_id in self._added:
            return
        streams = session.streams
        more = (1, streams.opened, streams.out_bytes, streams.in_bytes, outages.resent_bytes, outages.count,
                outages.until(now))
        self._sums = [old + new for old, new in zip(self._sums, more, strict=True)]
        self._added.append(session.session_id)
        if self.keep is not None:
            self.keep(SUMS.pack(*self._sums) + b"".join(map(SESSION_ID.pack, self._added)))

    def recall(self, kept: bytes) -> None:
        """Go on from what the worker before has kept, if there is anything that can be it."""
        if len(kept) >= SUMS.size and (len(kept) - SUMS.size) % SESSION_ID.size == 0:
            self._sums = list(SUMS.unpack_from(kept))
            self._added.extend(each for each, in SESSION_ID.iter_unpack(kept[SUMS.size:]))

    def facts(self) -> dict[str, Any]:
        """As JSON has them."""
        sessions, streams, sent_bytes, received_bytes, resent_bytes, outages, outages_us = self._sums
        return {"sessions": sessions, "streams_ever": streams, "sent_bytes": sent_bytes,
                "received_bytes": received_bytes, "resent_bytes": resent_bytes,
                "outages": {"count": outages, "total_s": seconds(outages_us)}}


def pack_history(history: Sequence[Sequence[Any]]) -> bytes:
    """A list, the newest first, as it outlives a process: without the oldest where all are too long."""
    import json
    packed = json.dumps(history, separators=(",", ":")).encode() if history else b""
    return packed if len(packed) <= HISTORY_BYTES else pack_history(history[:-1])


def unpack_history(packed: bytes, shape: tuple[type, ...] = (int, int, str)) -> list[Any]:
    """That list; empty when there is none, or what cannot be one. `shape`: the types in each entry."""
    import json
    try:
        return check_history(json.loads(packed) if packed else [], shape)
    except (ValueError, RecursionError):
        return []


def check_history(history: object, shape: tuple[type, ...] = (int, int, str)) -> list[Any]:
    """What another process says is such a list; empty when it cannot be one."""
    if not isinstance(history, list) or not all(
            isinstance(entry, list) and tuple(map(type, entry)) == shape for entry in history):
        return []
    return history[:REMEMBERED + 1]  # one more: the present outage


def histories_of(sessions: Iterable[tuple[bytes, Outages]]) -> dict[str, History]:
    """Histories by the ids of their sessions, of those that have been away last, as many as a message may have."""
    found = [(history, session_id) for session_id, outages in sessions if (history := outages.history())]
    found.sort(key=lambda each: each[0][0][0], reverse=True)
    kept, left = {}, HISTORIES_BYTES
    for history, session_id in found:
        left -= 40 + len(pack_history(history))
        if left < 0:
            break
        kept[session_id.hex()] = history
    return kept


def seconds(us: int) -> float:
    """Microseconds as in the JSON: seconds, to the millisecond."""
    return round(us / 1e6, 3)


def program_facts(loop: Loop, started_at: int, program: str, name: str, state: str) -> dict[str, Any]:
    """What every program reports first."""
    return {"program": program, "name": name, "version": __version__, "pid": main_pid(), "uid": os.geteuid(),
            "state": state, "uptime_s": seconds(loop.now() - started_at)}


def session_facts(endpoint: Endpoint, outages: Outages, now: int) -> dict[str, Any]:
    """What both ends know of a session."""
    session, streams, carrier = endpoint.session, endpoint.session.streams, endpoint.carrier
    since = outages.connected_at if outages.began_at is None else outages.began_at
    state = "connecting" if since is None else "connected" if outages.began_at is None else "away"
    datagrams = endpoint.flows.facts(MOST_FLOWS)
    return {
        "session": session.session_id[:4].hex(),
        "state": state,
        "since_s": seconds(now - since) if since is not None else None,
        "why": outages.why if state != "connected" else "",
        "carrier": carrier.describe() if carrier is not None and endpoint.attached else None,
        "last_heard_s": seconds(now - session.received_at) if session.received_at else None,
        "round_trip_ms": round(streams.rtt_us / 1000, 3) if streams.rtt_us > 0 else None,
        "streams": streams.open_count,
        "streams_ever": streams.opened,
        "sent_bytes": streams.out_bytes,
        "received_bytes": streams.in_bytes,
        "resent_bytes": outages.resent_bytes,
        "unacknowledged_bytes": streams.out_held,
        "undelivered_bytes": streams.in_held,
        "memory_bytes": memory_bytes(endpoint),
        "heartbeat_s": seconds(outages.heartbeat_us),
        "outages": outages.facts(now),
        **({"datagrams": datagrams} if datagrams is not None else {})}


def say_carrier_between(carrier: Mapping[str, Any], arrow: str) -> str:
    """A carrier's description, as people read it: `tcp+tls 10.0.0.1:40000 -> 10.0.0.2:6200`, `command+tls ssh host`."""
    if "local" in carrier and "peer" in carrier:
        return f"{carrier['kind']} {format_host_port(*carrier['local'])} {arrow} {format_host_port(*carrier['peer'])}"
    return f"{carrier['kind']} {escaped(carrier.get('through', ''))}"


def memory_bytes(endpoint: Endpoint) -> int:
    """What a session takes in this process: rings and records of its streams, its objects, its carrier's. What the
    system has for its sockets is not in it, nor what is there for a moment."""
    from mproxy._transmit import Transmitter
    session, carrier = endpoint.session, endpoint.carrier
    total = session.streams.storage_bytes + SMALL_BYTES + Transmitter.__basicsize__
    for part in (endpoint, session, session.streams, carrier):
        total += type(part).__basicsize__ if part is not None else 0
    if carrier is not None and carrier.pulls:
        return total + LINK_BYTES
    return total + (SEALED_BYTES if carrier is not None and carrier.sealed else 0)


def transfer_facts(peer: str, moved_bytes: int, kept_bytes: int, total_bytes: int | None,
                   took_us: int) -> dict[str, Any]:
    """A transfer: `moved_bytes` went over the path, `kept_bytes` were there already. The rate is the average of the
    whole transfer so far."""
    rate = moved_bytes / took_us * 1e6 if took_us > 0 else 0.0
    left = total_bytes - moved_bytes - kept_bytes if total_bytes is not None else None
    return {"peer": peer, "age_s": seconds(took_us), "moved_bytes": moved_bytes, "kept_bytes": kept_bytes,
            "total_bytes": total_bytes, "bytes_per_second": round(rate),
            "left_s": round(left / rate, 1) if left is not None and rate >= 1 else None}


def parts_of(facts: Mapping[str, Any], name: str, items: Iterable[Mapping[str, Any] | Iterable[str]]) -> Iterator[str]:
    """The JSON of `facts` with a list `name` after them, one item at a time: a list of thousands takes long. An item
    may come in parts of its own."""
    import json
    yield json.dumps(facts)[:-1] + f', "{name}": ['
    separator = ""
    for item in items:
        if isinstance(item, Mapping):
            yield separator + json.dumps(item)
        else:
            parts = iter(item)
            yield separator + next(parts)
            yield from parts
        separator = ", "
    yield "]}"
