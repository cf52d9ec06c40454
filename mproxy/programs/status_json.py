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


def say_as_json(found: list[Facts], silent: list[Surveyed]) -> Iterator[str]:
    """One line a program; those that cannot be written are `silent`, too. Lists of streams may be a `StreamText`."""
    for facts in found:
        try:
            yield _say_one(facts)
        except (ValueError, RecursionError):  # in a field that nobody here knows
            silent.append(Surveyed(facts["program"], facts["pid"], facts["socket"], 0, why=STRANGE))


def _say_one(facts: Facts) -> str:
    place = f"streams {os.urandom(8).hex()}"  # nobody has written that
    texts = []
    for session in facts.get("sessions", ()):
        if hasattr(session.get("stream_list"), "say"):
            texts.append(session["stream_list"])
            session["stream_list"] = place
    head, *parts = json.dumps(facts, allow_nan=False).split(f'"{place}"')
    lists = _say_streams(facts["pid"], texts) if texts else []
    return "".join([head, *(f"[{streams}]{part}" for streams, part in zip(lists, parts, strict=True))])


def _say_streams(pid: int, texts: list[StreamText]) -> Iterator[str]:
    """Each list, with process and name of the applications that are on this host and may be seen."""
    from mproxy.service.owners import find_pids, name_of
    processes = find_pids(pid, b"".join(text.keys for text in texts), running())
    known = {0: b""} | {process: b', "pid": %d, "process": %s' % (process, json.dumps(name_of(process)).encode())
                        for process in set(processes) if process}
    more = [known[process] for process in processes]
    for text in texts:
        mine, more = more[:text.ends], more[text.ends:]
        yield text.say(mine).decode("ascii")


def running() -> list[int]:
    """The processes of all programs here: theirs are looked at last, when it is looked for applications."""
    return [pid for _program, pid, _path in find_running()]
