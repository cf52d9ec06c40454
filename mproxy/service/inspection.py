"""What cproxy and sproxy answer to `mproxy status` and `mproxy kill`, alike: their sessions, streams, and who ended.

Nothing is counted or kept for this but the last ends; an answer is made while it is read, in parts of some 50 us.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping

from mproxy.endpoint._listing import say_streams, stream_ids
from mproxy.ground.words import escaped, printable
from mproxy.keeper.main_process import upgrades, worker_deaths
from mproxy.service.control import MALFORMED
from mproxy.service.status import (
    LONGEST_WHY,
    REMEMBERED,
    Ended,
    check_history,
    histories_of,
    pack_history,
    parts_of,
    program_facts,
    seconds,
    unpack_history,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mproxy._session import Session
    from mproxy.endpoint._endpoint import Endpoint
    from mproxy.io._loop import Loop
    from mproxy.service.control import Command, Reply
    from mproxy.service.log import Log
    from mproxy.service.status import History, Outages

# Streams of one part of an answer.
PORTION = 16

# More streams than there can be.
ALL = 1 << 32


class Inspected:
    """Base of a program with sessions that can be asked for them."""

    def inspect(self) -> dict[str, Any]:
        """What it says of itself: `state`, `listening`, and whom it serves."""
        raise NotImplementedError

    def inspect_sessions(self) -> Iterator[tuple[Endpoint, Callable[[], dict[str, Any]]]]:
        """Each session, as far as it is still there when its turn comes: (endpoint, facts)."""
        raise NotImplementedError

    def kill_session(self, endpoint: Endpoint, why: str) -> None:
        """End a session that `inspect_sessions` has named, as its own end would."""
        raise NotImplementedError


class Inspection:
    """The commands status and kill of a program."""

    def __init__(self, loop: Loop, log: Log, program: str, name: str, inspected: Inspected) -> None:
        self._loop = loop
        self._log = log
        self._program = program
        self._name = name
        self._inspected = inspected
        self._started_at = loop.now()
        self._last: deque[tuple[int, dict[str, str]]] = deque(maxlen=REMEMBERED)  # (when, which and why)
        self._histories: dict[str, History] = {}  # what the build before told of its sessions
        self._keep_last: Callable[[bytes], object] | None = None
        self.ended = Ended()  # sessions that are over

    def commands(self) -> dict[str, Command]:
        return {"status": self._tell_status, "kill": self._kill}

    def outlive(self) -> None:
        """Have the next worker know all this, and go on with what the one before has kept."""
        from mproxy._inherit import keep_own_history, keep_own_record, kept_own_history, kept_own_record
        self.ended.keep, self._keep_last = keep_own_record, keep_own_history
        self.ended.recall(kept_own_record())
        last = unpack_history(kept_own_history(), (int, str, str, str))
        if last:
            self._last.clear()
        self._last.extend((at, {"session": session, "peer": peer, "why": why})
                          for at, session, peer, why in reversed(last))

    def history_of(self, number: int, session_id: bytes) -> History:
        """The outages of a session that the worker before, or else the build before, has left."""
        from mproxy._inherit import kept_history
        return unpack_history(kept_history(number)) or self._histories.get(session_id.hex(), [])

    def memory(self, sessions: Iterable[tuple[bytes, Outages]]) -> dict[str, Any]:
        """For `recall` in the next build of the program. `sessions`: ids and outages."""
        return {"started_at": self._started_at, "last": list(self._last), "outages": histories_of(sessions)}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Go on with the figures of the build before; what this one does not know of them begins anew."""
        try:
            self._started_at = int(memory["started_at"])
            self._last.extend((int(at), dict(end)) for at, end in memory["last"])
            self._histories = {session: check_history(history) for session, history in memory["outages"].items()}
        except MALFORMED:
            pass

    def session_over(self, session: Session, outages: Outages, peer: str, why: str) -> None:
        """It has ended, and is counted."""
        self.ended.add(session, outages, self._loop.now())
        self.note_end(session.session_id[:4].hex(), peer, why)

    def note_end(self, session: str, peer: str, why: str) -> None:
        """A session has ended."""
        self._last.append((self._loop.now(), {"session": session, "peer": peer, "why": why}))
        if self._keep_last is not None:
            self._keep_last(pack_history([
                [at, end["session"], end["peer"][:LONGEST_WHY], end["why"][:LONGEST_WHY]]
                for at, end in reversed(self._last)]))

    def _tell_status(self, request: dict[str, Any], reply: Reply) -> None:
        """{"command": "status", "session": NAME, "streams": COUNT}: of that session alone; with so many of the streams
        of each session, the oldest, or with all (true)."""
        now, about, streams = self._loop.now(), self._inspected.inspect(), request.get("streams")
        facts = program_facts(self._loop, self._started_at, self._program, self._name, about["state"]) | about
        deaths = worker_deaths()
        if deaths is not None:
            facts["deaths"] = deaths
            facts["upgrades"] = upgrades()
        facts["ended"] = self.ended.facts()
        facts["endings"] = [{**end, "ended_s": seconds(now - ended_at)} for ended_at, end in reversed(self._last)]
        most = ALL if streams is True else streams if isinstance(streams, int) else 0
        reply(parts_of(facts, "sessions", self._say_sessions(request.get("session"), most)))

    def _say_sessions(self, name: object, most: int) -> Iterator[Mapping[str, Any] | Iterable[str]]:
        for endpoint, facts_of in self._inspected.inspect_sessions():
            if name is None or name == name_of(endpoint):
                yield say_with_streams(facts_of(), endpoint, most) if most > 0 else facts_of()

    def _kill(self, request: dict[str, Any], reply: Reply) -> None:
        """{"command": "kill", "session": NAME, "stream": NUMBER, "reason": TEXT}: the session, or one stream of it."""
        name, reason = request.get("session"), request.get("reason")
        why = f"ended by mproxy kill: {escaped(str(reason))[:100]}" if reason else "ended by mproxy kill"
        endpoints = [each for each, _facts in self._inspected.inspect_sessions()]
        endpoint = next((each for each in endpoints if name and name == name_of(each)), None)
        if endpoint is None:
            reply({"ok": False, "unknown": True, "lines": [f"no session {printable(str(name))} here"]})
        elif "stream" in request:
            reply(self._kill_stream(endpoint, request["stream"], why))
        else:
            self._inspected.kill_session(endpoint, why)
            reply({"ok": True, "lines": [], "done": f"session {name} ended"})

    def _kill_stream(self, endpoint: Endpoint, number: object, why: str) -> dict[str, Any]:
        name = f"stream {name_of(endpoint)}/{printable(str(number))}"
        if type(number) is not int or not 0 < number < 1 << 32 or not endpoint.kill(number, why):
            return {"ok": False, "lines": [f"{name} is not open"]}
        self._log.warning("stream-killed", session=name_of(endpoint), stream=number, why=why)
        return {"ok": True, "lines": [], "done": f"{name} ended"}


def name_of(endpoint: Endpoint) -> str:
    """What log and status call the endpoint's session: the beginning of its id; empty while it has none."""
    return endpoint.session.session_id[:4].hex()


def say_with_streams(facts: Mapping[str, Any], endpoint: Endpoint, most: int) -> Iterator[str]:
    """A session's facts as JSON, and behind them the `most` oldest of its streams."""
    import json
    yield json.dumps(facts)[:-1] + ', "stream_list": ['
    session, last, seen, separator = endpoint.session, 0, set[int](), ""
    while len(seen) < most and endpoint.session is session:  # cproxy's next one has streams with the same numbers
        ids = stream_ids(endpoint, last, min(PORTION, most - len(seen)))
        if not ids:
            break
        last = ids[-1]
        if ids[0] in seen:  # the last one has gone, and it begins again: all that are not seen yet are behind these
            ids = [number for number in ids if number not in seen]
        seen.update(ids)
        portion = say_streams(endpoint, ids)
        yield separator + portion if portion else " "
        separator = "," if portion else separator
    yield "]}"
