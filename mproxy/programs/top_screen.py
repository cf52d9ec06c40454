"""What `mproxy top` draws: lines for a screen of any size. Only what is seen is made; curses sends what has changed."""

from __future__ import annotations

import curses
import os
import select
from collections.abc import Sequence

from mproxy.ground.errors import MproxyError
from mproxy.programs.status_text import clean, say_session, say_stream
from mproxy.programs.top_table import TopTable, columns_within

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Facts = dict[str, Any]

# The smallest screen on which anything can be said.
LEAST_LINES, LEAST_COLUMNS = 4, 20

# Keys by what they are called here; a character is called itself.
KEYS = {
    curses.KEY_UP: "up", curses.KEY_DOWN: "down", curses.KEY_PPAGE: "page up", curses.KEY_NPAGE: "page down",
    curses.KEY_HOME: "home", curses.KEY_END: "end", curses.KEY_LEFT: "back", curses.KEY_BACKSPACE: "back",
    curses.KEY_ENTER: "enter", curses.KEY_RESIZE: "resize", 27: "back", 127: "back", 8: "back", 10: "enter",
    13: "enter",
}

HELP = "arrows: move, < >: sort, r: reverse, Enter: why, k: kill, space: now, q: quit"
DETAIL_HELP = "arrows: choose a stream, k: kill it, K: kill the session, Esc: back, q: quit"


def can_place_cursor(term: str) -> bool:
    """Whether the terminal that TERM names is known, and can do what every screen needs."""
    try:
        curses.setupterm(term or "unknown", 1)
    except curses.error:
        return False
    return bool(curses.tigetstr("cup")) and bool(curses.tigetstr("clear"))


class TopScreen:
    """A curses window, and where each view of it was scrolled to."""

    def __init__(self, window: curses.window, wait_ms: int) -> None:
        self._window = window
        window.keypad(True)
        window.timeout(wait_ms)  # of `read_key`
        self._first = 0     # row at the top of the table, or stream at the top of the list
        self._bad = curses.A_BOLD
        if not os.environ.get("NO_COLOR"):  # no-color.org: empty means that it is not set
            try:
                curses.use_default_colors()
                curses.init_pair(1, curses.COLOR_RED, -1)
                self._bad |= curses.color_pair(1)
            except curses.error:
                pass  # a terminal without colours
        try:
            curses.curs_set(0)
        except curses.error:
            pass  # one that cannot hide its cursor

    def read_key(self) -> str:
        """The next key, or nothing when there was none for `wait_ms`. MproxyError when there will be none any more."""
        code = self._window.getch()
        if code < 0 and _has_hung_up():
            raise MproxyError("the terminal has gone")
        return KEYS.get(code) or (chr(code) if 0 < code < 128 else "")

    @property
    def page(self) -> int:
        """Rows that are seen at once."""
        return max(1, self._window.getmaxyx()[0] - 3)

    def draw_table(self, table: TopTable, foot: str) -> None:
        """All sessions."""
        lines, columns = self._begin()
        shown = columns_within(columns - 1)
        self._put(0, f"mproxy top  {table.summary()}", curses.A_BOLD)
        titles = [column.head() for column in shown]
        self._put(1, " ".join(titles), curses.A_UNDERLINE)
        if table.sorted_by in shown:
            place = shown.index(table.sorted_by)
            left = sum(len(title) + 1 for title in titles[:place])
            self._put(1, titles[place], curses.A_UNDERLINE | curses.A_REVERSE, left)
        room = lines - 3
        self._scroll(table.chosen, room)
        for number, row in enumerate(table.rows[self._first:self._first + room]):
            style = self._bad if row.state in ("away", "connecting", "stopping", "broken") else curses.A_NORMAL
            if self._first + number == table.chosen:
                style |= curses.A_REVERSE
            self._put(2 + number, clean(" ".join(column.say(row) for column in shown)), style)
        if not table.rows:
            self._put(2, table.say_none())
        self._end(foot or HELP)

    def draw_session(self, program: Facts, session: Facts, chosen: int, foot: str) -> None:
        """One session: all that is known of it, why it was away, and its streams."""
        lines, _columns = self._begin()
        about = [*self._about(program, session)]
        streams: Sequence[Facts] = session.get("stream_list", ())
        height = max(0, min(len(about), lines - 2 - min(len(streams), max(3, lines // 3))))
        for number, line in enumerate(about[:height]):
            self._put(number, clean(line), curses.A_BOLD if number == 0 else curses.A_NORMAL)
        room = lines - height - 1
        self._scroll(chosen, room)
        for number, stream in enumerate(streams[self._first:self._first + room]):
            style = curses.A_REVERSE if self._first + number == chosen else curses.A_NORMAL
            self._put(height + number, clean(f"  {say_stream(session, stream)}"), style)
        self._end(foot or DETAIL_HELP)

    def _about(self, program: Facts, session: Facts) -> list[str]:
        lines = [f"{program['name']}  process {program['pid']}",
                 *say_session({**session, "stream_list": []})]
        for outage in session["outages"].get("recent", ()):
            lines.append(f"    away {outage['began_s']:.0f} s ago for {outage['lasted_s']:.1f} s: {outage['why']}")
        for ended in program.get("endings", ())[:3]:
            lines.append(f"  before: session {ended['session']}  {ended['peer']}  ended {ended['ended_s']:.0f} s ago:"
                         f" {ended['why']}")
        return lines

    # ---- drawing

    def _begin(self) -> tuple[int, int]:
        self._window.erase()
        return self._window.getmaxyx()

    def _end(self, foot: str) -> None:
        lines, columns = self._window.getmaxyx()
        if lines < LEAST_LINES or columns < LEAST_COLUMNS:
            self._window.erase()
            self._put(0, "too small")
        else:
            self._put(lines - 1, clean(foot), curses.A_DIM)
        self._window.noutrefresh()
        curses.doupdate()

    def _scroll(self, chosen: int, room: int) -> None:
        """Have the chosen row within the `room` rows that are seen."""
        room = max(1, room)
        self._first = max(min(self._first, chosen), chosen - room + 1, 0)

    def _put(self, line: int, text: str, style: int = curses.A_NORMAL, left: int = 0) -> None:
        """Text in a line, as much of it as there is room for; the last column stays empty, as writing there scrolls."""
        lines, columns = self._window.getmaxyx()
        if 0 <= line < lines and left < columns - 1:
            try:
                self._window.addnstr(line, left, text, columns - 1 - left, style)
            except curses.error:
                pass  # it has become smaller meanwhile: there will be an event


def _has_hung_up() -> bool:
    """Nobody has the other end of the terminal any more: then each read ends at once."""
    poll = select.poll()
    poll.register(0, 0)
    return bool(poll.poll(0))
