"""`mproxy top`: every session of this user, live: sorted, asked why, killed.

The keyboard is in the main thread, and asking in another one: a program that does not answer stops no key.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable

from mproxy.ground.errors import MproxyError, UsageError
from mproxy.ground.words import parse_duration
from mproxy.programs.options import OneLineParser
from mproxy.programs.status_commands import WHICH, add_which, ask_all, name_applications, say_silent
from mproxy.programs.top_table import COLUMNS, TopColumn, TopRow, TopTable
from mproxy.service import control
from mproxy.service.answers import is_status, what_was_done
from mproxy.service.exit import exit_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mproxy.programs.top_screen import TopScreen
    from mproxy.service.survey import Surveyed

    Facts = dict[str, Any]

DELAY_US = 2_000_000
LEAST_DELAY_US, MOST_DELAY_US = 100_000, 3_600_000_000

# Asking takes no more than one part in so many of the time: with thousands of sessions it is done less often.
RARELY = 25

# How long a key is waited for until there may be news, and how long a message stays.
KEY_MS = 200
MESSAGE_S = 5.0

# What --sort calls the columns.
TITLES = [column.title.split()[0].lower() for column in COLUMNS]

# What has not answered by then hangs: the others are shown without it.
HANGS_S = 0.5

# Streams of the session that is looked at.
STREAMS = 500


def main(argv: list[str]) -> int:
    """`mproxy top`; the exit status."""
    return exit_status("mproxy top", _top, argv, interrupted=0)


def _top(argv: list[str]) -> int:
    parser = OneLineParser(
        "mproxy top", f"mproxy top [--delay TIME] [--sort COLUMN] [{WHICH}]",
        "Watch every session of this user (as root: of this host) and the rates at which\n"
        "bytes move; sort them, ask why one was away, and kill sessions and streams.\n\n"
        "  arrows, Page Up/Down, Home, End   choose a session\n"
        "  < and >, r     sort by the next column, the other way round\n"
        "  Enter          why: outages with their reasons, and the session's streams\n"
        "  k              kill it, after a question\n"
        "  space          ask now\n"
        "  q              quit",
        "TIME is a number with us, ms, s, m, h or d (a bare number is seconds).\n\n"
        "example: mproxy top --sort outages sproxy")
    parser.add(parser, "--delay", _delay, metavar="TIME", help=(
        "ask again after this long (default 2s); with thousands of sessions less often"))
    parser.add(parser, "--sort", _column, metavar="COLUMN", help=(
        f"sort by {', '.join(TITLES[:-1])} or {TITLES[-1]} (default down/s)"))
    parser.add_help_options()
    add_which(parser)
    options = parser.parse_args(argv)
    if not (os.isatty(0) and os.isatty(1)):
        raise UsageError("standard input and output are not a terminal; for scripts there is 'mproxy status --json'")
    table = TopTable()
    if options.sort is not None:
        table.sort_by(options.sort)
    sampler = Sampler(options.which, (DELAY_US if options.delay is None else options.delay) / 1e6)
    _on_screen(lambda screen: Top(screen, table, sampler).run())
    return 0


def _delay(text: str) -> int:
    delay_us = parse_duration(text)
    if not LEAST_DELAY_US <= delay_us <= MOST_DELAY_US:
        raise UsageError("must be 100ms to 1h")
    return delay_us


def _column(text: str) -> TopColumn:
    if text not in TITLES:
        raise UsageError(f"must be one of {', '.join(TITLES)}")
    return COLUMNS[TITLES.index(text)]


def _on_screen(show: Callable[[TopScreen], object]) -> None:
    """Run with the whole terminal, and give it back as it was."""
    try:
        import curses
    except ImportError:
        raise MproxyError("this Python was built without curses; 'mproxy status --watch' does without it") from None
    from mproxy.programs.top_screen import TopScreen, can_place_cursor
    os.environ.setdefault("ESCDELAY", "25")  # a lone Esc is a key
    for name in ("LINES", "COLUMNS"):  # of another terminal: curses would believe them rather than this one
        os.environ.pop(name, None)
    term = os.environ.get("TERM", "")
    if not can_place_cursor(term):
        about = f"does not describe a terminal on which text can be placed: TERM={term}" if term else "is not set"
        raise UsageError(f"TERM {about}; 'mproxy status --watch' works on any")
    _leave_in_order()
    try:
        curses.wrapper(lambda window: show(TopScreen(window, KEY_MS)))
    except curses.error as error:
        if error.__context__ is not None:  # the terminal has gone, and could not be given back
            raise error.__context__ from None
        raise MproxyError(f"cannot use this terminal (TERM={term}): {error}; 'mproxy status --watch' needs less of it"
                          ) from None


def _leave_in_order() -> None:
    """Signals that would end the process at once raise exceptions, so that the terminal is given back."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, lambda number, _frame: sys.exit(128 + number))  # as shells count it
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Sampler(threading.Thread):
    """Asks all programs again and again, and does what else takes long."""

    def __init__(self, which: str | None, delay_s: float) -> None:
        super().__init__(daemon=True)
        self.results: queue.SimpleQueue[Callable[[Top], object]] = queue.SimpleQueue()  # what to do with the news
        self.looked_at: tuple[str, str] | None = None  # (control socket, session) whose streams are wanted
        self._tasks: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._which = which
        self._delay_s = delay_s

    def soon(self, task: Callable[[], object]) -> None:
        """Have this done by the thread, and all asked again."""
        self._tasks.put(task)

    def run(self) -> None:
        try:
            self._ask_again_and_again()
        except Exception as error:  # a fault of ours: it ends the program, and not this thread alone
            fault = error

            def fail(_top: Top) -> None:
                raise fault
            self.results.put(fail)

    def _ask_again_and_again(self) -> None:
        while True:
            began = time.monotonic()
            waited = self._look()
            took = max(0.0, time.monotonic() - began - waited)
            try:
                self._tasks.get(timeout=max(self._delay_s - took, RARELY * took))()
            except queue.Empty:
                pass

    def _look(self) -> float:
        """Returns for how many seconds nothing was done but waiting for one that hangs."""
        found, silent = ask_all(self._which, HANGS_S)
        now = time.monotonic()
        self.results.put(lambda top: top.on_look(found, silent, now))
        waited_s = HANGS_S if silent else 0.0
        looked_at = self.looked_at
        if looked_at is None:
            return waited_s
        program: Facts = {"sessions": []}
        try:
            answer = control.ask(looked_at[0], "status", session=looked_at[1], streams=STREAMS)
            if is_status(answer) and "sessions" in answer:
                program = answer
                name_applications([program])
        except MproxyError:
            pass  # it has ended
        self.results.put(lambda top: top.on_session(looked_at, program))
        return waited_s


class Top:
    """What is seen, and what keys do."""

    def __init__(self, screen: TopScreen, table: TopTable, sampler: Sampler) -> None:
        self._screen = screen
        self._table = table
        self._sampler = sampler
        self._session: tuple[Facts, Facts] | None = None  # (program, session) that is looked at
        self._stream = 0                                  # the chosen one of its streams
        self._question = ""                               # waits for y
        self._if_yes: Callable[[], object] = lambda: None
        self._message = ""
        self._message_until = 0.0

    def run(self) -> None:
        """Until q."""
        self._sampler.start()
        self._draw()
        going = True
        while going:
            key = self._screen.read_key()
            news = self._take_news()
            if key:
                going = self._on_key(key)
            if key or news:
                self._draw()

    def _take_news(self) -> bool:
        news = bool(self._message) and time.monotonic() >= self._message_until
        if news:
            self._message = ""
        while not self._sampler.results.empty():
            self._sampler.results.get()(self)
            news = True
        return news

    def _draw(self) -> None:
        foot = self._question or self._message
        if self._session is not None:
            self._screen.draw_session(*self._session, self._stream, foot)
        else:
            self._screen.draw_table(self._table, foot)

    # ---- news

    def on_look(self, found: list[Facts], silent: list[Surveyed], now: float) -> None:
        """All programs were asked."""
        self._table.update(found, now)
        if silent:
            self.say(say_silent(silent[0]))

    def on_session(self, looked_at: tuple[str, str], program: Facts) -> None:
        """The session that is looked at was asked; it may be another one by now, or have ended."""
        if self._session is None or looked_at != self._sampler.looked_at:
            return
        if program["sessions"]:
            self._session = {**program, "socket": looked_at[0]}, program["sessions"][0]
            self._stream = max(0, min(self._stream, len(program["sessions"][0].get("stream_list", ())) - 1))
        else:
            self._back()
            self.say(f"session {looked_at[1]} has ended")

    def say(self, text: str) -> None:
        """Show a message for a moment."""
        self._message, self._message_until = text, time.monotonic() + MESSAGE_S

    # ---- keys

    def _on_key(self, key: str) -> bool:
        """False: that was the last one."""
        if key == "resize":
            return True
        if self._question:
            self._question = ""
            if key in "yY":
                self._if_yes()
            return True
        if key in "qQ":
            return False
        self._message = ""
        if key == " ":
            self._sampler.soon(lambda: None)
        elif self._session is not None:
            self._on_session_key(key, *self._session)
        else:
            self._on_table_key(key, self._table)
        return True

    def _on_table_key(self, key: str, table: TopTable) -> None:
        place = COLUMNS.index(table.sorted_by)
        by = self._step(key, len(table.rows))
        if by:
            table.choose(table.chosen + by)
        elif key in "<,":
            table.sort_by(COLUMNS[place - 1])
        elif key in ">.":
            table.sort_by(COLUMNS[(place + 1) % len(COLUMNS)])
        elif key == "r":
            table.sort_by(table.sorted_by, not table.reverse)
        elif table.row is None or key not in ("k", "w", "enter"):
            return
        elif not table.row.is_session:
            self.say("this is not a session: only its process can be stopped")
        elif key == "k":
            self._ask_to_kill(table.row.program["socket"], table.row.session)
        else:
            self._look_at(table.row)

    def _look_at(self, row: TopRow) -> None:
        session = next(each for each in row.program["sessions"] if each["session"] == row.session)
        self._session, self._stream = (row.program, session), 0
        self._sampler.looked_at = row.program["socket"], row.session
        self._sampler.soon(lambda: None)

    def _back(self) -> None:
        self._session = self._sampler.looked_at = None

    def _on_session_key(self, key: str, program: Facts, session: Facts) -> None:
        streams = session.get("stream_list", [])
        by = self._step(key, len(streams))
        if by:
            self._stream = max(0, min(self._stream + by, len(streams) - 1))
        elif key == "back":
            self._back()
        elif key == "k" and streams:
            self._ask_to_kill(program["socket"], session["session"], streams[self._stream]["stream"])
        elif key == "K":
            self._ask_to_kill(program["socket"], session["session"])

    def _step(self, key: str, rows: int) -> int:
        """By how much a key moves the choice; 0: it is another key."""
        page = self._screen.page
        return {"up": -1, "down": 1, "page up": -page, "page down": page, "home": -rows, "end": rows}.get(key, 0)

    def _ask_to_kill(self, socket: str, session: str, stream: int | None = None) -> None:
        wanted = {} if stream is None else {"stream": stream}
        name = f"session {session}" if stream is None else f"stream {session}/{stream}"
        self._question = f"kill {name}? its connections are reset at both ends (y/n)"
        self._if_yes = lambda: self._sampler.soon(lambda: self._kill(socket, session, wanted))

    def _kill(self, socket: str, session: str, wanted: dict[str, int]) -> None:
        """In the other thread."""
        try:
            said = what_was_done(control.ask(socket, "kill", session=session, reason="in mproxy top", **wanted))
        except MproxyError as error:
            said = str(error)
        self._sampler.results.put(lambda top: top.say(said))
