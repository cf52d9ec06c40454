"""`mproxy demo`: a connection through cproxy and sproxy while the client's address is taken away and another is given.

The life of a number: the daemon writes it (demo_peers.CountingDaemon), sproxy and cproxy carry it over a network that
comes and goes (demo_net), the client reads it, `Screen` shows it, and `Verdict` compares what was sent with what came.
"""

from __future__ import annotations

import itertools
import os
import select
import signal
import sys
import textwrap
import time
from collections.abc import Iterable

from mproxy.ground.config import SECOND_US, Config, SessionConfig, Setting, format_duration
from mproxy.ground.words import counted, parse_count, parse_duration
from mproxy.programs.demo_net import Cable, Cut, Network, why_no_cable
from mproxy.programs.demo_peers import END_OF_STREAM, CountingDaemon, DemoClient, Proxy, Reactor
from mproxy.programs.options import OneLineParser
from mproxy.service.exit import complain, exit_status
from mproxy.service.log import reserve_standard_fds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

# Seconds of undisturbed counting before the first change and after each.
COUNTING_S = 2

# Seconds after the return of the network until the connection is given up. With `Cut` cproxy has to find out by itself
# that the network is back.
PATIENCE_S = 15

# Seconds without a number that are worth a dot.
DOT_S = 0.5

INTRODUCTION = """\
Numbers are lines from a daemon as they reach a client through sproxy and
cproxy; each dot is half a second without one, while the client loses its
network and gets another.
"""


class DemoConfig(Config):
    """What the command line says."""

    # Microseconds without a network. 6 s is longer than the 3 s after which the proxies give up a silent connection.
    outage_us = Setting(6 * SECOND_US, SECOND_US // 10, 24 * 3600 * SECOND_US)

    # Times that the network goes and comes back as another.
    changes = Setting(1, 1, 1000)

    # Of both proxies.
    heartbeat_us = SessionConfig.heartbeat_us

    # Cut connections even if a cable is possible.
    cut = Setting(False)


def main(argv: list[str] | None = None) -> int:
    """Run the demo; the exit status is 0 if not a byte was lost, repeated or reordered."""
    reserve_standard_fds()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _interrupt)
    try:
        return exit_status("mproxy demo", lambda: run(parse(argv)))
    except Interrupted as interrupted:
        complain("mproxy demo", "interrupted; the programs and networks of the demo have been removed")
        return 128 + interrupted.number


def parse(argv: list[str] | None) -> DemoConfig:
    """The DemoConfig of a command line."""
    parser = OneLineParser(
        "mproxy demo", "mproxy demo [options]",
        "Watch a connection through cproxy and sproxy survive a change of address.",
        "TIME is a number with us, ms, s, m or h (6s, 500ms; a bare number is seconds).\n"
        "The exit status is 0 if nothing was lost, repeated or reordered, else 1.")
    parser.add(parser, "--outage", parse_duration, metavar="TIME", help=(
        f"time without a network (default {format_duration(DemoConfig.outage_us.default)})"))
    parser.add(parser, "--changes", parse_count, metavar="N", help=(
        f"how many times the network goes away and another one comes (default {DemoConfig.changes.default})"))
    parser.add(parser, "--heartbeat", parse_duration, metavar="TIME", help=(
        f"heartbeat of both proxies (default {format_duration(DemoConfig.heartbeat_us.default)})"))
    parser.add_argument("--cut", action="store_true", default=None, help=(
        "cut connections on this host instead of changing an address between two virtual hosts; the default where the"
        " system does not allow those"))
    parser.add_help_options()
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    return DemoConfig(**{{"outage": "outage_us", "heartbeat": "heartbeat_us"}.get(name, name): value
                         for name, value in given.items()})


def run(config: DemoConfig) -> int:
    """The whole demo; the exit status."""
    screen = Screen(1)
    screen.write(INTRODUCTION + "\n")
    reason = "requested" if config.cut else why_no_cable()
    if reason:
        screen.tell(f"cutting connections instead of changing an address: {reason}")
    reactor = Reactor()
    try:
        network = Cut(reactor) if reason else Cable()
        screen.tell(network.title)
        verdict = Story(config, network, reactor, screen).run()
    finally:
        reactor.close()
        screen.end_row()
    screen.conclude(verdict)
    return 0 if verdict.good else 1


class Interrupted(BaseException):
    """A signal has come that ends the demo."""

    def __init__(self, number: int) -> None:
        self.number = number


def _interrupt(number: int, _frame: object) -> NoReturn:
    raise Interrupted(number)


class Story:
    """The events of the demo, in order."""

    _daemon: CountingDaemon
    _client: DemoClient

    def __init__(self, config: DemoConfig, network: Network, reactor: Reactor, screen: Screen) -> None:
        self._config = config
        self._network = network
        self._reactor = reactor
        self._screen = screen
        self._proxies: list[Proxy] = []
        # Of each change: from the network's return to the first byte, None if none came.
        self._delays_s: list[float | None] = []

    def run(self) -> Verdict:
        """Tell it from beginning to end; the Verdict."""
        try:
            self._begin()
            for _ in range(self._config.changes):
                self._change()
            return self._end()
        finally:
            for proxy in reversed(self._proxies):  # cproxy first: it says goodbye to sproxy
                proxy.stop()

    def _begin(self) -> None:
        """Daemon and sproxy on the one host, cproxy and client on the other, and a first few numbers."""
        self._network.enter("server")
        self._daemon = CountingDaemon(self._reactor)
        daemon = f"127.0.0.1:{self._daemon.port}"
        sproxy_port = self._start("sproxy", self._network.server_address, 0, daemon)
        self._network.enter("client")
        cproxy_port = self._start("cproxy", "127.0.0.1", 0, *self._network.way_to(sproxy_port))
        self._screen.tell("a daemon counts beside sproxy, a client reads beside cproxy")
        self._client = DemoClient(self._reactor, cproxy_port, self._show_lines)
        self._reactor.every(DOT_S, self._show_silence)
        self._count()

    def _start(self, name: str, address: str, *arguments: object) -> int:
        proxy = Proxy(
            self._reactor, name, self._screen.show_event,
            ["--bind", address, "--heartbeat", f"{self._config.heartbeat_us}us", *arguments])
        self._proxies.append(proxy)
        return proxy.wait_for_port()

    def _change(self) -> None:
        """The network goes, stays away, and comes back as another."""
        self._screen.tell(self._network.take(), "TAKEN: ", RED)
        self._reactor.run(self._config.outage_us / SECOND_US, self._is_over)
        given_at = time.monotonic()  # before the address is there: better show too long a delay than too short a one
        self._screen.tell(self._network.give(), "GIVEN: ", GREEN)
        self._reactor.run(PATIENCE_S, lambda: self._client.heard_at > given_at or self._is_over())
        heard = self._client.heard_at > given_at
        self._delays_s.append(self._client.heard_at - given_at if heard else None)
        if heard:
            self._count()

    def _count(self) -> None:
        self._reactor.run(COUNTING_S, self._is_over)

    def _is_over(self) -> bool:
        return self._client.ended is not None

    def _end(self) -> Verdict:
        """The client has had enough; what the daemon wrote before it heard that is still to come."""
        died = self._client.ended
        if not died:
            self._client.finish()
            if not self._reactor.run(PATIENCE_S, self._is_over):
                died = "the last lines and the end of the stream did not arrive"
            elif self._client.ended != END_OF_STREAM:
                died = self._client.ended
        if self._daemon.connections != 1:
            died = f"the daemon saw {self._daemon.connections} connections"
        return Verdict(self._daemon.sent, self._client.received, died, self._delays_s)

    def _show_lines(self, lines: list[str]) -> None:
        for word in spans(line.partition(" ")[0] for line in lines):
            self._screen.add(word)

    def _show_silence(self) -> None:
        if time.monotonic() - self._client.heard_at >= DOT_S:
            self._screen.add(".")


class Verdict:
    """What was sent against what came.

    `sent` and `received` are lines that begin with their number, counted from 1; `died` is why the connection did not
    last, or None; `delays_s` as in Story. Lists of numbers: `missing`, `repeated`, `reordered` (came after a higher
    one). `damaged` are lines that nobody sent.
    """

    def __init__(self, sent: list[str], received: list[str], died: str | None, delays_s: list[float | None]) -> None:
        self.sent, self.received, self.died, self.delays_s = sent, received, died, delays_s
        self.missing, self.repeated, self.reordered, self.damaged = [], [], [], []
        numbers = {line: number for number, line in enumerate(sent, 1)}
        seen = set()
        highest = 0
        for line in received:
            number = numbers.get(line)
            if number is None:
                self.damaged.append(line)
            elif number in seen:
                self.repeated.append(number)
            elif number < highest:
                self.reordered.append(number)
            seen.add(number)
            highest = max(highest, number or 0)
        self.missing = [number for number in numbers.values() if number not in seen]

    @property
    def good(self) -> bool:
        """Whether every line came once, undamaged and in order, on a connection that lasted as long as it was
        needed."""
        return bool(self.received) and not (
            self.died or self.missing or self.repeated or self.reordered or self.damaged or None in self.delays_s)

    @property
    def summary(self) -> str:
        """The verdict as one sentence."""
        if self.good:
            return "nothing lost, nothing repeated, nothing out of order."
        return "the connection did not survive." if self.died else "the connection did not keep what was sent."

    def rows(self) -> list[tuple[str, str]]:
        """(what, its finding) for each thing that was looked at."""
        delays = ", ".join("never" if delay_s is None else f"{delay_s:.3f} s" for delay_s in self.delays_s)
        return [
            ("numbers", f"{len(self.received)} received of {len(self.sent)} sent"),
            ("gaps", _list(self.missing)),
            ("repeated", _list(self.repeated)),
            ("out of order", _list(self.reordered)),
            ("damaged", counted(len(self.damaged), "line") if self.damaged else "none"),
            ("connection", self.died or "the same one from the first number to the last"),
            ("first byte", f"{delays} after the network was back" if delays else "the network never changed"),
        ]


def _list(numbers: Iterable[int]) -> str:
    return ", ".join(spans(numbers)) or "none"


def spans(numbers: Iterable[int | str]) -> list[str]:
    """Runs of consecutive numbers as words: 1 2 3 7 gives `1-3` and `7`. What is not a number stays as it is."""
    words = []
    first = last = None
    for number in itertools.chain(map(str, numbers), [""]):
        if last is not None and number == str(last + 1):
            last += 1
            continue
        if last is not None:
            words.append(str(first) if first == last else f"{first}-{last}")
        first = last = int(number) if number.isdecimal() else None
        if number and last is None:
            words.append(number)
    return words


RED, GREEN, FAINT = "31;1", "32;1", "2"  # ECMA-48, select graphic rendition


class Screen:
    """Writes to `fd`: lines with the time since the start, and between them rows of numbers and dots."""

    WIDTH = 80
    INDENT = 8

    # Fields of an event that say nothing in a demo with one session and one stream.
    UNTOLD = ("time", "level", "event", "session", "streams", "epoch", "local", "sproxy")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._colours = os.isatty(fd) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._column = 0  # in a row of numbers; 0 while there is none
        self._started_at = time.monotonic()

    def tell(self, text: str, head: str = "", colour: str = "") -> None:
        """One or more lines, with `head` in front, in `colour`."""
        self.end_row()
        elapsed_s = time.monotonic() - self._started_at
        lines = textwrap.wrap(head + text, self.WIDTH, initial_indent=" " * self.INDENT,
                              subsequent_indent=" " * self.INDENT)
        painted = self._paint(head, colour)
        self.write(f"{elapsed_s:5.1f}s  " + "\n".join(lines)[self.INDENT:].replace(head, painted, 1) + "\n")

    def add(self, word: str) -> None:
        """One more word in the row of numbers."""
        if self._column + 1 + len(word) > self.WIDTH:
            self.end_row()
        blank = " " if self._column else " " * self.INDENT
        self.write(blank + word)
        self._column += len(blank) + len(word)

    def end_row(self) -> None:
        """End the row of numbers, if there is one."""
        if self._column:
            self.write("\n")
        self._column = 0

    def show_event(self, program: str, record: dict[str, object]) -> None:
        """Show an event of a proxy's log."""
        fields = (f"{name}={value}" for name, value in record.items() if name not in self.UNTOLD)
        self.tell(", ".join(fields), f"{program} {record['event']}: ", FAINT)

    def conclude(self, verdict: Verdict) -> None:
        """Print the verdict and what it rests on."""
        word, colour = ("PASSED: ", GREEN) if verdict.good else ("FAILED: ", RED)
        self.write(f"\n{self._paint(word, colour)}{verdict.summary}\n")
        for what, finding in verdict.rows():
            lines = textwrap.wrap(finding, self.WIDTH, initial_indent=f"  {what:14}", subsequent_indent=" " * 16)
            self.write("\n".join(lines) + "\n")

    def write(self, text: str) -> None:
        """Write all of it now; BrokenPipeError if nobody reads."""
        data = text.encode("ascii", "backslashreplace")
        while data:
            try:
                data = data[os.write(self._fd, data):]
            except BlockingIOError:
                select.select((), (self._fd,), ())

    def _paint(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[m" if self._colours and colour else text


if __name__ == "__main__":
    sys.exit(main())
