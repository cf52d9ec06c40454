"""Whether a program's answer is what it should be: it may be of another release, or another user's who means no good.

Whoever shows answers has them checked here, and can then rely on their fields and types, and on numbers that are finite
and of a size that can be reckoned with. Text may still hold anything: it is escaped where it is shown. Fields that are
not known here are left alone. docs/status.schema.json says the same, and more precisely; a test compares the two.
"""

from __future__ import annotations

from mproxy.ground.errors import MproxyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    Check = Callable[[Any], bool]

# Nothing that is counted or measured here reaches it.
MOST = 1 << 63

STRANGE = "it does not answer as programs of this release do"


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


# ---- values

def _is_text(value: object) -> bool:
    return type(value) is str


def _is_whole(value: Any) -> bool:
    return type(value) is int and -MOST < value < MOST


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < MOST


def _is_number(value: Any) -> bool:
    return (type(value) is float or type(value) is int) and 0 <= value < MOST  # not a number is neither


def _is_any_number(value: Any) -> bool:
    return (type(value) is float or type(value) is int) and -MOST < value < MOST


def _is_end(value: Any) -> bool:
    """[address, port]."""
    return type(value) is list and len(value) == 2 and type(value[0]) is str and (
        type(value[1]) is int and 0 <= value[1] <= 65535)


def _is_text_or_null(value: object) -> bool:
    return value is None or type(value) is str


def _is_number_or_null(value: Any) -> bool:
    return value is None or ((type(value) is float or type(value) is int) and 0 <= value < MOST)


def _or_null(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _list_of(check: Check) -> Check:
    return lambda value: type(value) is list and all(map(check, value))


def _named(check: Check) -> Check:
    """An object with values of one kind under any name."""
    return lambda value: type(value) is dict and all(map(check, value.values()))


def _object(must: Mapping[str, Check], may: Mapping[str, Check] | None = None, never: tuple[str, ...] = ()) -> Check:
    """An object with all fields of `must` and none of `never`; those of `may` can be left out."""
    counts = [name for name, fits in must.items() if fits is _is_count]  # most fields are: checked without a call
    needed = [(name, fits) for name, fits in must.items() if fits is not _is_count]
    other = [*(may or {}).items()]

    def check(value: Any) -> bool:
        if type(value) is not dict:
            return False
        for name in counts:
            count = value.get(name)
            if type(count) is not int or not 0 <= count < MOST:
                return False
        for name, fits in needed:
            if name not in value or not fits(value[name]):
                return False
        for name, fits in other:
            if name in value and not fits(value[name]):
                return False
        return not any(name in value for name in never)
    return check


# ---- what programs say

_TEXTS = _list_of(_is_text)
_COUNTS = _named(_is_count)

_STREAM = _object({
    "stream": _is_count, "state": _is_text, "target": _is_text_or_null, "age_s": _is_number_or_null,
    "application": _or_null(_object({"local": _is_end, "peer": _is_end}, {"pid": _is_count, "process": _is_text})),
    "sent_bytes": _is_count, "received_bytes": _is_count, "unacknowledged_bytes": _is_count,
    "undelivered_bytes": _is_count, "slow": _is_text_or_null})

_SESSION = _object({
    "session": _is_text, "state": _is_text, "since_s": _is_number_or_null, "why": _is_text,
    "last_heard_s": _is_number_or_null, "round_trip_ms": _is_number_or_null, "streams": _is_count,
    "streams_ever": _is_count, "sent_bytes": _is_count, "received_bytes": _is_count, "resent_bytes": _is_count,
    "unacknowledged_bytes": _is_count, "undelivered_bytes": _is_count, "memory_bytes": _is_count, "peer": _is_text,
    "key": _is_text_or_null, "comment": _is_text_or_null, "age_s": _is_number_or_null, "heartbeat_s": _is_number,
    "next_try_s": _is_number_or_null,
    "carrier": _or_null(_object({"kind": _is_text, "local": _is_end, "peer": _is_end})),
    "outages": _object({
        "count": _is_count, "longest_s": _is_number, "total_s": _is_number,
        "recent": _list_of(_object({"began_s": _is_number, "lasted_s": _is_number, "why": _is_text}))}),
}, {"stream_list": _list_of(_STREAM)})

_TRANSFER = _object({
    "peer": _is_text, "age_s": _is_number, "moved_bytes": _is_whole, "kept_bytes": _is_whole,
    "total_bytes": _or_null(_is_whole), "bytes_per_second": _is_whole, "left_s": _or_null(_is_any_number)})

_RULE = _object({
    "line": _is_count, "protocol": _is_text, "address": _is_text, "port": _is_count, "targets": _TEXTS,
    "counters": _COUNTS}, {"down": _named(_is_text)})

_WORKER = _object({
    "worker": _is_count, "pid": _or_null(_is_count), "state": _is_text, "deaths": _is_count, "uptime_s": _is_number,
    "connections": _is_count, "sessions": _is_count, "counters": _COUNTS})

_ANY_PROGRAM: dict[str, Check] = {
    "program": _is_text, "name": _is_text, "version": _is_text, "pid": _is_count, "uid": _is_count, "state": _is_text,
    "uptime_s": _is_number}

_WITH_SESSIONS = _object(_ANY_PROGRAM | {
    "listening": _TEXTS, "sessions": _list_of(_SESSION),
    "endings": _list_of(_object({"session": _is_text, "peer": _is_text, "why": _is_text, "ended_s": _is_number})),
    "ended": _object({
        "sessions": _is_count, "streams_ever": _is_count, "sent_bytes": _is_count, "received_bytes": _is_count,
        "resent_bytes": _is_count, "outages": _object({"count": _is_count, "total_s": _is_number})}),
}, {"sproxy": _is_text, "daemon": _is_text, "deaths": _is_count}, never=("transfers", "workers"))

_WITH_TRANSFERS = _object(_ANY_PROGRAM | {"transfers": _list_of(_TRANSFER)}, {
    "listening": _TEXTS,
    "ended": _object({}, {"transfers": _is_count, "moved_bytes": _is_count, "kept_bytes": _is_count}),
}, never=("sessions", "workers"))

_WITH_RULES = _object(_ANY_PROGRAM | {
    "mode": _is_text, "rules_from": _is_text, "reloads": _is_count, "last_reload_errors": _TEXTS,
    "rules": _list_of(_RULE), "workers": _list_of(_WORKER), "totals": _object({"tcp": _COUNTS, "udp": _COUNTS}),
    "unresolved": _named(_is_text),
}, {"circles": _named(_TEXTS), "broken": _is_text}, never=("sessions", "transfers"))

_PROGRAMS: dict[str, Check] = {
    "cproxy": _WITH_SESSIONS, "sproxy": _WITH_SESSIONS, "recv": _WITH_TRANSFERS, "send": _WITH_TRANSFERS,
    "relay": _WITH_RULES}
