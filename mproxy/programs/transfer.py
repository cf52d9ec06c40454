"""What `mproxy send` and `mproxy recv` share: options, exit status, progress, words for how it went."""

from __future__ import annotations

import json
import os
import socket
import time

from mproxy.ground.config import format_host_port
from mproxy.ground.errors import MproxyError, UsageError
from mproxy.ground.words import parse_bind, parse_count, parse_duration, parse_name, parse_rate
from mproxy.policy.resolver import interleave, look_up_host, numeric_address
from mproxy.programs.transfer_config import TransferConfig
from mproxy.transfer.messages import Result
from mproxy.transfer.selection import Selection
from mproxy.transport._packet import MAX_PACKET_BYTES, EndCode
from mproxy.transport.datagram_config import CONGESTIONS, LOOPBACK_PACKET_BYTES, RECOVERIES, DatagramConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping
    from typing import Any

    from mproxy.ground.shapes import Address, Sockaddr
    from mproxy.programs.options import OneLineParser

    # Addresses of the other side, of a family that our socket has (None: of both).
    LookUp = Callable[[int | None], list[Address]]

# Exit status, for scripts; 1 is any other failure, 2 a wrong command line.
PARTIAL = 8  # everything arrived but what is not sent, cannot be read, or changed meanwhile
STATUS_OF_RESULT = {Result.DONE: 0, Result.NO_SPACE: 3, Result.NO_PERMISSION: 4, Result.EXISTS: 5,
                    Result.UNREADABLE: PARTIAL, Result.CHANGED: PARTIAL}
STATUS_OF_END: dict[int, int] = {EndCode.TIMED_OUT: 6, EndCode.IDLE: 6, EndCode.HANDSHAKE_FAILED: 7, EndCode.VERSION: 7}


def with_result(status: int, code: Result) -> int:
    """The exit status so far, and after one more file: the first failure counts, PARTIAL only if there is no other."""
    if status not in (0, PARTIAL):
        return status
    return STATUS_OF_RESULT.get(code, 1) or status


def add_common(parser: OneLineParser) -> None:
    """Options of both programs."""
    group = parser.add_argument_group("connection")
    from mproxy.programs.transfer_keys import add_key_options  # `mproxy copy` needs none of it before ssh runs
    add_key_options(parser, group)
    add_path_options(parser, group)
    group = parser.add_argument_group("output")
    parser.add(group, "--name", parse_name, metavar="NAME", help=(
        "what 'mproxy status' calls this program (default: made from its port)"))
    group.add_argument("--json", action="store_true", default=None, help="print one JSON object per file")
    parser.add_log_level(group)
    parser.add_log_format(group)
    parser.add_last(group, "mproxy")


def add_path_options(parser: OneLineParser, group: argparse._ActionsContainer) -> None:
    """Options about the connection that concern no keys."""
    parser.add_choice(group, "--recovery", RECOVERIES, (
        "how losses are repaired: sack (default) or gbn, Go-Back-N"))
    parser.add_choice(group, "--congestion", CONGESTIONS, (
        f"congestion control: bbr, cubic or fixed (default {DatagramConfig.congestion.default})"))
    parser.add(group, "--window", parse_count, metavar="N", help=(
        f"packets in flight with --congestion fixed, which it implies (default {DatagramConfig.window.default})"))
    parser.add(group, "--retries", parse_count, metavar="N", help=(
        "consecutive tries without an answer before giving up (default 0: as many as --timeout allows)"))
    parser.add(group, "--timeout", parse_duration, metavar="TIME", help=(
        "give up after this long without an answer (default 1m)"))
    parser.add(group, "--bind", parse_bind, metavar="ADDR", help="local numeric address to use (default: every one)")


def add_source_options(parser: OneLineParser, group: argparse._ActionsContainer, receiver_too: str) -> None:
    """Options about which files are sent, and how. `receiver_too`: what is said of an option that both sides need."""
    links = group.add_mutually_exclusive_group()
    links.add_argument("--links", action="store_const", const="keep", default=None, help=(
        "send symbolic links in directories as links (default: they are left out); one that could lead out of the"
        " receiver's directory is left out"))
    links.add_argument("--copy-links", action="store_const", const="copy", default=None, dest="links", help=(
        "send what symbolic links in directories lead to"))
    group.add_argument("--exclude", action="append", dest="rules", type=lambda text: (False, text), metavar="PATTERN",
                       help="leave out what matches in directories, as rsync does; the first match decides")
    group.add_argument("--include", action="append", dest="rules", type=lambda text: (True, text), metavar="PATTERN",
                       help="send what matches, although a later --exclude would leave it out")
    group.add_argument("--dry-run", action="store_true", default=None, help=(
        "print the names of what would be sent, and with --delete of what would be deleted, and do neither"))
    group.add_argument("--delete", action="store_true", default=None, help=(
        "when everything has arrived, delete there what is in the directories that were sent, and not here; asks"
        f" before{receiver_too.replace('--xattrs', '--delete')}"))
    group.add_argument("--yes", action="store_true", default=None, help="with --delete: delete without asking")
    present = group.add_mutually_exclusive_group()
    present.add_argument("--checksum", action="store_false", dest="update", default=None, help=(
        "compare files that the receiver has with the same size by their hash, whatever their times (the default)"))
    present.add_argument("--update", action="store_true", default=None, help=(
        "skip files that the receiver has with the same size and time"))
    group.add_argument("--xattrs", action="store_true", default=None, help=(
        f"send the extended attributes of files and directories, and with them ACLs{receiver_too}"))
    group.add_argument("--delta", action="store_true", default=None, help=(
        "of a changed file that the receiver has, send only what has changed"))
    group.add_argument("--compress", action="store_true", default=None, help=(
        "compress (Zstandard) what becomes shorter, where that is faster; both sides need the package zstandard"))
    parser.add(group, "--limit", parse_rate, metavar="RATE", help=(
        "send at most this much: a number with kbit, Mbit or Gbit, a second"))


def take_rules(given: dict[str, Any]) -> None:
    """Check --exclude and --include; UsageError for a pattern that is wrong."""
    given["rules"] = tuple(given.get("rules", ()))
    Selection(given["rules"])


def configure(given: dict[str, Any], own_key: str, **values: Any) -> TransferConfig:
    """The TransferConfig of options by their command line names; `own_key` is the file of --own-key, `values` are
    finished settings."""
    datagram = take_datagram(given)
    from mproxy.programs.transfer_keys import take_key
    key = take_key(given, own_key)
    peers = tuple(given.pop("peer", ()))
    if values.get("code") and (key or peers):
        raise UsageError("a code takes the place of a key: leave out --key, --own-key and --peer")
    if peers and not (key and key.seed):
        raise UsageError("--peer works with keys from 'mproxy keygen' only, so --key must be one too")
    for option in ("certificate", "revoked_keys"):
        if option in given and not (key and key.seed):
            raise UsageError(f"--{option.replace('_', '-')} works with keys from 'mproxy keygen' only: name one with"
                             " --key, or use --own-key")
    datagram["sealed"] = key is not None or values.get("code") is not None
    given = {name.replace("-", "_"): value for name, value in given.items()}
    return TransferConfig(datagram=DatagramConfig(**datagram), key=key, peers=peers, **given, **values)


def take_datagram(given: dict[str, Any]) -> dict[str, Any]:
    """Settings of a DatagramConfig from the options of `add_path_options`, which are removed from `given`."""
    datagram: dict[str, Any] = {
        name: given.pop(name) for name in ("recovery", "congestion", "window", "retries") if name in given}
    if "window" in datagram:
        datagram.setdefault("congestion", "fixed")
    if "timeout" in given:
        datagram["idle_us"] = given.pop("timeout")
    return datagram


def with_packet_size(datagram: DatagramConfig, loopback: bool) -> DatagramConfig:
    """The DatagramConfig for a local interface: the loopback carries packets of 64 KiB."""
    return datagram.replace(max_packet_bytes=LOOPBACK_PACKET_BYTES if loopback else MAX_PACKET_BYTES)


def sockaddr_bytes(family: int, sockaddr: Sockaddr) -> bytes:
    """A socket address in the form that the endpoint uses: IPv6, with IPv4 mapped into it."""
    host = sockaddr[0].partition("%")[0]
    raw = socket.inet_pton(family, host)
    if family == socket.AF_INET:
        raw = bytes(10) + b"\xff\xff" + raw
    scope = sockaddr[3] if len(sockaddr) > 3 else 0
    return (socket.AF_INET6.to_bytes(2, "little") + sockaddr[1].to_bytes(2, "big") + bytes(4) + raw
            + scope.to_bytes(4, "little"))


def show_name(name: bytes) -> str:
    """A file's name to be shown: what a terminal would obey is escaped."""
    text = os.fsdecode(name)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def write_line(data: Mapping[str, object]) -> None:
    """A line of JSON on standard output; if nobody reads it, it is dropped."""
    try:
        os.write(1, (json.dumps(data) + "\n").encode())
    except OSError:
        pass


class Stopwatch:
    """Measures seconds and rate of a transfer."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began


def bound_family(sock: socket.socket) -> int | None:
    """The family of the addresses that a socket of `open_udp` can send to; None: both."""
    if sock.family == socket.AF_INET:
        return socket.AF_INET
    return socket.AF_INET6 if sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) else None


def find_addresses(host: str, port: int, family: int | None = None) -> list[Address]:
    """[(family, sockaddr), ...] of a host in the order in which to try, only of `family` if one is given; MproxyError
    if there is none. Blocks while a name is looked up."""
    addresses, error = numeric_address(host, port) or look_up_host(host)
    if error:
        raise MproxyError(error)
    fitting = [entry for entry in interleave(addresses) if family in (None, entry[0])]
    if not fitting:
        wanted = "IPv4" if family == socket.AF_INET else "IPv6"
        raise MproxyError(f"{host} has no {wanted} address, but our socket is {wanted}")
    return [(family, (sockaddr[0], port, *sockaddr[2:])) for family, sockaddr in fitting]


WRONG_CODE = "the code is wrong, or was used before: ask the sender for a new one"


def end_text(code: int, reason: str, host: str, port: int) -> str:
    """How a connection ended, as a message."""
    where = format_host_port(host, port)
    if "does not answer" in reason:
        return f"{where} does not answer"
    if code in (EndCode.TIMED_OUT, EndCode.IDLE):
        return f"{where} does not answer: {reason}"
    return f"{where}: {reason}"
