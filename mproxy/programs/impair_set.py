"""`mproxy impair set`: a network of `mproxy impair` that runs gets worse, or better."""

from __future__ import annotations

from mproxy.ground.errors import MproxyError
from mproxy.ground.words import escaped, printable
from mproxy.programs.impair_options import parse_changes
from mproxy.service.answers import what_was_done
from mproxy.service.control import MALFORMED, NobodyListens, ask, find_running
from mproxy.service.exit import exit_status

PROGRAM = "mproxy impair set"


def main(argv: list[str]) -> int:
    """`mproxy impair set`; the exit status."""
    return exit_status(PROGRAM, _run, argv)


def _run(argv: list[str]) -> int:
    _anew, _changes, words = parse_changes(argv)  # what is wrong is said before anybody is asked
    path = find_impair(words[0] if words else None)
    print(escaped(what_was_done(ask(path, "set", arguments=argv))))
    return 0


def find_impair(which: str | None) -> str:
    """The control socket of the one that is meant; MproxyError."""
    found: list[tuple[str, int, str]] = []  # (name, process, socket)
    for _program, pid, path in find_running("impair"):
        try:
            found.append((str(ask(path, "name")["name"]), pid, path))
        except (NobodyListens, *MALFORMED):
            continue
    meant = [path for name, pid, path in found if which in (None, name, str(pid))]
    if len(meant) == 1:
        return meant[0]
    names = ", ".join(f"{escaped(name)} (process {pid})" for name, pid, _path in found)
    if not found:
        raise MproxyError("no 'mproxy impair' of this user runs")
    if not meant:
        raise MproxyError(f"no 'mproxy impair' is called {printable(str(which))}; there is {names}")
    raise MproxyError(f"several run: give the NAME or PID of one: {names}")
