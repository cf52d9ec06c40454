"""What `mproxy impair` does to packets: the options of its command line, and those that `mproxy impair set` changes."""

from __future__ import annotations

import re

from mproxy.ground.config import MIB, SECOND_US, Config, LogConfig, Setting, format_duration, format_size
from mproxy.ground.errors import UsageError
from mproxy.ground.words import (
    parse_bind,
    parse_count,
    parse_duration,
    parse_host,
    parse_name,
    parse_port,
    parse_rate,
    parse_size,
    split_host_port,
)
from mproxy.programs.impair_profiles import PROFILES
from mproxy.programs.options import OneLineParser

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar
    Value = TypeVar("Value")

HIGHEST_SEED = 2**64 - 1

# --rebind: at once, and then no more.
NOW = -1

# --burst-loss: share of all packets that are lost so, packets of a burst on average, share of these that are lost.
Bursts = tuple[float, float, float]
NO_BURSTS: Bursts = (0.0, 1.0, 1.0)


class PathConfig(Config):
    """What the bad network does, and can be told anew while it runs. A pair is (to the server, to the client), except
    for outages, which take both."""

    # Probabilities, 0 to 1.
    loss = Setting((0.0, 0.0))
    duplicate = Setting((0.0, 0.0))
    corrupt = Setting((0.0, 0.0))
    reorder = Setting((0.0, 0.0))
    burst_loss: Setting[tuple[Bursts, Bursts]] = Setting((NO_BURSTS, NO_BURSTS))

    # Microseconds: (from one outage to the next, how long one takes); from one change of ports to the next. 0: none.
    outage = Setting((0, 0))
    rebind_us = Setting(0)

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


class ImpairConfig(PathConfig, LogConfig):
    """All of the program."""

    port: Setting[int] = Setting(None, 0, 65535)  # type: ignore[arg-type]  # no default: always given
    host = Setting("")
    server_port: Setting[int] = Setting(None, 1, 65535)  # type: ignore[arg-type]  # no default: always given
    bind: Setting[str | None] = Setting(None)
    name: Setting[str | None] = Setting(None)

    seed: Setting[int | None] = Setting(None, 0, HIGHEST_SEED)

    # Clients at once, each with a descriptor; and after how much silence one is forgotten.
    clients = Setting(1024, 1, 100_000)
    idle_us = Setting(60 * SECOND_US, SECOND_US, 3600 * SECOND_US)

    json = Setting(False)


_USAGE = """\
mproxy impair [options] PORT HOST PORT
       mproxy impair set [options] [NAME|PID]"""

_DESCRIPTION = """\
A bad network in a box: relay UDP packets from the first PORT to HOST PORT (or
HOST:PORT) and back, and lose, duplicate, reorder, damage and delay them on the
way.

A value applies to both directions; A/B is A for packets to the server and B
for packets to the client. P is a percentage. What happens to a packet depends
only on the seed and on how many packets came before it: a run can be repeated.
'mproxy impair set' changes the network while it runs."""

_EPILOG = """\
TIME is a number with us, ms, s; SIZE a number with KiB, MiB; RATE a number
with kbit, Mbit, Gbit (per second). SIGUSR1 prints the statistics so far.

examples:
  5 % loss to the server, 20 ms round trip, 100 Mbit/s:
    mproxy impair --loss 5/0 --delay 10ms --rate 100Mbit 7001 127.0.0.1 7000

  a train, whose next tunnel comes soon:
    mproxy impair --profile lte-train --outage 1m/20s 7001 server 7000
    mproxy impair set --loss 100

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


def parse_bursts(text: str) -> Bursts:
    """`2:8` or `2:8:50`: 2 % of all packets, 8 in a burst on average, of which 50 % are lost (default: all)."""
    if text == "0":
        return NO_BURSTS
    lost, *more = text.split(":")
    share, packets, within = parse_percent(lost), 0.0, 1.0
    if len(more) in (1, 2) and re.fullmatch(r"[0-9]{1,6}(?:\.[0-9]{1,3})?", more[0], re.ASCII):
        packets = float(more[0])
        within = parse_percent(more[1]) if len(more) == 2 else 1.0
    if packets < 1:
        raise UsageError("expected P:N, such as 2:8 for 2 % lost in bursts of 8 packets on average, or P:N:P, where the"
                         " last is the percentage lost in a burst")
    if share == 0:
        return NO_BURSTS
    bad = share / within if within else 1.0  # part of all packets that belongs to bursts
    if bad >= 1:
        raise UsageError(f"{lost} % of all packets cannot be lost in bursts that lose {within * 100:g} %")
    if bad > packets * (1 - bad):
        raise UsageError(f"bursts of {more[0]} packets cannot come often enough for that; use longer ones")
    return bad, packets, within


def parse_outage(text: str) -> tuple[int, int]:
    """`30s/5s`: each 30 s an outage of 5 s; `0`: none."""
    if text == "0":
        return 0, 0
    every, slash, length = text.partition("/")
    if not slash:
        raise UsageError("expected EVERY/LENGTH, such as 30s/5s for 5 s of each 30 s, or 0")
    every_us, length_us = parse_duration(every), parse_duration(length)
    if not 0 < length_us < every_us:
        raise UsageError("the outage has to be shorter than the time from one to the next")
    return every_us, length_us


def _parse_rebind(text: str) -> int:
    every_us = parse_duration(text)
    if 0 < every_us < 100_000:
        raise UsageError("out of range (100ms or longer, or 0 for never)")
    return every_us


def _parse_rebind_now(text: str) -> int:
    return NOW if text == "now" else _parse_rebind(text)


def _parse_profile(text: str) -> str:
    if text not in PROFILES:
        raise UsageError(f"must be one of {', '.join(PROFILES)}")
    return text


def _add_path_options(parser: OneLineParser, parse_rebind: Callable[[str], int], now: str = "") -> None:
    """Those of a PathConfig, and --profile."""
    parser.add(parser, "--profile", _parse_profile, metavar="NAME", help=(
        f"a network as people meet it: {', '.join(PROFILES)}; other options override it"))
    group = parser.add_argument_group("packets")
    for option, what in (("--loss", "lose P %% of them"), ("--duplicate", "deliver P %% of them twice"),
                         ("--corrupt", "damage P %% of them"), ("--reorder", "reorder P %% of them")):
        parser.add(group, option, both(parse_percent), metavar="P[/P]", help=f"{what} (default 0)")
    parser.add(group, "--burst-loss", both(parse_bursts), metavar="P:N[/P:N]", help=(
        "lose P %% of them in bursts of N on average; P:N:Q if a burst loses Q %% of its packets only (default 0)"))
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
    parser.add(group, "--outage", parse_outage, metavar="EVERY/TIME", help=(
        "of each EVERY, drop everything for the last TIME, in both directions (default 0: never)"))
    parser.add(group, "--rebind", parse_rebind, metavar="TIME", help=(
        f"have packets come to the server from other ports this often, as behind a NAT that forgets{now}"
        " (default 0: never)"))


def _with_profile(given: dict[str, Any], parse: Callable[[list[str]], dict[str, Any]]) -> dict[str, Any]:
    """Options as settings of PathConfig, those of the profile with them."""
    name = given.pop("profile", None)
    if name is not None:
        given = {**parse(PROFILES[name].split()), **given}
    if "rebind" in given:
        given["rebind_us"] = given.pop("rebind")
    return given


def parse_impair(argv: list[str] | None) -> ImpairConfig:
    """The ImpairConfig of the command line `argv`."""
    parser = OneLineParser("mproxy impair", _USAGE, _DESCRIPTION, _EPILOG)
    _add_path_options(parser, _parse_rebind)
    group = parser.add_argument_group("general")
    parser.add(group, "--seed", parse_seed, metavar="N", help=(
        "seed of the random numbers (default: a new one each run; the log shows it)"))
    parser.add(group, "--clients", parse_count, metavar="N", help=(
        f"clients at once; beyond it the one silent longest is forgotten (default {ImpairConfig.clients.default})"))
    parser.add(group, "--idle", parse_duration, metavar="TIME", help="forget a client silent this long (default 1m)")
    parser.add(group, "--bind", parse_bind, metavar="ADDR", help=(
        "numeric address to listen on (default: every address)"))
    parser.add(group, "--name", parse_name, metavar="NAME", help=(
        "what 'mproxy impair set' calls it, where several run (default PORT->HOST:PORT)"))
    group.add_argument("--json", action="store_true", default=None, help="print statistics as one JSON object per line")
    parser.add_log_level(group)
    parser.add_log_format(group)
    parser.add_last(group, "mproxy")
    given, words = parser.split(argv)
    words = parser.take_words(split_host_port(words, 1), (
        ("PORT", lambda text: parse_port(text, 0)), ("HOST", parse_host), ("PORT", parse_port)))
    given["idle_us"] = given.pop("idle", ImpairConfig.idle_us.default)
    return ImpairConfig(port=words[0], host=words[1], server_port=words[2],
                        **_with_profile(given, lambda profile: parser.split(profile)[0]))


def parse_changes(argv: list[str]) -> tuple[bool, dict[str, Any], list[str]]:
    """(whether what is not named gets its default, as with a profile; settings of PathConfig; words) of the command
    line of `mproxy impair set`."""
    parser = OneLineParser(
        "mproxy impair set", "mproxy impair set [options] [NAME|PID]",
        "Change the network of an 'mproxy impair' that runs: what is named, from the next\n"
        "packet on; --profile changes everything else as well. Prints how it is then;\n"
        "without options it prints how it is.",
        "TIME is a number with us, ms, s, m or h; SIZE a number with KiB, MiB; RATE a\n"
        "number with kbit, Mbit, Gbit (per second).\n\n"
        "examples:\n"
        "  mproxy impair set --loss 100        nothing gets through\n"
        "  mproxy impair set --loss 0\n"
        "  mproxy impair set --rebind now      another port, once")
    _add_path_options(parser, _parse_rebind_now, "; 'now': once, at once")
    parser.add_help_options()
    parser.add_hidden_words()
    given, words = parser.split(argv)
    if len(words) > 1:
        raise UsageError("expected at most one NAME or PID (try 'mproxy impair set --help')")
    anew = "profile" in given
    return anew, _with_profile(given, lambda profile: parser.split(profile)[0]), words


def say_path(config: PathConfig) -> str:
    """The options that make this network; what has its default is left out."""
    said = []
    for name, setting in PathConfig.settings().items():
        value = getattr(config, name)
        if value != setting.default:
            said.append(f"{setting.option} {_say(name, value)}")
    return " ".join(said) or "nothing is done to packets"


def _say(name: str, value: Any) -> str:
    if name == "rebind_us":
        return format_duration(value)
    if name == "outage":
        return "/".join(map(format_duration, value))
    texts = [_SAY[name](one) for one in value]
    return texts[0] if texts[0] == texts[1] else "/".join(texts)


def _say_bursts(bursts: Bursts) -> str:
    bad, packets, within = bursts
    return f"{bad * within * 100:g}:{packets:g}" + (f":{within * 100:g}" if within < 1 else "") if bad else "0"


def _say_rate(rate: int) -> str:
    for unit, factor in (("Gbit", 10**9), ("Mbit", 10**6)):
        if rate >= factor:
            return f"{rate / factor:g}{unit}"
    return f"{rate / 1000:g}kbit" if rate else "0"


def _say_percent(share: float) -> str:
    return f"{share * 100:g}"


_SAY: dict[str, Callable[[Any], str]] = {
    **dict.fromkeys(("loss", "duplicate", "corrupt", "reorder"), _say_percent), "burst_loss": _say_bursts,
    **dict.fromkeys(("delay", "jitter", "reorder_by"), format_duration), "rate": _say_rate, "queue": format_size,
    "mtu": str}


def parse_seed(text: str) -> int:
    """A whole number of 64 bits."""
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and int(text) <= HIGHEST_SEED):
        raise UsageError("not a valid seed; use a whole number below 2**64")
    return int(text)
