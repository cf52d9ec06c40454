"""mproxy impair: a bad network in a box, for any UDP protocol, both directions."""

from __future__ import annotations

import json
import os
import re
import signal
import time

from mproxy.emulator._emulator import Emulator
from mproxy.emulator._path_emulator import PathEmulator
from mproxy.ground.config import MIB, SECOND_US, LogConfig, Setting, format_host_port
from mproxy.ground.errors import MproxyError, UsageError
from mproxy.ground.words import (
    parse_bind,
    parse_count,
    parse_duration,
    parse_host,
    parse_port,
    parse_rate,
    parse_size,
    split_host_port,
)
from mproxy.io._socket import Target
from mproxy.io.bind import open_udp
from mproxy.policy.resolver import look_up_host, numeric_address
from mproxy.programs.options import OneLineParser
from mproxy.service.run import Program, run_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar
    Value = TypeVar("Value")
    from mproxy.io._loop import Loop
    from mproxy.service.log import Log

_HIGHEST_SEED = 2**64 - 1

LOOK_US = 250_000  # from one look whether packets were too large to the next


class ImpairConfig(LogConfig):
    """What the bad network does. A pair is (to the server, to the client)."""

    port: Setting[int] = Setting(None, 0, 65535)  # type: ignore[arg-type]  # no default: always given
    host = Setting("")
    server_port: Setting[int] = Setting(None, 1, 65535)  # type: ignore[arg-type]  # no default: always given
    bind: Setting[str | None] = Setting(None)

    # Probabilities, 0 to 1.
    loss = Setting((0.0, 0.0))
    duplicate = Setting((0.0, 0.0))
    corrupt = Setting((0.0, 0.0))
    reorder = Setting((0.0, 0.0))

    # Microseconds. A reordered packet arrives later by up to `reorder_by`; 5 ms lets some forty packets of a
    # 100 Mbit/s flow overtake it.
    delay = Setting((0, 0))
    jitter = Setting((0, 0))
    reorder_by = Setting((5_000, 5_000))

    # Bits a second, 0: no limit; bytes that may wait in front of the link. 256 KiB is 20 ms at 100 Mbit/s.
    rate = Setting((0, 0))
    queue = Setting((262_144, 262_144))

    # Bytes of the largest IP packet, 0: no limit. 1500 is Ethernet's, and so most networks'; without a limit the
    # loopback would carry a protocol's packets of 64 KiB, each of which is lost, or not, as a whole.
    mtu = Setting((1500, 1500))

    seed: Setting[int | None] = Setting(None, 0, _HIGHEST_SEED)

    # Clients at once, each with a descriptor; and after how much silence one is forgotten.
    clients = Setting(1024, 1, 100_000)
    idle_us = Setting(60 * SECOND_US, SECOND_US, 3600 * SECOND_US)

    json = Setting(False)


_USAGE = "mproxy impair [options] PORT HOST PORT"

_DESCRIPTION = """\
A bad network in a box: relay UDP packets from the first PORT to HOST PORT (or
HOST:PORT) and back, and lose, duplicate, reorder, damage and delay them on the
way.

A value applies to both directions; A/B is A for packets to the server and B
for packets to the client. P is a percentage. What happens to a packet depends
only on the seed and on how many packets came before it: a run can be repeated."""

_EPILOG = """\
TIME is a number with us, ms, s; SIZE a number with KiB, MiB; RATE a number
with kbit, Mbit, Gbit (per second). SIGUSR1 prints the statistics so far.

examples:
  5 % loss to the server, 20 ms round trip, 100 Mbit/s:
    mproxy impair --loss 5/0 --delay 10ms --rate 100Mbit 7001 127.0.0.1 7000

  the same run again:
    mproxy impair --seed 42 --loss 10 --corrupt 5 --reorder 20 7001 server 7000
"""


def parse_percent(text: str) -> float:
    """`5`, `0.1`, `5%`: a probability from 0 to 1."""
    match = re.fullmatch(r"([0-9]{1,3})(?:\.([0-9]{1,9}))?%?", text, re.ASCII)
    value = float(text.rstrip("%")) if match else 101.0
    if value > 100:
        raise UsageError("not a percentage; use a number from 0 to 100, such as 5 or 0.1")
    return value / 100


def parse_mtu(text: str) -> int:
    """Bytes of an IP packet; 0: no limit."""
    mtu = parse_count(text)
    if mtu and not 68 <= mtu <= 65535:
        raise UsageError("out of range (68, by RFC 791, to 65535, or 0 for no limit)")
    return mtu


def _parse_queue(text: str) -> int:
    size = parse_size(text)
    if not 2048 <= size <= 1024 * MIB:
        raise UsageError("out of range (2KiB to 1GiB)")
    return size


def _parse_delay(text: str) -> int:
    delay_us = parse_duration(text)
    if delay_us > 60 * SECOND_US:
        raise UsageError("out of range (0 to 1m)")
    return delay_us


def both(parse: Callable[[str], Value]) -> Callable[[str], tuple[Value, Value]]:
    """A parser of `VALUE` or `VALUE/VALUE`."""
    def parse_both(text: str) -> tuple[Value, Value]:
        to_server, slash, to_client = text.partition("/")
        first = parse(to_server)
        return first, parse(to_client) if slash else first
    return parse_both


def parse_impair(argv: list[str] | None) -> ImpairConfig:
    """The ImpairConfig of the command line `argv`."""
    parser = OneLineParser("mproxy impair", _USAGE, _DESCRIPTION, _EPILOG)
    group = parser.add_argument_group("packets")
    for option, what in (("--loss", "lose P %% of them"), ("--duplicate", "deliver P %% of them twice"),
                         ("--corrupt", "damage P %% of them"), ("--reorder", "reorder P %% of them")):
        parser.add(group, option, both(parse_percent), metavar="P[/P]", help=f"{what} (default 0)")
    parser.add(group, "--reorder-by", both(_parse_delay), metavar="TIME[/TIME]", help=(
        "delay reordered packets by up to this much (default 5ms)"))
    parser.add(group, "--mtu", both(parse_mtu), metavar="N[/N]", help=(
        "drop IP packets larger than N bytes (default 1500, as on Ethernet; 0: none)"))
    group = parser.add_argument_group("link")
    parser.add(group, "--delay", both(_parse_delay), metavar="TIME[/TIME]", help="delay in one direction (default 0)")
    parser.add(group, "--jitter", both(_parse_delay), metavar="TIME[/TIME]", help=(
        "vary the delay by up to this much either way; packets stay in order (default 0)"))
    parser.add(group, "--rate", both(parse_rate), metavar="RATE[/RATE]", help=(
        "limit on the rate of IP packets, headers included (default 0: no limit)"))
    parser.add(group, "--queue", both(_parse_queue), metavar="SIZE[/SIZE]", help=(
        "limit on what waits for the link; more is dropped (default 256KiB)"))
    group = parser.add_argument_group("general")
    parser.add(group, "--seed", parse_seed, metavar="N", help=(
        "seed of the random numbers (default: a new one each run; the log shows it)"))
    parser.add(group, "--clients", parse_count, metavar="N", help=(
        f"clients at once; beyond it the one silent longest is forgotten (default {ImpairConfig.clients.default})"))
    parser.add(group, "--idle", parse_duration, metavar="TIME", help="forget a client silent this long (default 1m)")
    parser.add(group, "--bind", parse_bind, metavar="ADDR", help=(
        "numeric address to listen on (default: every address)"))
    group.add_argument("--json", action="store_true", default=None, help="print statistics as one JSON object per line")
    parser.add_log_level(group)
    parser.add_log_format(group)
    parser.add_last(group, "mproxy")
    given, words = parser.split(argv)
    words = parser.take_words(split_host_port(words, 1), (
        ("PORT", lambda text: parse_port(text, 0)), ("HOST", parse_host), ("PORT", parse_port)))
    given["idle_us"] = given.pop("idle", ImpairConfig.idle_us.default)
    return ImpairConfig(port=words[0], host=words[1], server_port=words[2], **given)


def parse_seed(text: str) -> int:
    """A whole number of 64 bits."""
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and int(text) <= _HIGHEST_SEED):
        raise UsageError("not a valid seed; use a whole number below 2**64")
    return int(text)


class Impair(Program):
    """The program: one relay, statistics when asked and at the end."""

    _relay: Emulator     # from `start` on

    def __init__(self, config: ImpairConfig, log: Log, loop: Loop) -> None:
        self._config = config
        self._log = log
        self._loop = loop
        self._began = time.monotonic()
        self._seed = int.from_bytes(os.urandom(4)) if config.seed is None else config.seed

    def start(self) -> None:
        config = self._config
        addresses, error = numeric_address(config.host, config.server_port) or look_up_host(config.host)
        if error:
            raise MproxyError(error)
        family, sockaddr = addresses[0]
        target = Target(format_host_port(config.host, config.server_port),
                        [(family, (sockaddr[0], config.server_port, *sockaddr[2:]))])
        with open_udp(config.bind, config.port) as listener:
            self._relay = Emulator(self._loop, listener.fileno(), target, self._path(0), self._path(1),
                                      self._on_client, most=config.clients, idle_us=config.idle_us)
            address = listener.getsockname()
        signal.signal(signal.SIGUSR1, lambda *_: self._loop.call_soon_threadsafe(self.print_statistics))
        self._log.info("listening", address=address[0], port=address[1], server=target.text, seed=self._seed)
        self._look()

    def _look(self) -> None:
        """Say once that packets vanish because of their size: whoever does not know the option would search for long.
        Not a warning: programs that look for the largest size, such as `mproxy send`, send packets that are too
        large."""
        if any(path.statistics()["too_large"] for path in (self._relay.up, self._relay.down)):
            self._log.info("too-large", mtu="/".join(map(str, self._config.mtu)), why=(
                "packets above --mtu are dropped, as on a network that does not fragment; programs that look for the"
                " largest size that passes (mproxy send does) expect that; --mtu 0 lets every size pass"))
        else:
            self._loop.call_later(LOOK_US, self._look)

    def _path(self, direction: int) -> PathEmulator:
        """The network in one direction, which has its own seed."""
        config = self._config
        return PathEmulator((self._seed * 2 + direction) & _HIGHEST_SEED, loss=config.loss[direction],
                    duplicate=config.duplicate[direction], corrupt=config.corrupt[direction],
                    reorder=config.reorder[direction], delay_us=config.delay[direction],
                    jitter_us=config.jitter[direction], reorder_us=config.reorder_by[direction],
                    rate=config.rate[direction], queue_bytes=config.queue[direction], mtu=config.mtu[direction])

    def _on_client(self, host: str, port: int, count: int) -> None:
        self._log.debug("client", peer=format_host_port(host, port), clients=count)

    def shut_down(self, _signal: str) -> None:
        """Print the statistics and stop."""
        self.print_statistics()
        self._relay.close()
        self._loop.stop()

    def print_statistics(self) -> None:
        """One JSON object, or a small table, on standard output."""
        relay = self._relay
        directions = {"to_server": relay.up.statistics(), "to_client": relay.down.statistics()}
        seconds = time.monotonic() - self._began
        if self._config.json:
            text = json.dumps({"seed": self._seed, "seconds": round(seconds, 3), "clients": relay.total,
                               "unsent": relay.unsent, **directions}) + "\n"
        else:
            text = _table(directions, f"seed {self._seed}, {seconds:.1f} s, clients {relay.total}, "
                                      f"not sent {relay.unsent}")
        try:
            os.write(1, text.encode())
        except OSError:
            pass  # nobody is there to read it


def _table(directions: dict[str, dict[str, int]], title: str) -> str:
    """Statistics for people: a line for each number, a column for each direction."""
    names = list(directions["to_server"])
    lines = [title, f"{'':16}{'to server':>16}{'to client':>16}"]
    lines += [f"{name.replace('_', ' '):16}{directions['to_server'][name]:16}{directions['to_client'][name]:16}"
              for name in names]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """`mproxy impair`; the exit status."""
    return run_program("mproxy impair", parse_impair, Impair, argv)
