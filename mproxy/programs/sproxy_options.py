"""The command line of sproxy: words in, a checked SproxyConfig out."""

from __future__ import annotations

import os
import sys

from mproxy.ground.config import MOST_WORKERS, SproxyConfig, format_host_port
from mproxy.ground.errors import UsageError
from mproxy.ground.forwarding import parse_permitted, parse_permitted_place
from mproxy.ground.words import (
    parse_advertised,
    parse_count,
    parse_duration,
    parse_host,
    parse_host_port,
    parse_listening_port,
    parse_name,
    parse_network,
    parse_port,
    parse_proxy_version,
    parse_size,
)
from mproxy.programs.options import OneLineParser, expect_words, refuse_together, word_of
from mproxy.programs.session_options import SESSION_ONLY, UNITS, add_session_options, configure, show_default

# What is about keys: without encryption there are none.
KEY_OPTIONS = ("host_key", "host_certificate", "authorized_keys", "authorized_keys_command", "revoked_keys", "closed",
                "trust_attached")

USAGE = """sproxy [options] PORT [HOST:PORT]
       sproxy --attach [PORT]
       sproxy --attach --start [HOST:PORT]"""

DAEMON = f"{SproxyConfig.daemon_host.default}:{SproxyConfig.daemon_port.default}"

DESCRIPTION = f"""\
Accept sessions from cproxy and relay their connections to a daemon.

  PORT            listen here for cproxy; 0 takes any free port
  HOST:PORT       the daemon (default {DAEMON}); HOST PORT means the same

Without authorized_keys anyone who can reach PORT can use the daemon: see trust."""

EXAMPLES = UNITS + """
examples:
  beside a telnet daemon:
    sproxy 6200

  beside an ssh daemon, which sees a separate address for each client's key:
    sproxy --source-per-key 6200 127.0.0.1:22

  let clients ask for two more daemons (cproxy --target HOST:PORT):
    sproxy --allow intranet:80 --allow '[fd00::7]:5432' 6200

  what cproxy --via runs here, by ssh for example; with --start no sproxy needs
  to run beforehand:
    sproxy --attach
    sproxy --attach --start 127.0.0.1:5432
"""


def sproxy_parser() -> OneLineParser:
    """sproxy's options."""
    parser = OneLineParser("sproxy", USAGE, DESCRIPTION, EXAMPLES)
    group = parser.add_argument_group("connection")
    group.add_argument("--attach", action="store_true", default=None, help=(
        "join standard input and output to the sproxy of this user that runs here (of several: the one that listens on"
        " PORT), as one more way to reach it; ends with them"))
    group.add_argument("--start", action="store_true", default=None, help=(
        "with --attach: join the sproxy for the daemon at HOST:PORT (default: this host's sshd) that an earlier --start"
        " has left running for this user, or start it; it ends after a day without sessions"))
    parser.add(group, "--workers", parse_workers, metavar="N|auto", help=(
        "processes that share the sessions, to use so many cores; auto: one a core (default"
        f" {show_default(SproxyConfig.workers)})"))
    parser.add(group, "--node", parse_count, metavar="N", help=(
        "which of several sproxies with the same host key this is, 0 to 255, for a balancer in front of them: the first"
        f" byte of the routing tags that cproxies come back with (default {show_default(SproxyConfig.node)})"))
    parser.add(group, "--accept-proxy", parse_network, metavar="NETWORK", action="append", help=(
        "connections from this address or network (10.0.0.0/24) come through a balancer, which says first, in"
        " haproxy's PROXY protocol, from where; repeatable; only for balancers that nobody else can pass for"))
    group.add_argument("--routed", action="store_true", default=None, help=(
        "these balancers send a returning client to the node in its routing tag while that node is up: one that comes"
        " here with the tag of another node is told that its session has ended"))
    parser.add(group, "--advertise", parse_advertised, metavar="ADDR[:PORT]", help=(
        "tell clients that came through a balancer where this sproxy itself can be reached over UDP (PORT: as here);"
        " cproxy --carrier auto moves there"))
    parser.add(group, "--exit-idle", parse_duration, metavar="TIME", help=(
        "exit when there has been no session for this long (default: never)"))
    group.add_argument("--udp", action="store_true", default=None, help=(
        "do not start unless UDP port PORT can be had, too (by default a warning says that it cannot)"))
    group.add_argument("--no-udp", action="store_false", dest="udp", default=None, help=(
        "listen on TCP port PORT alone, as always with --plaintext, and with --accept-proxy unless --udp is given"))
    group = parser.add_argument_group("clients")
    parser.add(group, "--allow", parse_permitted, metavar="HOST:PORT", action="append", help=(
        "another daemon that clients may ask for, over TCP or UDP, or the /PATH of its unix socket; repeatable (default"
        " none); '*:443', '*.example.com:*' and '*:*' count only for keys in authorized_keys"))
    parser.add(group, "--allow-listen", parse_permitted_place, metavar="[ADDR:]PORT", action="append", help=(
        "where clients may have this sproxy listen (cproxy -R): PORT on the loopback addresses, ADDR:PORT, or a /PATH;"
        " repeatable (default nowhere); '*' for PORT (from 1024 up) or ADDR counts only for keys in authorized_keys"))
    group.add_argument("--single", action="store_true", default=None, help=(
        "one session at a time: a new one closes the one before it and its connections to the daemon"))
    group.add_argument("--source-per-key", action="store_true", default=None, help=(
        "connect to daemons on 127.0.0.1 from a separate address for each client's key (127.x.y.z), so that their"
        " limits and bans affect one client only"))
    parser.add(group, "--send-proxy", parse_proxy_version, metavar="v1|v2", help=(
        "tell every daemon first, in haproxy's PROXY protocol, which address the client comes from; the daemon must"
        " expect it"))
    parser.add(group, "--stdio-ttl", parse_duration, metavar="TIME", help=(
        "keep a session of cproxy --stdio without a connection this long (default"
        f" {show_default(SproxyConfig.stdio_ttl_us)}, at most --session-ttl)"))
    parser.add(group, "--max-unfinished", parse_count, metavar="N", help=(
        "connections that have sent nothing yet, and as many more that have not completed the handshake (default"
        f" {show_default(SproxyConfig.max_unfinished)})"))
    parser.add(group, "--memory-limit", parse_size, metavar="SIZE", help=(
        "bytes that the buffers of all sessions may hold together"
        f" (default {show_default(SproxyConfig.memory_limit_bytes)})"))
    group = parser.add_argument_group("trust")
    parser.add(group, "--host-key", parse_name, metavar="FILE", help=(
        "our key (default host-key.pem in --state-dir, created if missing)"))
    parser.add(group, "--host-certificate", parse_name, metavar="FILE", help=(
        "a CA's certificate for our key (default host-key-cert.pub beside the key, if it is there)"))
    parser.add(group, "--authorized-keys", parse_name, metavar="FILE|DIR", help=(
        "only the keys in this file, and in the files of the directory FILE.d, may connect (default authorized_keys in"
        " --state-dir; without that file anyone may connect, and the log says how to prevent it)"))
    parser.add(group, "--authorized-keys-command", parse_name, metavar="COMMAND", help=(
        "ask this program for the lines of a key that is not there; in it %%k is the key, %%f its fingerprint"))
    parser.add(group, "--authorized-keys-command-user", parse_name, "run it as this user", metavar="USER")
    parser.add(group, "--revoked-keys", parse_name, metavar="FILE", help=(
        "list of keys, and of certificates by serial or id, that are revoked"))
    group.add_argument("--closed", action="store_true", default=None, help=(
        "as long as there is no authorized_keys, let nobody in"))
    group.add_argument("--trust-attached", action="store_true", default=None, help=(
        "let in every key that comes through --attach, and add it to authorized_keys"))
    parser.add(group, "--user", parse_name, metavar="USER", help=(
        "run as this user once the port is open and the keys are read; must be started as root"))
    add_session_options(parser, SproxyConfig, "every address")
    return parser


def parse_sproxy(argv: list[str] | None) -> SproxyConfig:
    """The SproxyConfig of the command line `argv`, without the program's name."""
    parser = sproxy_parser()
    given, words = parser.split(argv)
    if given.pop("attach", None):
        raise UsageError("--attach takes no other option than --start, and at most a PORT (with --start: HOST:PORT)")
    if given.pop("start", None):
        raise UsageError("--start is for use with --attach")
    refuse_together(given, "plain", (
        "single", "allow", "allow_listen", "source_per_key", "send_proxy", "stdio_ttl", "max_unfinished", "udp_idle",
        "memory_limit", "state_dir", "exit_idle", "udp", "node", "accept_proxy", "routed", "advertise",
        *KEY_OPTIONS, *SESSION_ONLY))
    if "advertise" in given and given.get("udp") is False:
        raise UsageError("--advertise and --no-udp cannot be used together")
    for one, other in (("routed", "accept_proxy"), ("authorized_keys_command_user", "authorized_keys_command")):
        if one in given and other not in given:
            raise UsageError(f"--{one.replace('_', '-')} is for use with --{other.replace('_', '-')}")
    refuse_together(given, "plaintext", (*KEY_OPTIONS, "source_per_key", "udp", "advertise"))
    if given.get("workers", 1) > 1:
        refuse_together(given, "workers", ("plain",))
        if given.setdefault("keeper", True) is False:
            raise UsageError("--workers and --no-keeper cannot be used together")
    if len(words) == 3 and words[2].isdigit():
        words = [words[0], format_host_port(word_of("HOST", words[1], parse_host), words[2])]
    expect_words(parser, words, ("PORT", "[HOST:PORT]"))
    given["port"] = word_of("PORT", words[0], parse_listening_port)
    if len(words) > 1:
        given["daemon_host"], given["daemon_port"] = word_of("daemon", words[1], parse_host_port)
    return configure(SproxyConfig, given)


def parse_attach(argv: list[str] | None) -> int | None:
    """The port in the command line `sproxy --attach [PORT]`; None: there is none. The words of any other command line
    are those of `parse_sproxy`."""
    words = _attach_words(argv, ("--attach",))
    return word_of("PORT", words[0], parse_port) if words else None


def parse_attach_start(argv: list[str] | None) -> tuple[str, int] | None:
    """The daemon in the command line `sproxy --attach --start [HOST:PORT]`; None: there is none."""
    words = _attach_words(argv, ("--attach", "--start"))
    return word_of("HOST:PORT", words[0], parse_host_port) if words else None


def _attach_words(argv: list[str] | None, options: tuple[str, ...]) -> list[str]:
    words = [word for word in (sys.argv[1:] if argv is None else argv) if word not in options]
    if any(word.startswith("-") for word in words) or len(words) > 1:
        parse_sproxy(argv)
    return words


def parse_workers(text: str) -> int:
    """How many workers: a number, or `auto`: one for each core that this process may use. UsageError."""
    if text == "auto":
        return min(len(os.sched_getaffinity(0)), MOST_WORKERS)
    if not text.isdigit():
        raise UsageError("not a whole number, nor auto")
    return parse_count(text)
