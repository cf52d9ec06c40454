"""What `mproxy status --json` prints. Streams are passed on as their programs wrote them: they may be thousands."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

from mproxy.service.answers import STRANGE
from mproxy.service.control import find_running
from mproxy.service.survey import Surveyed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mproxy.service._stream_text import StreamText

    Facts = dict[str, Any]
    Line = tuple[int, list[str], list[StreamText]]  # process; its JSON, cut where lists of streams belong; these


def say_as_json(found: list[Facts], silent: list[Surveyed]) -> Iterator[str]:
    """One line a program; those that cannot be written are `silent`, too. Lists of streams may be a `StreamText`."""
    lines: list[Line] = []
    for facts in found:
        try:
            lines.append(_begin_line(facts))
        except (ValueError, RecursionError):  # in a field that nobody here knows
            silent.append(Surveyed(facts["program"], facts["pid"], facts["socket"], 0, why=STRANGE))
    owners = _find_owners(lines)
    for (_pid, (head, *parts), texts), more in zip(lines, owners, strict=True):
        lists = _say_streams(texts, more)
        yield "".join([head, *(f"[{streams}]{part}" for streams, part in zip(lists, parts, strict=True))])


def _begin_line(facts: Facts) -> Line:
    """What there is of a line without its lists of streams."""
    place = f"streams {os.urandom(8).hex()}"  # nobody has written that
    texts = []
    for session in facts.get("sessions", ()):
        if hasattr(session.get("stream_list"), "say"):
            texts.append(session["stream_list"])
            session["stream_list"] = place
    return facts["pid"], json.dumps(facts, allow_nan=False).split(f'"{place}"'), texts


def _find_owners(lines: list[Line]) -> list[list[bytes]]:
    """Process and name of the applications that are on this host and may be seen, of each line's streams in order."""
    if not any(texts for _pid, _parts, texts in lines):
        return [[] for _line in lines]
    from mproxy.service.owners import find_pids, name_of
    found = find_pids([(pid, b"".join(text.keys for text in texts)) for pid, _parts, texts in lines], running())
    known = {0: b""} | {process: b', "pid": %d, "process": %s' % (process, json.dumps(name_of(process)).encode())
                        for process in {process for each in found for process in each} if process}
    return [[known[process] for process in each] for each in found]


def _say_streams(texts: list[StreamText], more: list[bytes]) -> Iterator[str]:
    """Each list, with `more` of its applications."""
    for text in texts:
        mine, more = more[:text.ends], more[text.ends:]
        yield text.say(mine).decode("ascii")


def running() -> list[int]:
    """The processes of all programs here: theirs are looked at last, when it is looked for applications."""
    return [pid for _program, pid, _path in find_running()]
