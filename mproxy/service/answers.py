"""Whether a program's answer is what it should be: it may be of another release, or another user's who means no good.

Whoever shows answers has them checked here, and can then rely on their fields and types, and on numbers that are finite
and of a size that can be reckoned with. Text may still hold anything: it is escaped where it is shown. Fields that are
not known here are left alone. docs/status.schema.json says the same, and more precisely; a test compares the two.
"""

from __future__ import annotations

from mproxy.ground._checks import (
    ANY_NUMBER,
    COUNT,
    END,
    NUMBER,
    TEXT,
    WHOLE,
    Check,
    list_of,
    named,
    object_of,
    or_null,
)
from mproxy.ground.errors import MproxyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

STRANGE = "it does not answer as programs of this release do; upgrade or restart it"


class Refused(MproxyError):
    """The program did not do what it was asked for, and says why in one or more lines."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("; ".join(lines))
        self._lines = lines

    def lines(self) -> list[str]:
        return self._lines


def is_status(answer: object, program: str | None = None) -> bool:
    """Whether it is the answer of `program` (None: of any) to the command `status`."""
    if not isinstance(answer, dict) or not isinstance(answer.get("program"), str):
        return False
    check = _PROGRAMS.get(answer["program"])
    return check is not None and program in (None, answer["program"]) and check(answer)


def what_was_done(answer: Mapping[str, Any]) -> str:
    """Of an answer to `kill` or `reload`; Refused."""
    lines = answer.get("lines")
    if answer.get("ok") is True:
        return str(answer.get("done", "done"))
    raise Refused([str(line) for line in lines] if isinstance(lines, list) and lines else ["refused"])


# ---- what programs say

_TEXTS = list_of(TEXT)
_COUNTS = named(COUNT)

_STREAM = object_of({
    "stream": COUNT, "state": TEXT, "target": or_null(TEXT), "age_s": or_null(NUMBER),
    "application": or_null(object_of({"local": END, "peer": END}, {"pid": COUNT, "process": TEXT})),
    "sent_bytes": COUNT, "received_bytes": COUNT, "unacknowledged_bytes": COUNT,
    "undelivered_bytes": COUNT, "slow": or_null(TEXT)})

_SESSION = object_of({
    "session": TEXT, "state": TEXT, "since_s": or_null(NUMBER), "why": TEXT,
    "last_heard_s": or_null(NUMBER), "round_trip_ms": or_null(NUMBER), "streams": COUNT,
    "streams_ever": COUNT, "sent_bytes": COUNT, "received_bytes": COUNT, "resent_bytes": COUNT,
    "unacknowledged_bytes": COUNT, "undelivered_bytes": COUNT, "memory_bytes": COUNT, "peer": TEXT,
    "key": or_null(TEXT), "comment": or_null(TEXT), "age_s": or_null(NUMBER), "heartbeat_s": NUMBER,
    "next_try_s": or_null(NUMBER),
    "carrier": or_null(object_of({"kind": TEXT}, {"local": END, "peer": END, "through": TEXT})),
    "outages": object_of({
        "count": COUNT, "longest_s": NUMBER, "total_s": NUMBER,
        "recent": list_of(object_of({"began_s": NUMBER, "lasted_s": NUMBER, "why": TEXT}))}),
}, {"stream_list": list_of(_STREAM), "datagrams": object_of({
    "flows": COUNT, "sent": COUNT, "received": COUNT, "dropped": COUNT,
    "flow_list": list_of(object_of({
        "flow": COUNT, "target": TEXT, "peer": or_null(END), "idle_s": NUMBER, "sent": COUNT, "received": COUNT,
        "sent_bytes": COUNT, "received_bytes": COUNT}))})})

_TRANSFER = object_of({
    "peer": TEXT, "age_s": NUMBER, "moved_bytes": WHOLE, "kept_bytes": WHOLE,
    "total_bytes": or_null(WHOLE), "bytes_per_second": WHOLE, "left_s": or_null(ANY_NUMBER)})

_RULE = object_of({
    "line": COUNT, "protocol": TEXT, "address": TEXT, "port": COUNT, "targets": _TEXTS,
    "counters": _COUNTS}, {"down": named(TEXT), "checked": named(TEXT)})

_WORKER = object_of({
    "worker": COUNT, "pid": or_null(COUNT), "state": TEXT, "deaths": COUNT, "uptime_s": NUMBER,
    "connections": COUNT, "sessions": COUNT, "counters": _COUNTS})

_ANY_PROGRAM: dict[str, Check] = {
    "program": TEXT, "name": TEXT, "version": TEXT, "pid": COUNT, "uid": COUNT, "state": TEXT,
    "uptime_s": NUMBER}

_WITH_SESSIONS = object_of(_ANY_PROGRAM | {
    "listening": _TEXTS, "sessions": list_of(_SESSION),
    "endings": list_of(object_of({"session": TEXT, "peer": TEXT, "why": TEXT, "ended_s": NUMBER})),
    "ended": object_of({
        "sessions": COUNT, "streams_ever": COUNT, "sent_bytes": COUNT, "received_bytes": COUNT,
        "resent_bytes": COUNT, "outages": object_of({"count": COUNT, "total_s": NUMBER})}),
}, {"sproxy": TEXT, "daemon": TEXT, "open": or_null(object_of({"to": TEXT, "close": TEXT})), "deaths": COUNT,
    "upgrades": COUNT}, never=("transfers", "workers"))

_WITH_TRANSFERS = object_of(_ANY_PROGRAM | {"transfers": list_of(_TRANSFER)}, {
    "listening": _TEXTS,
    "ended": object_of({}, {"transfers": COUNT, "moved_bytes": COUNT, "kept_bytes": COUNT}),
}, never=("sessions", "workers"))

_WITH_RULES = object_of(_ANY_PROGRAM | {
    "mode": TEXT, "rules_from": TEXT, "reloads": COUNT, "last_reload_errors": _TEXTS,
    "rules": list_of(_RULE), "workers": list_of(_WORKER), "totals": object_of({"tcp": _COUNTS, "udp": _COUNTS}),
    "unresolved": named(TEXT),
}, {"circles": named(_TEXTS), "broken": TEXT, "checks": object_of({"asked": COUNT, "failed": COUNT})},
    never=("sessions", "transfers"))

_PROGRAMS: dict[str, Check] = {
    "cproxy": _WITH_SESSIONS, "sproxy": _WITH_SESSIONS, "recv": _WITH_TRANSFERS, "send": _WITH_TRANSFERS,
    "relay": _WITH_RULES}
