"""The command line of `mproxy relay`: words in, (command, configuration) out. UsageError for a mistake."""

from __future__ import annotations

import os

from mproxy.ground.errors import UsageError
from mproxy.ground.words import (
    parse_count,
    parse_duration,
    parse_host,
    parse_name,
    parse_port,
    printable,
    split_host_port,
)
from mproxy.programs.options import OneLineParser, keeps_by_default
from mproxy.programs.relay_rules import parse_rule_words
from mproxy.relay.relay_config import MOST_WORKERS, RelayConfig
from mproxy.relay.rule_file import check_weights, parse_listen, parse_options
from mproxy.relay.rules import Rule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROGRAM = "mproxy relay"
COMMANDS = ("check", "reload", "stop", "status", "rule")

_USAGE = """mproxy relay [options] PORT HOST HOST_PORT [RULE_OPTION ...]
       mproxy relay [options] --config FILE
       mproxy relay check FILE
       mproxy relay reload|stop|status [--pidfile FILE]
       mproxy relay rule add RULE | remove NAME|RULE | list [--pidfile FILE]"""

_DESCRIPTION = """\
Relay TCP connections and UDP datagrams: client -> relay -> server.

  PORT            listen here: PORT for every address, ADDRESS:PORT or
                  [IPV6]:PORT for one; 0 takes any free port
  HOST HOST_PORT  the server: a name or address, and its port; HOST:HOST_PORT
                  means the same
  RULE_OPTION     as in a file, for example max=500 proxy=v2

  check           report what is wrong with a rule file, start nothing
  reload          make a running relay read its file again; rules that did not
                  change and existing connections are not touched
  stop            let it finish its connections, then end it
  status          show its rules, connections, bytes and workers
  rule            add a rule to a running relay, as a file has it, until it
                  ends; remove the rules of a NAME (name=), of a RULE, or that
                  listen where it says ('udp 53'); list all"""

_EPILOG = """\
a rule file has one rule per line; # starts a comment:
  7005 -> 192.168.0.1:8005
  udp 53 -> 10.0.0.2:53            timeout=30s max=10000
  tcp+udp [::]:5060 -> sip.example:5060
  7100-7110 -> 10.0.0.3:8100-8110  allow=10.0.0.0/8 proxy=v2 max=500
  8443 -> a.example:443, b.example:443   balance=leastconn

options of a rule:
  allow=NETS, deny=NETS    networks of clients, separated by commas; deny wins
  max=N                    connections or UDP flows at once
  timeout=TIME             end after this long without a byte (default tcp 0,
                           which is never; udp 1m)
  connect-timeout=TIME     for a connection to a server (default 10s)
  balance=roundrobin|leastconn   with several servers (default roundrobin)
  proxy=v1|v2              send a PROXY protocol header to the server
  accept-proxy             expect one from the client
  new-per-source=10/s      new connections or flows of each source address (/s,
                           /m, /h), new-burst=N of them at once
  keepalive=60s,20s,3      probe silent peers: after, every, how often; 0: never
  name=NAME                what the rule is called
  source=ADDRESS           connect to servers from this address of the host
  per-source=N             UDP flows of one client address at once
  weights=N,N              part of the connections for each server
  check=TIME               ask every server this often whether it is well: by
                           connecting, or by check-send=TEXT check-expect=TEXT
                           (\\r \\n \\s \\xNN in it); check-port=PORT of another
                           port; check-rise=N (2), check-fall=N (3) in a row

TIME is a number with us, ms, s, m, h or d (1s, 1.5m; a bare number is seconds).

examples:
  mproxy relay 80 192.168.0.2 8080
  mproxy relay --udp 53 10.0.0.2 53 timeout=5s
  mproxy relay --config /etc/mproxy/relay.conf --workers auto --daemon \\
               --pidfile /run/mproxy/relay.pid
  mproxy relay status --pidfile /run/mproxy/relay.pid --json
"""

_CLIENT_EPILOG = "Without --pidfile: the only running relay of this user.\n"


def parse_relay(argv: list[str]) -> tuple[str, Any]:
    """(command, RelayConfig) for running, command "run"; (command, {option: value}) for the commands."""
    if argv and argv[0] in COMMANDS:
        return argv[0], _parse_command(*argv)
    parser = relay_parser()
    given, words = parser.split(argv)
    udp = given.pop("udp", False)
    if "config" in given:
        if words:
            raise UsageError(f"unexpected argument: {printable(words[0])} (with --config, rules go in the file)")
        if udp:
            raise UsageError("--udp and --config cannot be used together: write 'udp' before the rule in the file")
        given["file"] = os.path.abspath(given.pop("config"))
    else:
        given["rules"] = (_rule(parser, words, "udp" if udp else "tcp"),)
    if "drain_timeout" in given:
        given["drain_timeout_us"] = given.pop("drain_timeout")
    given.setdefault("keeper", keeps_by_default())
    if "daemon" in given and "pidfile" not in given:
        raise UsageError("--daemon needs --pidfile FILE, by which reload, stop and status find the process")
    for file in given.keys() & {"pidfile", "log_file", "access_log"}:
        given[file] = os.path.abspath(given[file])  # a daemon leaves the present directory
    return "run", RelayConfig(**given)


def relay_parser() -> OneLineParser:
    """The options with which it runs."""
    parser = OneLineParser(PROGRAM, _USAGE, _DESCRIPTION, _EPILOG)
    config = RelayConfig
    group = parser.add_argument_group("rules")
    group.add_argument("--udp", action="store_true", default=None, help="relay UDP datagrams, not TCP connections")
    parser.add(group, "--config", parse_name, metavar="FILE", help="read the rules from this file")
    group.add_argument("--kernel", action="store_true", default=None, help=(
        "let the kernel relay by nftables: faster, fewer options; needs root and nft"))

    group = parser.add_argument_group("process")
    parser.add(group, "--workers", _workers, metavar="N|auto", help=(
        f"number of relaying processes (default {config.workers.default}); auto is one per CPU"))
    group.add_argument("--no-keeper", action="store_false", dest="keeper", default=None, help=(
        "end connections with the worker that has them, when it dies; saves a process of some 2 MB for each"))
    parser.add(group, "--max-connections", parse_count, metavar="N", help=(
        "TCP connections, and UDP flows, of all rules at once (default 0: as many as the open-file limit allows)"))
    parser.add(group, "--drain-timeout", parse_duration, metavar="TIME", help=(
        "after SIGTERM, let connections finish for at most this long (default"
        f" {config.drain_timeout_us.format(config.drain_timeout_us.default)})"))
    parser.add(group, "--user", parse_name, metavar="USER", help=(
        "run the workers as this user once the ports are bound; must be started as root"))
    group.add_argument("--wait-addresses", action="store_true", default=None, help=(
        "start even if this host does not have an address to listen on yet, and serve it as soon as it does"))
    group.add_argument("--daemon", action="store_true", default=None, help=(
        "run in the background; return once it is serving, or say why it cannot"))
    parser.add(group, "--pidfile", parse_name, metavar="FILE", help="write the process id to this file")
    parser.add(group, "--name", parse_name, metavar="NAME", help=(
        "what 'mproxy status' calls this relay (default: made from its file, or its rule)"))

    group = parser.add_argument_group("general")
    parser.add(group, "--log-file", parse_name, metavar="FILE", help=(
        "append the log to this file (default standard error; without it a daemon logs nothing, unless standard error"
        " is a file)"))
    parser.add(group, "--access-log", parse_name, metavar="FILE", help=(
        "append a line of JSON to this file for each connection that has ended; reopened at a reload, and when it was"
        " moved away"))
    parser.add_log_level(group)
    parser.add_log_format(group)
    parser.add_last(group)
    return parser


def _parse_command(command: str, *argv: str) -> dict[str, Any]:
    """The options of check, reload, stop, status and rule."""
    if command == "check":
        parser = OneLineParser(f"{PROGRAM} check", "mproxy relay check [--kernel] FILE",
                               "Report what is wrong with a rule file.", None)
        group = parser.add_argument_group("options")
        group.add_argument("--kernel", action="store_true", default=None, help="also report what --kernel lacks")
    else:
        words_of = " add RULE|remove NAME|RULE|list" if command == "rule" else ""
        as_json = command in ("status", "rule")
        usage = f"mproxy relay {command}{words_of} [--pidfile FILE]{' [--json]' if as_json else ''}"
        parser = OneLineParser(f"{PROGRAM} {command}", usage, None, _CLIENT_EPILOG)
        group = parser.add_argument_group("options")
        parser.add(group, "--pidfile", parse_name, metavar="FILE", help="pidfile of the running relay")
        if as_json:
            group.add_argument("--json", action="store_true", default=None, help="print one JSON object, for programs")
    parser.add_last(group)
    given, words = parser.split(list(argv))
    if command == "rule":
        return given | parse_rule_words(words)
    expected = ["FILE"] if command == "check" else []
    if len(words) != len(expected):
        parser.error(f"missing argument: {' '.join(expected)}" if len(words) < len(expected)
                     else f"unexpected argument: {printable(words[len(expected)])}")
    return given | dict(zip(("file",), words, strict=False))


def _workers(text: str) -> int:
    if text == "auto":
        return min(len(os.sched_getaffinity(0)), MOST_WORKERS)
    if not text.isdigit():
        raise UsageError("not a number of processes; use 1, 2, ... or auto")
    return parse_count(text)


def _rule(parser: OneLineParser, words: list[str], protocol: str) -> Rule:
    """The one Rule of `PORT HOST HOST_PORT [RULE_OPTION ...]`."""
    words = split_host_port(words, 1)
    names = ("PORT", "HOST", "HOST_PORT")
    if len(words) < len(names):
        parser.error(f"missing argument: {names[len(words)]}; expected {' '.join(names)}, or --config FILE")
    host, ports = parse_listen(words[0], lowest=0)
    if len(ports) != 1:
        raise UsageError(f"PORT {printable(words[0])} is a range: put it in a file and use --config")
    try:
        name, text = names[1], words[1]
        host_of_target = parse_host(text)
        name, text = names[2], words[2]
        target = host_of_target, parse_port(text)
    except UsageError as error:
        raise UsageError(f"{name} {printable(text)}: {error}") from None
    [options] = parse_options((protocol,), tuple(words[3:]), {})
    check_weights(options.weights, 1)
    return Rule(1, protocol, "" if host == "::" else host, ports[0], (target,), options)
