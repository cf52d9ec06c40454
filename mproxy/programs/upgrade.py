"""`mproxy upgrade`: the version that is installed now takes the place of one that runs, and no connection ends."""

from __future__ import annotations

import json
import socket

from mproxy.ground.errors import MproxyError
from mproxy.programs.options import OneLineParser
from mproxy.programs.status_commands import add_which, ask_all, say_silent
from mproxy.programs.status_text import clean, say_nothing
from mproxy.service.answers import what_was_done
from mproxy.service.control import short_path
from mproxy.service.exit import complain, exit_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Facts = dict[str, Any]

# A program gives up by itself before that (mproxy/keeper/upgrades.py).
PATIENCE_S = 30

KINDS = ("cproxy", "sproxy")


def main(argv: list[str]) -> int:
    """`mproxy upgrade`; the exit status."""
    return exit_status("mproxy upgrade", _upgrade, argv)


def _upgrade(argv: list[str]) -> int:
    parser = OneLineParser(
        "mproxy upgrade", "mproxy upgrade [PROGRAM|NAME|PID]",
        "Have the version that is installed now take the place of each running cproxy\n"
        "and sproxy: with its command line, its ports and sessions, and its process\n"
        "number. No connection ends, and no byte is lost. If the new version does not\n"
        "start, the running one continues, and this says why. SIGUSR2 does the same.",
        "exit status: 0 it has taken over, 1 it has not, or nothing of that name runs\n\n"
        "example: mproxy upgrade sproxy")
    parser.add_help_options()
    add_which(parser)
    which = parser.parse_args(argv).which
    found, silent = ask_all(which)
    meant = [facts for facts in found if facts["program"] in KINDS]
    for one in silent:
        complain("mproxy upgrade", say_silent(one))
    if not meant:
        raise MproxyError(f"{clean(found[0]['name'])} is a {found[0]['program']}: only cproxy and sproxy can be"
                          " upgraded while they run; restart it" if found else say_nothing(which))
    failed = 0
    for facts in meant:
        try:
            print(clean(f"{facts['name']}: {ask_for_upgrade(facts)}"))
        except MproxyError as error:
            complain("mproxy upgrade", clean(f"{facts['name']}: {error}"))
            failed += 1
    return int(bool(failed or silent))


def ask_for_upgrade(facts: Facts) -> str:
    """Have the program with these facts upgraded; what it says. MproxyError."""
    if "upgrades" not in facts:
        raise MproxyError("it has no keeper (--no-keeper), so it cannot be upgraded while it runs; restart it")
    try:
        with socket.socket(socket.AF_UNIX) as connection, short_path(facts["socket"]) as path:
            connection.settimeout(PATIENCE_S)
            connection.connect(path)
            connection.sendall(b'{"command": "upgrade"}\n')
            with connection.makefile("rb") as answers:
                answer = json.loads(answers.readline())
                if answer.get("ok") is True:  # it has begun
                    answer = json.loads(answers.readline())
        return what_was_done(answer)
    except TimeoutError:
        raise MproxyError(f"it does not answer within {PATIENCE_S} s") from None
    except OSError as error:
        raise MproxyError(f"cannot ask it: {error.strerror}") from None
    except ValueError:
        raise MproxyError("it has not said how it went; its log has that") from None
