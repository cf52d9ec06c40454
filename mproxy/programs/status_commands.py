"""`mproxy status`, `mproxy kill`, `mproxy wait`: the running programs of this user, for root of this host."""

from __future__ import annotations

import os
import time

from mproxy.ground.errors import MproxyError, UsageError
from mproxy.ground.words import parse_duration, parse_name, printable
from mproxy.programs.options import OneLineParser
from mproxy.programs.status_text import clean, say_missing, say_nothing, say_programs
from mproxy.service import control
from mproxy.service.answers import what_was_done
from mproxy.service.exit import complain, exit_status, silence_output
from mproxy.service.survey import Surveyed, survey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Facts = dict[str, Any]

# Seconds from one look to the next of --watch, and of `wait`.
WATCH_S = 1.0
WAIT_S = 0.1

# How long programs have to answer: one that takes longer hangs. `wait` has less time with a short --timeout.
PATIENCE_S = 5.0
LEAST_PATIENCE_S = 1.0

# Streams of a session that a person is shown.
SHOWN = 10

KINDS = ("cproxy", "sproxy", "relay", "recv", "send")
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
    add_which(parser)
    options = parser.parse_args(argv)
    try:
        while True:
            started = time.monotonic()
            if options.json:
                from mproxy.programs.status_json import say_as_json
                found, silent = ask_all(options.which, as_text=True, streams=options.streams)
                shown = "\n".join(say_as_json(found, silent))
            else:
                found, silent = ask_all(options.which, streams=True if options.streams else SHOWN)
                name_applications(found)
                shown = "\n".join(say_programs(found, options.which))
            if options.watch and not options.json and os.isatty(1):
                shown = f"\033[H\033[J{shown}"
            print(shown, flush=True)
            for each in silent:
                complain("mproxy status", say_silent(each))
            if not options.watch:
                return int(bool(silent) or not found)
            time.sleep(max(0.0, started + WATCH_S - time.monotonic()))
    except BrokenPipeError:
        silence_output()  # `| head` has seen enough
        return 0
    except KeyboardInterrupt:
        return 0 if options.watch else 130


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
            done = what_was_done(control.ask(facts["socket"], "kill", session=session, reason=options.reason, **wanted))
            print(clean(f"{facts['name']}: {done}"))
            return 0
    for one in silent:
        complain("mproxy kill", say_silent(one))
    raise MproxyError(f"there is no session {printable(session)} here; 'mproxy status' lists them")


def split_name(text: str) -> tuple[str, dict[str, int]]:
    """(session, {"stream": number} if it names one) of SESSION or SESSION/STREAM. UsageError."""
    session, slash, number = text.partition("/")
    if not session:
        raise UsageError(f"not a session: {printable(text)}; 'mproxy status' shows their names")
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
        "  ended       no session is left, or the program has ended\n\n"
        "Where several programs are meant, one that is connected, or away, is enough;\n"
        "they have ended when all of them have. If nothing of that name runs yet, a line\n"
        "says so, and it is waited for; but to wait for the end of a NAME or PID that was\n"
        "never seen is an error.",
        "TIME is a number with us, ms, s, m, h or d (a bare number is seconds).\n\n"
        "exit status: 0 the state is reached, 1 --timeout has expired, or nothing that\n"
        "could end has that name, 2 wrong command line\n\n"
        "example: mproxy wait --for connected --timeout 30s && make deploy")
    parser.add_choice(parser, "--for", ("connected", "away", "ended"), "the state (default connected)")
    parser.add(parser, "--timeout", parse_duration, metavar="TIME", help="give up after this long (default never)")
    add_which(parser)
    options = parser.parse_args(argv)
    awaited = Awaited(options.which, getattr(options, "for") or "connected")
    ends_at = time.monotonic() + options.timeout / 1e6 if options.timeout is not None else None
    told = False
    while not awaited.look(ends_at):
        if ends_at is not None and time.monotonic() >= ends_at:
            complain("mproxy wait", f"--timeout has expired{'' if awaited.seen else f': {say_nothing(options.which)}'}")
            return 1
        if not (awaited.seen or told):
            told = True
            complain("mproxy wait", f"{say_missing(options.which)} yet; waiting")
        time.sleep(WAIT_S)
    return 0


class Awaited:
    """What `mproxy wait` waits for."""

    def __init__(self, which: str | None, state: str) -> None:
        self._which = which
        self._state = state
        self.seen: set[int] = set()  # processes that are, or were, meant

    def look(self, ends_at: float | None) -> bool:
        """Whether it is so now; MproxyError: it never will be. `ends_at`: when there is no more time."""
        left_s = PATIENCE_S if ends_at is None else ends_at - time.monotonic()
        found, silent = ask_all(self._which, max(LEAST_PATIENCE_S, min(PATIENCE_S, left_s)))
        self.seen.update(facts["pid"] for facts in found)
        states = [session["state"] for facts in found for session in facts.get("sessions", ())]
        if self._state != "ended":
            return self._state in states
        if states or any(self._may_mean(each) for each in silent):
            return False
        if not self.seen and self._which not in (None, *KINDS):
            raise MproxyError(f"{say_missing(self._which)}, so there is no end to wait for")
        return True

    def _may_mean(self, silent: Surveyed) -> bool:
        """Whether a program that does not answer is one of those: its name is known from earlier answers alone."""
        if silent.pid in self.seen or self._which in (None, silent.program, str(silent.pid)):
            return True
        return not self.seen and self._which not in KINDS


# ---- who runs

def add_which(parser: OneLineParser) -> None:
    """Which programs are meant: the argument `which` of `ask_all`."""
    parser.add_word("which", parse_name, WHICH_HELP, nargs="?", metavar=WHICH)


def ask_all(which: str | None, patience_s: float = PATIENCE_S, as_text: bool = False,
            **more: object) -> tuple[list[Facts], list[Surveyed]]:
    """(facts of the programs that `which` names, those that cannot be asked, which may be others).

    `which`: a program, a name or a process; all that may be meant are asked at once. `as_text`, `more`: as `survey`
    takes them.
    """
    found, silent = [], []
    for each in survey(patience_s, as_text, which, **more):
        if each.facts is None:
            silent.append(each)
        else:
            facts = each.facts | {"pid": each.pid, "socket": each.path}
            if which in (None, each.program, facts["name"], str(each.pid)):
                found.append(facts)
    return found, silent


def say_silent(silent: Surveyed) -> str:
    """That one of `ask_all` cannot be asked, and why."""
    return f"cannot ask the program on {silent.path}: {silent.why}"


def name_applications(found: list[Facts]) -> None:
    """Add process and name to the applications of all streams, where they are on this host and may be seen."""
    asked = [(facts["pid"], {_ends_of(stream["application"]): stream["application"]
                             for session in facts.get("sessions", ()) for stream in session.get("stream_list", ())
                             if stream["application"]}) for facts in found]
    if any(applications for _pid, applications in asked):
        from mproxy.programs.status_json import running
        from mproxy.service.owners import find_owners
        for (_pid, applications), owners in zip(asked, find_owners(asked, running()), strict=True):
            for ends, (pid, name) in owners.items():
                applications[ends].update(pid=pid, process=name)


def _ends_of(application: Facts) -> tuple[tuple[str, int], tuple[str, int]]:
    """The application's own end first."""
    (host, port), (our_host, our_port) = application["peer"], application["local"]
    return (host, port), (our_host, our_port)


def _parser(word: str, usage: str, description: str, epilog: str) -> OneLineParser:
    parser = OneLineParser(f"mproxy {word}", f"mproxy {word} {usage}", description, epilog)
    parser.add_help_options()
    return parser
