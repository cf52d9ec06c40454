"""`mproxy status`, `mproxy kill`, `mproxy wait`: the running programs of this user, for root of this host."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from functools import partial

from mproxy.ground.config import format_host_port
from mproxy.ground.errors import MproxyError
from mproxy.ground.words import counted, escaped, parse_duration, printable
from mproxy.programs.options import OneLineParser
from mproxy.programs.relay_status import say_bytes, say_duration, say_status
from mproxy.service import control
from mproxy.service.ending import complain, exit_status, silence_output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Facts = dict[str, Any]

# Seconds from one look to the next of --watch, and of `wait`.
WATCH_S = 1.0
WAIT_S = 0.1

# Most characters of a line, which may come from anybody.
LONGEST_LINE = 1000

_WHICH = "PROGRAM|NAME|PID"
_WHICH_HELP = "cproxy, sproxy, relay, recv or send: all of these; or a name, or a process number (default all)"


# ---- mproxy status

def status_main(argv: list[str]) -> int:
    """`mproxy status`; the exit status: 1 if nothing runs, or what runs cannot be asked."""
    return exit_status("mproxy status", _status, argv)


def _status(argv: list[str]) -> int:
    parser = _parser(
        "status", f"[--json] [--watch] [{_WHICH}]",
        "Show what every cproxy, sproxy, relay, recv and send of this user does (as root:\n"
        "of this host): sessions, their state, the round trip, what was moved, and\n"
        "outages; and files being transferred.",
        "examples:\n"
        "  mproxy status                  everything\n"
        "  mproxy status --watch sproxy   every second, all that are sproxy\n"
        "  mproxy status --json | jq      for scripts; see docs/status.schema.json")
    parser.add_argument("--json", action="store_true", help="one JSON object per program and line")
    parser.add_argument("--watch", action="store_true", help="show it again every second, until Ctrl-C")
    parser.add_argument("which", nargs="?", metavar=_WHICH, help=_WHICH_HELP)
    options = parser.parse_args(argv)
    try:
        while True:
            started = time.monotonic()
            found, silent = ask_all(options.which)
            shown = "\n".join(_as_json(found) if options.json else _as_text(found))
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


def _as_text(found: list[Facts]) -> Iterator[str]:
    if not found:
        yield "nothing is running: no cproxy, sproxy, relay, recv or send of this user has a control socket here"
    for number, facts in enumerate(found):
        if number:
            yield ""
        if "transfers" in facts:
            yield from map(clean, _say_transfers(facts))
            continue
        if facts.get("program") == "relay":
            yield clean(say_status(facts, as_json=False))
        else:
            yield from _say_program(facts)


def _say_program(facts: Facts) -> Iterator[str]:
    sessions = facts["sessions"]
    where = ", ".join(facts["listening"]) or "standard input and output"
    yield clean(f"{facts['name']}  process {facts['pid']}, {facts['state']} for {say_duration(facts['uptime_s'])},"
                f" on {where}, {counted(len(sessions), 'session')}")
    for session in sessions:
        yield from map(clean, _say_session(session))


def _say_session(session: Facts) -> Iterator[str]:
    since = "" if session["since_s"] is None else f" for {say_duration(session['since_s'])}"
    state = f"{session['state']}{since}"
    if session["state"] != "connected":
        state += f": {session['why']}" if session["why"] else ""
        if session["next_try_s"] is not None:
            state += f"; next try in {say_duration(session['next_try_s'])}"
    who = session["peer"] + (f" ({session['comment']})" if session["comment"] else "")
    yield f"  session {session['session'] or '(none yet)'}  {who}  {state}"
    carrier = session["carrier"]
    if carrier is not None:
        facts = [f"{carrier['kind']} {format_host_port(*carrier['local'])} -> {format_host_port(*carrier['peer'])}"]
        if session["round_trip_ms"] is not None:
            facts.append(f"round trip {session['round_trip_ms']:.1f} ms")
        if session["last_heard_s"] is not None:
            facts.append(f"heard {session['last_heard_s']:.1f} s ago")
        yield f"    {', '.join(facts)}"
    moved = (f"{counted(session['streams'], 'stream')}, {say_bytes(session['sent_bytes'])} sent,"
             f" {say_bytes(session['received_bytes'])} received, {say_bytes(session['resent_bytes'])} resent,"
             f" {say_bytes(session['unacknowledged_bytes'])} not acknowledged")
    outages = session["outages"]
    if outages["count"]:
        moved += (f"; {counted(outages['count'], 'outage')}, the longest {outages['longest_s']:.1f} s,"
                  f" {outages['total_s']:.1f} s in all")
    yield f"    {moved}"


def _say_transfers(facts: Facts) -> Iterator[str]:
    where = f", on {', '.join(facts['listening'])}" if "listening" in facts else ""
    yield (f"{facts['name']}  process {facts['pid']}, {facts['state']} for {say_duration(facts['uptime_s'])}{where},"
           f" {counted(len(facts['transfers']), 'transfer')}")
    for each in facts["transfers"]:
        done = each["moved_bytes"] + each["kept_bytes"]
        total = f" of {say_bytes(each['total_bytes'])}" if each["total_bytes"] is not None else ""
        left = f", {say_duration(each['left_s'])} left" if each["left_s"] is not None else ""
        yield (f"  {each['peer']}  {say_bytes(done)}{total}, {say_bytes(each['bytes_per_second'])}/s{left},"
               f" since {say_duration(each['age_s'])}")


def clean(text: str) -> str:
    """Text of a program that may be another user's, made safe for a terminal."""
    return "\n".join(escaped(line)[:LONGEST_LINE] for line in text.split("\n"))


# ---- mproxy kill

def kill_main(argv: list[str]) -> int:
    """`mproxy kill`; the exit status."""
    return exit_status("mproxy kill", _kill, argv)


def _kill(argv: list[str]) -> int:
    parser = _parser(
        "kill", "[--reason TEXT] SESSION",
        "End one session: both sides are told, and its applications' connections are\n"
        "reset. cproxy begins the next session with its next application.",
        "example: mproxy kill --reason 'moving house' 4f2a91c0")
    parser.add_argument("--reason", metavar="TEXT", help="why; both logs show it")
    parser.add_argument("session", metavar="SESSION", help="as 'mproxy status' shows it")
    options = parser.parse_args(argv)
    found, silent = ask_all(None)
    for facts in found:
        if any(session["session"] == options.session for session in facts.get("sessions", ())):
            answer = control.ask(facts["socket"], "kill", session=options.session, reason=options.reason)
            if not answer.get("ok"):
                raise MproxyError("; ".join(map(str, answer.get("lines", ["refused"]))))
            print(clean(f"{facts['name']}: {answer['done']}"))
            return 0
    for line in silent:
        complain("mproxy kill", line)
    raise MproxyError(f"no session {printable(options.session)} is here; 'mproxy status' shows those that are")


# ---- mproxy wait

def wait_main(argv: list[str]) -> int:
    """`mproxy wait`; the exit status: 0 once it is so, 1 when --timeout is over."""
    return exit_status("mproxy wait", _wait, argv)


def _wait(argv: list[str]) -> int:
    parser = _parser(
        "wait", f"[--for STATE] [--timeout TIME] [{_WHICH}]",
        "Wait until a cproxy or sproxy is in a state; for scripts.\n\n"
        "  connected   a session has a carrier\n"
        "  away        a session has lost its carrier and waits for the next\n"
        "  ended       no session is left, or the program has ended",
        "TIME is a number with us, ms, s, m, h or d (a bare number is seconds).\n\n"
        "example: mproxy wait --for connected --timeout 30s && make deploy")
    parser.add_choice(parser, "--for", ("connected", "away", "ended"), "the state (default connected)")
    parser.add(parser, "--timeout", parse_duration, metavar="TIME", help="give up after this long (default never)")
    parser.add_argument("which", nargs="?", metavar=_WHICH, help=_WHICH_HELP)
    options = parser.parse_args(argv)
    wanted: Callable[[list[Facts]], bool] = partial(_is_so, getattr(options, "for") or "connected")
    ends_at = time.monotonic() + options.timeout / 1e6 if options.timeout is not None else None
    while not wanted(ask_all(options.which)[0]):
        if ends_at is not None and time.monotonic() >= ends_at:
            return 1
        time.sleep(WAIT_S)
    return 0


def _is_so(state: str, found: list[Facts]) -> bool:
    states = [session["state"] for facts in found for session in facts.get("sessions", ())]
    return not states if state == "ended" else state in states


# ---- who runs

def ask_all(which: str | None) -> tuple[list[Facts], list[str]]:
    """(facts of the programs that `which` names, what went wrong with others). `which`: a program, a name or a
    process."""
    found, silent = [], []
    for program, pid, path in control.find_running():
        try:
            facts = control.ask(path, "status")
        except control.NobodyListens:
            continue
        except MproxyError as error:
            if os.path.exists(f"/proc/{pid}") and os.path.exists(path):
                silent.append(str(error))
            continue
        facts["socket"] = path
        if which in (None, program, facts.get("name"), str(pid)):
            found.append(facts)
    return found, silent


def _parser(word: str, usage: str, description: str, epilog: str) -> OneLineParser:
    parser = OneLineParser(f"mproxy {word}", f"mproxy {word} {usage}", description, epilog)
    parser.add_argument("-h", "--help", action="help", help="print this text and exit")
    return parser
