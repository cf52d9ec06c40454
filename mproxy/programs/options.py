"""The command lines of cproxy and sproxy: words in, a checked configuration out.

A mistake in a command line raises a UsageError with one line that says what is wrong and what to do; programs pass it
to `complain` and exit with 2. `--help` and `--version` print and raise SystemExit(0). Defaults and ranges are those of
`mproxy.ground.config`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence

from mproxy import __version__
from mproxy._wire import MAX_ASSOCIATIONS, MAX_PLACES
from mproxy.ground.config import (
    LOG_FORMATS,
    LOG_LEVELS,
    MOST_WORKERS,
    CproxyConfig,
    LogConfig,
    SessionConfig,
    Setting,
    SproxyConfig,
    default_state_dir,
    format_host_port,
)
from mproxy.ground.errors import UsageError
from mproxy.ground.forwarding import (
    parse_forward,
    parse_permitted,
    parse_permitted_place,
    parse_spot,
    parse_target,
    parse_udp_forward,
)
from mproxy.ground.words import (
    parse_advertised,
    parse_bind,
    parse_count,
    parse_duration,
    parse_fingerprint,
    parse_host,
    parse_host_port,
    parse_listening_port,
    parse_name,
    parse_network,
    parse_port,
    parse_proxy,
    parse_proxy_version,
    parse_size,
    printable,
    split_host_port,
    via_host,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn, TypeVar

    Value = TypeVar("Value")
    Configuration = TypeVar("Configuration", CproxyConfig, SproxyConfig)


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and whose help is written for 80 columns.

    `add` names the option in errors about its value. The width is fixed, because asking the terminal for it would
    import more than the whole program does otherwise.
    """

    def __init__(self, program: str, usage: str, description: str | None, epilog: str | None) -> None:
        super().__init__(prog=program, usage=usage, description=description, epilog=epilog, add_help=False,
                         allow_abbrev=False, formatter_class=_help_format)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message.removeprefix('argument ')} (try '{self.prog} --help')")

    def add(self, group: argparse._ActionsContainer, option: str, parse: Callable[[str], object], help: str,
            long: str | None = None, **keywords: Any) -> None:
        """An option with a value; `parse` turns text into the value or raises UsageError. `long`: a short option's
        other name."""
        names = (option, long) if long else (option,)
        group.add_argument(*names, type=lambda text: _word(option, text, parse), help=help, **keywords)

    def add_word(self, name: str, parse: Callable[[str], object], help: str, **keywords: Any) -> None:
        """A positional argument, required unless `nargs` says otherwise; an attribute `name` of the result of
        `parse_args`."""
        shown = keywords.get("metavar", name)
        self.add_argument(name, type=lambda text: _word(shown, text, parse), help=help, **keywords)

    def add_choice(self, group: argparse._ActionsContainer, option: str, choices: tuple[str, ...], help: str) -> None:
        """An option whose value is one of `choices`; those of a level are only in the help's text."""
        def choose(text: str) -> str:
            if text not in choices:
                raise UsageError(f"must be one of {', '.join(choices)}")
            return text
        self.add(group, option, choose, help, metavar="LEVEL" if option == "--log-level" else "|".join(choices))

    def add_log_level(self, group: argparse._ActionsContainer, except_for: str = "") -> None:
        """--log-level, with the default and where another one holds."""
        self.add_choice(group, "--log-level", LOG_LEVELS, (
            f"debug, info, warning or error (default {LogConfig.log_level.default}{except_for})"))

    def add_log_format(self, group: argparse._ActionsContainer) -> None:
        """--log-format."""
        self.add_choice(group, "--log-format", LOG_FORMATS, (
            f"text, or one JSON object per line (default {LogConfig.log_format.default})"))

    def add_last(self, group: argparse._ActionsContainer, program: str | None = None) -> None:
        """--version of the program (its own name, unless given), --help, and what `split` needs."""
        group.add_argument("--version", action="version", version=f"{program or self.prog} {__version__}",
                           help="print the version and exit")
        self.add_help_options(group)
        self.add_hidden_words()

    def add_hidden_words(self) -> None:
        """What `split` needs: the usage says what they are."""
        self.add_argument("words", nargs="*", help=argparse.SUPPRESS)

    def add_help_options(self, group: argparse._ActionsContainer | None = None) -> None:
        """--help and --help-all."""
        group = group or self
        group.add_argument("-h", "--help", action=_BriefHelp, nargs=0, dest=argparse.SUPPRESS,
                           default=argparse.SUPPRESS, help="print what is used most, and exit")
        group.add_argument("--help-all", action="help", help="print this text and exit")

    def split(self, argv: list[str] | None) -> tuple[dict[str, Any], list[str]]:
        """(options given, words given) of `argv`; options may come before, between and after the words; after `--`
        there are only words."""
        argv = list(sys.argv[1:] if argv is None else argv)
        end = argv.index("--") if "--" in argv else len(argv)
        try:
            given = vars(self.parse_intermixed_args(argv[:end]))
        except argparse.ArgumentError as error:
            self.error(str(error))
        words = given.pop("words") + argv[end + 1:]
        return {name: value for name, value in given.items() if value is not None}, words

    def take_words(self, words: list[str], expected: Sequence[tuple[str, Callable[[str], object]]]) -> list[Any]:
        """The values of `words`; `expected` is ((name, parse), ...), all of them needed."""
        _expect_words(self, words, [name for name, _ in expected])
        return [_word(name, word, parse) for word, (name, parse) in zip(words, expected, strict=True)]


def _help_format(prog: str) -> _HelpFormat:
    return _HelpFormat(prog, max_help_position=27, width=79)


class _BriefHelp(argparse.Action):
    """Prints a text that fits a small terminal."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from mproxy.programs.brief_help import brief_help
        print(brief_help(parser.prog, parser.format_help()), end="")
        parser.exit()


class _HelpFormat(argparse.RawDescriptionHelpFormatter):
    """Text around the options as it is written; that of options in lines that do not break `client-key.pem`."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        import textwrap  # needed only by --help
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


def _word(name: str, text: str, parse: Callable[[str], Value]) -> Value:
    """`parse(text)`, with name and text in front of its complaint."""
    try:
        return parse(text)
    except UsageError as error:
        raise UsageError(f"{name} {printable(text)}: {error}") from None


def _show(setting: Setting[Any]) -> str:
    """A setting's default as --help shows it; % has a meaning for argparse."""
    shown: str = setting.format(setting.default)
    return shown


def _add_common(parser: OneLineParser, config_class: type[CproxyConfig] | type[SproxyConfig],
                default_bind: str) -> None:
    """Options that cproxy and sproxy share. Those not given stay None, and the configuration fills them in."""
    session = SessionConfig
    group = parser.add_argument_group("session")
    parser.add(group, "--heartbeat", parse_duration, metavar="TIME", help=(
        f"send a heartbeat this often (default {_show(session.heartbeat_us)}; 10ms to 1h)"))
    parser.add(group, "--misses", parse_count, metavar="N", help=(
        f"unanswered heartbeats after which the connection counts as lost (default {_show(session.misses)})"))
    parser.add(group, "--session-ttl", parse_duration, metavar="TIME", help=(
        f"keep a session that has no connection this long (default {_show(session.session_ttl_us)})"))
    parser.add(group, "--window", parse_size, metavar="SIZE", help=(
        "bytes in flight in one direction of one stream; memory use grows up to this while the other side does not"
        f" read (default {_show(session.window_bytes)}; 4KiB to 1GiB)"))
    parser.add(group, "--session-budget", parse_size, metavar="SIZE", help=(
        "the same for all streams of a session together, at least one window"
        f" (default {_show(session.session_budget_bytes)})"))

    group = parser.add_argument_group("limits")
    parser.add(group, "--max-streams", parse_count, metavar="N", help=(
        f"connections relayed at once in one session (default {_show(session.max_streams)})"))
    if hasattr(config_class, "max_sessions"):
        parser.add(group, "--max-sessions", parse_count, metavar="N", help=(
            f"sessions at once (default {_show(config_class.max_sessions)})"))
    parser.add(group, "--udp-idle", parse_duration, metavar="TIME", help=(
        f"forget a flow of datagrams after this long without one (default {_show(config_class.udp_idle_us)})"))
    parser.add(group, "--drain", parse_duration, metavar="TIME", help=(
        f"after SIGTERM or SIGINT, deliver queued data for at most this long (default {_show(config_class.drain_us)})"))

    group = parser.add_argument_group("general")
    parser.add(group, "--name", parse_name, metavar="NAME", help=(
        "what 'mproxy status' calls this program (default: made from its ports and addresses)"))
    parser.add(group, "--bind", parse_bind, metavar="ADDR", action="append", help=(
        f"numeric address to listen on; repeatable (default {default_bind})"))
    group.add_argument("--keeper", action="store_true", default=None, help=(
        "have connections outlive the death of the process that serves them (the default"
        f"{', but with --stdio' if config_class is CproxyConfig else ''})"))
    group.add_argument("--no-keeper", action="store_false", dest="keeper", default=None, help=(
        "one process: connections end with it"))
    group.add_argument("--survive", action="store_true", default=None, help=(
        "have connections outlive 'systemctl restart': at SIGUSR1 they are left with the service manager, for the next"
        " start"))
    group.add_argument("--plain", action="store_true", default=None, help=(
        "a bare TCP relay without sessions: nothing survives a lost connection"))
    group.add_argument("--plaintext", action="store_true", default=None, help=(
        "no encryption between the proxies; both sides need it; for trusted networks only"))
    parser.add(group, "--state-dir", parse_name, metavar="DIR", help=(
        "directory for keys and for what must survive a restart (default $XDG_STATE_HOME/mproxy or"
        " ~/.local/state/mproxy; root: /var/lib/mproxy)"))
    stdio = "; with --stdio warning" if config_class is CproxyConfig else ""
    parser.add_log_level(group, stdio)
    parser.add(group, "--log-file", parse_name, metavar="FILE", help=(
        "append the log to this file instead of standard error; SIGHUP reopens it"))
    parser.add_log_format(group)
    parser.add_last(group)


_UNITS = """\
TIME is a number with us, ms, s, m, h or d (1s, 1.5m; a bare number is seconds).
SIZE is a number with KiB, MiB, GiB, or kB, MB, GB for powers of 1000.
"""

_CPROXY_USAGE = """cproxy [options] PORT HOST PORT
       cproxy [options] -L PORT:HOST:PORT -R PORT:HOST:PORT -D PORT HOST PORT
       cproxy [options] --stdio HOST PORT
       cproxy [options] --via COMMAND PORT
       cproxy [options] --via COMMAND --stdio"""

_CPROXY_DESCRIPTION = """\
Relay TCP connections to sproxy, and keep them alive while the network is gone
or this host's address changes.

  PORT            listen here for applications; 0 takes any free port
  HOST PORT       where sproxy listens: a name or address, and its port;
                  HOST:PORT means the same. With --via they are not needed, and
                  only say by which name known_hosts knows that sproxy"""

_CPROXY_EXAMPLES = _UNITS + """
examples:
  a telnet session that survives a new address (sproxy 6200 runs on "server"):
    cproxy 5200 server 6200
    telnet 127.0.0.1 5200

  like ssh -L and -D (sproxy --allow intranet:80 --allow '*:443' on "server"):
    cproxy -L 8080:intranet:80 -D 1080 server 6200

  like ssh -R: who connects to port 9000 of "server" reaches port 3000 here
  (sproxy --allow-listen 9000 on "server"):
    cproxy -R 9000:localhost:3000 server 6200

  ssh without a listening port (sproxy 6200 127.0.0.1:22 on the ssh server):
    ssh -o ProxyCommand='cproxy --stdio %h 6200' user@server

  where only ssh gets through (you run an sproxy on "server"):
    cproxy --via 'ssh -T server sproxy --attach' 5200
"""

_SPROXY_USAGE = """sproxy [options] PORT [HOST:PORT]
       sproxy --attach [PORT]
       sproxy --attach --start [HOST:PORT]"""

_DAEMON = f"{SproxyConfig.daemon_host.default}:{SproxyConfig.daemon_port.default}"

_SPROXY_DESCRIPTION = f"""\
Accept sessions from cproxy and relay their connections to a daemon.

  PORT            listen here for cproxy; 0 takes any free port
  HOST:PORT       the daemon (default {_DAEMON}); HOST PORT means the same

Without authorized_keys anyone who can reach PORT can use the daemon: see trust."""

_SPROXY_EXAMPLES = _UNITS + """
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


def cproxy_parser() -> OneLineParser:
    """cproxy's options."""
    parser = OneLineParser("cproxy", _CPROXY_USAGE, _CPROXY_DESCRIPTION, _CPROXY_EXAMPLES)
    group = parser.add_argument_group("connection")
    group.add_argument("--stdio", action="store_true", default=None, help=(
        "relay standard input and output as the only connection, then exit"))
    parser.add(group, "--target", parse_target, metavar="HOST:PORT", help=(
        "ask sproxy for this daemon, or for that at the unix socket /PATH, instead of its default (sproxy must --allow"
        " it)"))
    parser.add(group, "-L", parse_forward, long="--forward", metavar="[ADDR:]PORT:HOST:PORT", action="append", help=(
        "listen on this port, too, and ask sproxy for HOST:PORT; repeatable; /PATH for a unix socket on either side"))
    parser.add(group, "-D", parse_spot, long="--dynamic", metavar="[ADDR:]PORT", action="append", help=(
        "listen on this port, too, as a SOCKS proxy (4A and 5) whose names are looked up at sproxy; repeatable"))
    parser.add(group, "-R", parse_forward, long="--remote", metavar="[ADDR:]PORT:HOST:PORT", action="append", help=(
        "have sproxy listen on this port (of its loopback addresses, unless ADDR or * is given; 0: a free one, which"
        " the log tells), and connect to HOST:PORT from here; repeatable; /PATH on either side (sproxy must"
        " --allow-listen it)"))
    parser.add(group, "--udp", parse_udp_forward, metavar="[ADDR:]PORT:HOST:PORT", action="append", help=(
        "take datagrams at this UDP port, and have sproxy send them to HOST:PORT and return the answers; those that"
        " wait too long or get lost are not sent again; repeatable (sproxy must --allow HOST:PORT)"))
    parser.add_choice(group, "--carrier", CARRIERS, (
        "auto (the default): reach sproxy over UDP where that passes, as a lost packet holds up nothing else there and"
        " a new address needs no new connection, else over TCP; with --stdio TCP comes first, which starts sooner;"
        " datagram: UDP alone; tcp: TCP alone, as always with --plaintext, --proxy, --via and --stay"))
    parser.add(group, "--proxy", parse_proxy, metavar="URL", help=(
        "reach sproxy through an HTTP proxy (CONNECT) or a SOCKS proxy: http://[USER[:PASSWORD]@]HOST:PORT or"
        " socks5h://..."))
    parser.add(group, "--via", parse_name, metavar="COMMAND", help=(
        "reach sproxy through standard input and output of this shell command, such as 'ssh -T host sproxy --attach';"
        " it has no terminal to ask for a password, unless:"))
    group.add_argument("--via-terminal", action="store_true", default=None, help=(
        "that command may use the terminal; with --stdio until there is a session"))
    group.add_argument("--eager", action="store_true", default=None, help=(
        "connect to sproxy at start, not when the first application connects"))
    parser.add(group, "--idle", parse_duration, metavar="TIME", help=(
        "keep the connection to sproxy this long after the last application has left (default"
        f" {_show(CproxyConfig.idle_us)})"))
    parser.add(group, "--idle-heartbeat", parse_duration, metavar="TIME", help=(
        "send heartbeats only this often while nothing moves, to spare a mobile radio; 25s is good (default as"
        " --heartbeat)"))
    parser.add(group, "--connect-timeout", parse_duration, metavar="TIME", help=(
        f"give up one attempt to connect after this long (default {_show(CproxyConfig.connect_timeout_us)})"))
    group.add_argument("--stay", action="store_true", default=None, help=(
        "keep a connection to sproxy that works when a better network appears, such as a cable beside Wi-Fi"))
    group.add_argument("--notify", action="store_true", default=None, help=(
        "desktop notifications (notify-send) when the server is away, and when it is back"))
    group = parser.add_argument_group("trust")
    parser.add(group, "--key", parse_name, metavar="FILE", help=(
        "our key (default client-key.pem in --state-dir, created if missing)"))
    parser.add(group, "--certificate", parse_name, metavar="FILE", help=(
        "a CA's certificate for our key (default client-key-cert.pub beside the key, if it is there)"))
    parser.add(group, "--known-hosts", parse_name, metavar="FILE", help=(
        "remember the keys of servers here (default known_hosts in --state-dir)"))
    parser.add(group, "--host-fingerprint", parse_fingerprint, metavar="SHA256:...", action="append", help=(
        "the server must have this key; repeatable; nothing is remembered then"))
    _add_common(parser, CproxyConfig, " and ".join(CproxyConfig.DEFAULT_BIND))
    return parser


def parse_cproxy(argv: list[str] | None) -> CproxyConfig:
    """The CproxyConfig of the command line `argv`, without the program's name."""
    parser = cproxy_parser()
    given, words = parser.split(argv)
    _refuse_together(given, "plaintext", ("key", "certificate", "known_hosts", "host_fingerprint"))
    _refuse_together(given, "stdio", (
        "plain", "bind", "eager", "idle", "keeper", "survive", "forward", "dynamic", "remote", "udp", "udp_idle"))
    _refuse_together(given, "plain", (
        "target", "forward", "dynamic", "remote", "udp", "udp_idle", "carrier", "proxy", "via", "via_terminal", "eager",
        "idle", "idle_heartbeat", "connect_timeout", "stay", "notify", "state_dir", "key", "certificate",
        "known_hosts", "host_fingerprint", *_SESSION_ONLY))
    _refuse_together(given, "via", ("proxy", "stay"))
    if given.get("carrier") == "datagram":
        _refuse_together(given, "carrier", ("plaintext", "proxy", "via", "stay"))
    if "via_terminal" in given and "via" not in given:
        raise UsageError("--via-terminal is for use with --via")
    forwards = any(name in given for name in ("forward", "dynamic", "remote", "udp"))
    words = split_host_port(words, 0 if "stdio" in given or (forwards and len(words) == 1) else 1)
    if "stdio" in given:
        given.setdefault("log_level", "warning")  # ssh's terminal is not the place to say that all is well
        if len(words) == 3 or (len(words) == 1 and "via" in given):
            raise UsageError(f"--stdio does not listen on a port: leave out {printable(words[0])}")
    has_port = "stdio" not in given and not (forwards and len(words) in (0, 2))
    listens = ("PORT",) if has_port else ()
    is_named = "via" not in given or len(words) > len(listens)  # HOST and PORT are given
    _expect_words(parser, words, (*listens, "HOST", "PORT") if is_named else listens)
    if listens:
        given["port"] = _word("PORT", words.pop(0), parse_listening_port)
    if is_named:
        given["sproxy_host"] = _word("HOST", words[0], parse_host)
        given["sproxy_port"] = _word("PORT", words[1], parse_port)
    else:
        given["sproxy_host"] = via_host(given.get("name") or given["via"])
    if "remote" in given:
        given["eager"] = True
    for option, name, most in (("-R", "remote", MAX_PLACES), ("--udp", "udp", MAX_ASSOCIATIONS)):
        if len(given.get(name, ())) > most:
            raise UsageError(f"{option} can be given {most} times; another cproxy --name can have more")
    return _configure(CproxyConfig, given)


def sproxy_parser() -> OneLineParser:
    """sproxy's options."""
    parser = OneLineParser("sproxy", _SPROXY_USAGE, _SPROXY_DESCRIPTION, _SPROXY_EXAMPLES)
    group = parser.add_argument_group("connection")
    group.add_argument("--attach", action="store_true", default=None, help=(
        "join standard input and output to the sproxy of this user that runs here (of several: the one that listens on"
        " PORT), as one more way to reach it; ends with them"))
    group.add_argument("--start", action="store_true", default=None, help=(
        "with --attach: join the sproxy for the daemon at HOST:PORT (default: this host's sshd) that an earlier --start"
        " has left running for this user, or start it; it ends after a day without sessions"))
    parser.add(group, "--workers", parse_workers, metavar="N|auto", help=(
        f"processes that share the sessions, to use so many cores; auto: one a core (default {SproxyConfig.workers})"))
    parser.add(group, "--node", parse_count, metavar="N", help=(
        "which of several sproxies with the same host key this is, 0 to 255, for a balancer in front of them: the first"
        f" byte of the routing tags that cproxies come back with (default {SproxyConfig.node})"))
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
        f" {_show(SproxyConfig.stdio_ttl_us)}, at most --session-ttl)"))
    parser.add(group, "--max-unfinished", parse_count, metavar="N", help=(
        "connections that have sent nothing yet, and as many more that have not completed the handshake (default"
        f" {_show(SproxyConfig.max_unfinished)})"))
    parser.add(group, "--memory-limit", parse_size, metavar="SIZE", help=(
        "bytes that the buffers of all sessions may hold together"
        f" (default {_show(SproxyConfig.memory_limit_bytes)})"))
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
        "keys, and certificates by serial or id, that count no more"))
    group.add_argument("--closed", action="store_true", default=None, help=(
        "as long as there is no authorized_keys, let nobody in"))
    group.add_argument("--trust-attached", action="store_true", default=None, help=(
        "let in every key that comes through --attach, and add it to authorized_keys"))
    parser.add(group, "--user", parse_name, metavar="USER", help=(
        "run as this user once the port is open and the keys are read; must be started as root"))
    _add_common(parser, SproxyConfig, "every address")
    return parser


def parse_sproxy(argv: list[str] | None) -> SproxyConfig:
    """The SproxyConfig of the command line `argv`, without the program's name."""
    parser = sproxy_parser()
    given, words = parser.split(argv)
    if given.pop("attach", None):
        raise UsageError("--attach takes no other option than --start, and at most a PORT (with --start: HOST:PORT)")
    if given.pop("start", None):
        raise UsageError("--start is for use with --attach")
    _refuse_together(given, "plain", (
        "single", "allow", "allow_listen", "source_per_key", "send_proxy", "stdio_ttl", "max_unfinished", "udp_idle",
        "memory_limit", "state_dir", "exit_idle", "udp", "node", "accept_proxy", "routed", "advertise",
        *_SPROXY_KEYS, *_SESSION_ONLY))
    if "advertise" in given and given.get("udp") is False:
        raise UsageError("--advertise and --no-udp cannot be used together")
    for one, other in (("routed", "accept_proxy"), ("authorized_keys_command_user", "authorized_keys_command")):
        if one in given and other not in given:
            raise UsageError(f"--{one.replace('_', '-')} is for use with --{other.replace('_', '-')}")
    _refuse_together(given, "plaintext", (*_SPROXY_KEYS, "source_per_key", "udp", "advertise"))
    if given.get("workers", 1) > 1:
        _refuse_together(given, "workers", ("plain",))
        if given.setdefault("keeper", True) is False:
            raise UsageError("--workers and --no-keeper cannot be used together")
    if len(words) == 3 and words[2].isdigit():
        words = [words[0], format_host_port(words[1].strip("[]"), words[2])]
    _expect_words(parser, words, ("PORT", "[HOST:PORT]"))
    given["port"] = _word("PORT", words[0], parse_listening_port)
    if len(words) > 1:
        given["daemon_host"], given["daemon_port"] = _word("daemon", words[1], parse_host_port)
    return _configure(SproxyConfig, given)


def parse_attach(argv: list[str] | None) -> int | None:
    """The port in the command line `sproxy --attach [PORT]`; None: there is none. The words of any other command line
    are those of `parse_sproxy`."""
    words = _attach_words(argv, ("--attach",))
    return _word("PORT", words[0], parse_port) if words else None


def parse_attach_start(argv: list[str] | None) -> tuple[str, int] | None:
    """The daemon in the command line `sproxy --attach --start [HOST:PORT]`; None: there is none."""
    words = _attach_words(argv, ("--attach", "--start"))
    return _word("HOST:PORT", words[0], parse_host_port) if words else None


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


def keeps_by_default() -> bool:
    """Whether there is a keeper unless the command line says otherwise: what a test of everything can choose."""
    return os.environ.get("MPROXY_KEEPER", "1") == "1"


CARRIERS = ("tcp", "datagram", "auto")

# Options without a meaning for a relay without sessions; ignoring one silently would hide a mistake.
_SESSION_ONLY = (
    "plaintext", "heartbeat", "misses", "session_ttl", "window", "session_budget", "max_streams", "max_sessions",
    "keeper")


# What is about keys: without encryption there are none.
_SPROXY_KEYS = ("host_key", "host_certificate", "authorized_keys", "authorized_keys_command", "revoked_keys", "closed",
                "trust_attached")


def _refuse_together(given: dict[str, Any], first: str, others: Iterable[str]) -> None:
    """Refuse an option next to `first`, which makes it meaningless."""
    for other in others:
        if first in given and given.get(other, False) is not False:  # --no-keeper is never out of place
            flags = [f"--{name.replace('_', '-')}" for name in (first, other)]
            raise UsageError(f"{flags[0]} and {flags[1]} cannot be used together")


def _expect_words(parser: OneLineParser, words: list[str], names: Sequence[str]) -> None:
    """Refuse too few or too many words; names in brackets are optional."""
    expected = f"expected {' '.join(names)}"
    needed = sum(not name.startswith("[") for name in names)
    if len(words) < needed:
        parser.error(f"missing argument: {names[len(words)]}; {expected}")
    if len(words) > len(names):
        parser.error(f"unexpected argument: {printable(words[len(names)])}; {expected}")


def _configure(config_class: type[Configuration], given: dict[str, Any]) -> Configuration:
    """A `config_class` of options by their command line names; it checks the ranges."""
    given.setdefault("keeper", keeps_by_default())
    given.setdefault("state_dir", default_state_dir())

    def take(settings: dict[str, Setting[Any]]) -> dict[str, Any]:
        by_option = {setting.option[2:].replace("-", "_"): name for name, setting in settings.items()}
        names = [name for name in given if name in by_option]
        return {by_option[name]: given.pop(name) for name in names}

    session = SessionConfig(**take(SessionConfig.settings()))
    values = {name: tuple(value) if isinstance(value, list) else value
              for name, value in take(config_class.settings()).items()}
    assert not given, given
    return config_class(session=session, **values)
