"""`mproxy up` and `mproxy down`: starts what config.toml has entries for, in the background, and ends it."""

from __future__ import annotations

import os

from mproxy.ground.errors import MproxyError, UsageError
from mproxy.ground.words import parse_name, printable
from mproxy.programs import staying
from mproxy.programs.entries import EntriesError, read_entries, usual_files
from mproxy.programs.options import OneLineParser
from mproxy.programs.status_commands import PATIENCE_S
from mproxy.programs.status_text import clean
from mproxy.service.background import stop_process
from mproxy.service.control import ask, staying_directory
from mproxy.service.exit import complain, exit_status
from mproxy.service.survey import Surveyed, survey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from mproxy.programs.entries import Entry

# Longer than any --drain or --drain-timeout, which only the program knows: a day at most.
STOP_PATIENCE_S = 86_400 + 60


# ---- mproxy up

def up_main(argv: list[str]) -> int:
    """`mproxy up`; the exit status."""
    return exit_status("mproxy up", _up, argv)


def _up(argv: list[str]) -> int:
    parser = OneLineParser(
        "mproxy up", "mproxy up [--config FILE] [NAME...]",
        "Start entries of ~/.config/mproxy/config.toml and /etc/mproxy/config.toml in the\n"
        "background, unless they run already. Without NAME: all of your own file, and as\n"
        "root those of /etc, too. 'mproxy config example' shows what goes there.",
        "exit status: 0 all of them run, 1 one does not start, 2 a file is wrong\n\n"
        "example: mproxy up office && mproxy status office")
    add_config(parser)
    parser.add_help_options()
    parser.add_argument("words", nargs="*", metavar="NAME", help="entries (default all)")
    given, names = parser.split(argv)
    return each_of("mproxy up", choose(given.get("config"), names), bring_up)


def bring_up(entry: Entry) -> str:
    """Have the entry run; what is said of it. MproxyError."""
    place = staying.open_place("up", entry.name)
    with staying.locked(place):
        words = entry.words()
        log = os.path.join(place, "log")
        if entry.takes("log-file") and not entry.has("log-file"):
            words = ["--log-file", log, *words]
        running = find_named(entry.name)
        if running is None:
            pid = staying.start(place, entry.program, words, _serving)
            return f"running, process {pid}, {entry.program}; log: {log}"
    if running.program != entry.program:
        raise MproxyError(f"another program with this name is running: {running.program}, process {running.pid}")
    if running.path.startswith(place) and _command_line(running.pid)[-len(words):] != words:
        return (f"running already, process {running.pid}, with the entry as it was before; to apply the change:"
                f" mproxy down {entry.name} && mproxy up {entry.name}")
    return f"running already, process {running.pid}"


def _serving(path: str) -> int:
    """The number of the program with that control socket, once it serves; MproxyError."""
    answer = ask(path, "status")
    if answer.get("state") != "running":
        raise MproxyError(f"{answer.get('state')}")
    return int(answer["pid"])


def _command_line(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return [os.fsdecode(word) for word in file.read().split(b"\0")[:-1]]
    except OSError:
        return []


# ---- mproxy down

def down_main(argv: list[str]) -> int:
    """`mproxy down`; the exit status."""
    return exit_status("mproxy down", _down, argv)


def _down(argv: list[str]) -> int:
    parser = OneLineParser(
        "mproxy down", "mproxy down [--config FILE] [NAME...]",
        "End what 'mproxy up' has started, as SIGTERM does, and wait until it has ended:\n"
        "what is queued is delivered first. Without NAME: all of it.",
        "exit status: 0 none of them runs, 1 one does not end, or has no such name\n\n"
        "example: mproxy down office")
    add_config(parser)
    parser.add_help_options()
    parser.add_argument("words", nargs="*", metavar="NAME", help="entries (default all)")
    given, names = parser.split(argv)
    files = [given["config"]] if "config" in given else usual_files()
    known = {*read_entries(files, is_checked=False), *started()}

    def take_down(name: str) -> str:
        running = find_named(name)
        if running is None:
            if name not in known:
                raise MproxyError("nothing with this name is running, and no entry has it")
            return "not running"
        stop_process(running.pid, STOP_PATIENCE_S)
        return f"ended, process {running.pid}"

    return each_of("mproxy down", {name: name for name in names or started()}, take_down)


def started() -> list[str]:
    """Names of what `mproxy up` has started and nobody has ended; it may have died."""
    directory = staying_directory("up")
    if directory is None or not os.path.isdir(directory):
        return []
    return [name for name in sorted(os.listdir(directory)) if staying.sockets(os.path.join(directory, name))]


# ---- both

def add_config(parser: OneLineParser) -> None:
    """--config."""
    parser.add(parser, "--config", parse_name, metavar="FILE", help="another file than these two")


def choose(file: str | None, names: Iterable[str], files: list[str] | None = None) -> dict[str, Entry]:
    """The entries with these names, of `file` or of the usual `files`; without names all that are this user's.
    UsageError."""
    paths = [file] if file is not None else usual_files() if files is None else files
    entries = read_entries(paths)
    if not any(map(os.path.exists, paths)):
        raise UsageError(f"there is no {' and no '.join(paths)}; 'mproxy config example' shows what goes there")
    missing = [name for name in names if name not in entries]
    if missing:
        raise UsageError(f"no entry is called {printable(missing[0])}; there are {', '.join(entries) or 'none'}")
    chosen = {name: entries[name] for name in names}
    return chosen or {name: entry for name, entry in entries.items() if os.geteuid() == 0 or entry.path == paths[0]}


def find_named(name: str) -> Surveyed | None:
    """The running program with that name, of this user or of the system's services; None: there is none."""
    for each in survey(PATIENCE_S):
        is_ours = each.uid == os.geteuid() or each.path.startswith("/run/mproxy")
        if each.facts is None:
            if is_ours and os.path.basename(os.path.dirname(each.path)) == name:
                raise MproxyError(f"process {each.pid} is running, and cannot be asked: {each.why}")
        elif is_ours and each.facts["name"] == name:
            return each
    return None


def each_of(program: str, chosen: dict[str, Any], act: Callable[[Any], str]) -> int:
    """Do it for each, and say what came of it; the exit status."""
    failed = 0
    for name, one in chosen.items():
        try:
            print(clean(f"{name}: {act(one)}"), flush=True)
        except EntriesError:
            raise
        except MproxyError as error:
            complain(program, f"{name}: {error}")
            failed = 1
    return failed
