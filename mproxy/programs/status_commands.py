"""`mproxy status`, `mproxy kill`, `mproxy wait`: the running programs of this user, for root of this host."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from functools import partial

from mproxy.ground.errors import MproxyError, UsageError
from mproxy.ground.words import parse_duration, printable
from mproxy.programs.options import OneLineParser
from mproxy.programs.status_text import clean, say_nothing, say_programs
from mproxy.service import control
from mproxy.service.exit import complain, exit_status, silence_output
from mproxy.service.survey import survey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Facts = dict[str, Any]

# Seconds from one look to the next of --watch, and of `wait`.
WATCH_S = 1.0
WAIT_S = 0.1

# How long programs have to answer: one that takes longer hangs.
PATIENCE_S = 5.0

# Streams of a session that a person is shown.
SHOWN = 10

WHICH = "PROGRAM|NAME|PID"
WHICH_HELP = "cproxy, sproxy, relay, recv or send: all of these; or a name, or a process number (default all)"


# ---- mproxy status

def status_main(argv: list[str]) -> int:
    """`mproxy status`; the exit status: 1 if nothing runs, or what runs cannot be asked."""
    return exit_status("mproxy status", _status, argv)


def _status(argv: list[str]) -> int:
    parser = _parser(
        "status", f"[--json] [--streams] [--watch] [{WHICH}]",
        "Show what every cproxy, sproxy, relay, recv and send of this user does (as root:\n"
        "of this host): sessions and their streams, their state, the round trip, what was\n"
        "moved, and outages; and files being transferred.",
        "examples:\n"
        "  mproxy status                  everything\n"
        "  mproxy status --watch sproxy   every second, all that are sproxy\n"
        "  mproxy status --json | jq      for scripts; see docs/status.schema.json")
    parser.add_argument("--json", action="store_true", help="one JSON object per program and line")
    parser.add_argument("--streams", action="store_true", help=(
        f"every stream of each session (default: the {SHOWN} oldest, and with --json none)"))
    parser.add_argument("--watch", action="store_true", help="show it again every second, until Ctrl-C")
    parser.add_argument("which", nargs="?", metavar=WHICH, help=WHICH_HELP)
    options = parser.parse_args(argv)
    try:
        while True:
            started = time.monotonic()
            found, silent = ask_all(options.which, streams=True if options.streams else 0 if options.json else SHOWN)
            name_applications(found)
            shown = "\n".join(_as_json(found) if options.json else say_programs(found, options.which))
            if options.watch and not options.json and os.isatty(1):
                shown = f"\033[H\033[J{shown}"
            print(shown, flush=True)
            for line in silent:
                complain("mproxy status", line)
            if not options.watch:
                return int(bool(silent) or not found)
            time.sleep(max(0.0, started + WATCH_S - time.monotonic()))
    except BrokenPipeError:
        silence_output()  # `| head` has seen enough
        return 0
    except KeyboardInterrupt:
        return 0 if options.watch else 130


def _as_json(found: list[Facts]) -> Iterator[str]:
    for facts in found:
        yield json.dumps(facts)


# ---- mproxy kill

def kill_main(argv: list[str]) -> int:
    """`mproxy kill`; the exit status."""
    return exit_status("mproxy kill", _kill, argv)


def _kill(argv: list[str]) -> int:
    parser = _parser(
        "kill", "[--reason TEXT] SESSION|SESSION/STREAM",
        "End one session: both sides are told, and its applications' connections are\n"
        "reset. cproxy begins the next session with its next application.\n"
        "Or end one stream: its application's and its daemon's connection are reset.",
        "examples:\n"
        "  mproxy kill --reason 'moving house' 4f2a91c0\n"
        "  mproxy kill 4f2a91c0/7")
    parser.add_argument("--reason", metavar="TEXT", help="why; both logs show it")
    parser.add_argument("session", metavar="SESSION", type=split_name, help="as 'mproxy status' shows it")
    options = parser.parse_args(argv)
    session, wanted = options.session
    found, silent = ask_all(None)
    for facts in found:
        if any(each["session"] == session for each in facts.get("sessions", ())):
            answer = control.ask(facts["socket"], "kill", session=session, reason=options.reason, **wanted)
            if not answer.get("ok"):
                raise MproxyError("; ".join(map(str, answer.get("lines", ["refused"]))))
            print(clean(f"{facts['name']}: {answer['done']}"))
            return 0
    for line in silent:
        complain("mproxy kill", line)
    raise MproxyError(f"no session {printable(session)} is here; 'mproxy status' shows those that are")


def split_name(text: str) -> tuple[str, dict[str, int]]:
    """(session, {"stream": number} if it names one) of SESSION or SESSION/STREAM. UsageError."""
    session, slash, number = text.partition("/")
    if not slash:
        return session, {}
    if not (number.isascii() and number.isdigit()):
        raise UsageError(f"not a stream: {printable(text)}; 'mproxy status' shows them as SESSION/NUMBER")
    return session, {"stream": int(number)}


# ---- mproxy wait

def wait_main(argv: list[str]) -> int:
    """`mproxy wait`; the exit status: 0 once it is so, 1 when --timeout is over."""
    return exit_status("mproxy wait", _wait, argv)


def _wait(argv: list[str]) -> int:
    parser = _parser(
        "wait", f"[--for STATE] [--timeout TIME] [{WHICH}]",
        "Wait until a cproxy or sproxy is in a state; for scripts.\n\n"
        "  connected   a session has a carrier\n"
        "  away        a session has lost its carrier and waits for the next\n"
        "  ended       no session is left, or the program has ended",
        "TIME is a number with us, ms, s, m, h or d (a bare number is seconds).\n\n"
        "example: mproxy wait --for connected --timeout 30s && make deploy")
    parser.add_choice(parser, "--for", ("connected", "away", "ended"), "the state (default connected)")
    parser.add(parser, "--timeout", parse_duration, metavar="TIME", help="give up after this long (default never)")
    parser.add_argument("which", nargs="?", metavar=WHICH, help=WHICH_HELP)
    options = parser.parse_args(argv)
    wanted: Callable[[list[Facts]], bool] = partial(_is_so, getattr(options, "for") or "connected")
    ends_at = time.monotonic() + options.timeout / 1e6 if options.timeout is not None else None
    while not wanted(found := ask_all(options.which)[0]):
        if ends_at is not None and time.monotonic() >= ends_at:
            complain("mproxy wait", "--timeout has expired" if found else say_nothing(options.which))
            return 1
        time.sleep(WAIT_S)
    return 0


def _is_so(state: str, found: list[Facts]) -> bool:
    states = [session["state"] for facts in found for session in facts.get("sessions", ())]
    return not states if state == "ended" else state in states


# ---- who runs

def ask_all(which: str | None, patience_s: float = PATIENCE_S, **more: object) -> tuple[list[Facts], list[str]]:
    """(facts of the programs that `which` names, what went wrong with others). `which`: a program, a name or a
    process; all are asked at once; `more`: what to ask besides, as the control socket's `status` takes it."""
    found, silent = [], []
    for each in survey(patience_s, **more):
        if each.facts is None:
            silent.append(f"cannot ask the program on {each.path}: no answer")
        elif not _is_answer(each.facts):
            silent.append(f"the program on {each.path} answers as no program of this release does")
        else:
            facts = each.facts | {"pid": each.pid, "socket": each.path}
            if which in (None, each.program, facts["name"], str(each.pid)):
                found.append(facts)
    return found, silent


def _is_answer(facts: Facts) -> bool:
    """Whether a program is named, and has its sessions, as all who ask expect: it may be of another release, or, for
    root, another user's who means no good."""
    sessions = facts.get("sessions", [])
    return (isinstance(facts.get("name"), str) and isinstance(sessions, list)
            and all(isinstance(session, dict) and isinstance(session.get("session"), str)
                    and isinstance(session.get("state"), str) for session in sessions))


def name_applications(found: list[Facts]) -> None:
    """Add process and name to the applications of all streams, where they are on this host and may be seen."""
    for facts in found:
        try:
            applications = {_ends_of(stream["application"]): stream["application"]
                            for session in facts.get("sessions", ()) for stream in session.get("stream_list", ())
                            if stream["application"]}
        except control.MALFORMED:
            continue  # what shows them says so
        if applications:
            from mproxy.service.owners import find_owners
            for ends, (pid, name) in find_owners(facts["pid"], applications).items():
                applications[ends].update(pid=pid, process=name)


def _ends_of(application: Facts) -> tuple[tuple[str, int], tuple[str, int]]:
    """The application's own end first."""
    (host, port), (our_host, our_port) = application["peer"], application["local"]
    return (host, port), (our_host, our_port)


def _parser(word: str, usage: str, description: str, epilog: str) -> OneLineParser:
    parser = OneLineParser(f"mproxy {word}", f"mproxy {word} {usage}", description, epilog)
    parser.add_argument("-h", "--help", action="help", help="print this text and exit")
    return parser
