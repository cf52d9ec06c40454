"""The command line of cproxy: words in, a checked CproxyConfig out."""

from __future__ import annotations

from mproxy._wire import MAX_ASSOCIATIONS, MAX_PLACES
from mproxy.ground.config import CproxyConfig
from mproxy.ground.errors import UsageError
from mproxy.ground.forwarding import parse_forward, parse_spot, parse_target, parse_udp_forward
from mproxy.ground.words import (
    parse_duration,
    parse_fingerprint,
    parse_host,
    parse_listening_port,
    parse_name,
    parse_port,
    parse_proxy,
    printable,
    split_host_port,
    via_host,
)
from mproxy.programs.options import OneLineParser, expect_words, refuse_together, word_of
from mproxy.programs.session_options import SESSION_ONLY, UNITS, add_session_options, configure, show_default

CARRIERS = ("tcp", "datagram", "auto")

USAGE = """cproxy [options] PORT HOST PORT
       cproxy [options] -L PORT:HOST:PORT -R PORT:HOST:PORT -D PORT HOST PORT
       cproxy [options] --stdio HOST PORT
       cproxy [options] --via COMMAND PORT
       cproxy [options] --via COMMAND --stdio"""

DESCRIPTION = """\
Relay TCP connections to sproxy, and keep them alive while the network is gone
or this host's address changes.

  PORT            listen here for applications; 0 takes any free port
  HOST PORT       where sproxy listens: a name or address, and its port;
                  HOST:PORT means the same. With --via they are not needed, and
                  only say by which name known_hosts knows that sproxy"""

EXAMPLES = UNITS + """
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


def cproxy_parser() -> OneLineParser:
    """cproxy's options."""
    parser = OneLineParser("cproxy", USAGE, DESCRIPTION, EXAMPLES)
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
        f" {show_default(CproxyConfig.idle_us)})"))
    parser.add(group, "--idle-heartbeat", parse_duration, metavar="TIME", help=(
        "send heartbeats only this often while nothing moves, to spare a mobile radio; 25s is good (default as"
        " --heartbeat)"))
    parser.add(group, "--connect-timeout", parse_duration, metavar="TIME", help=(
        f"give up one attempt to connect after this long (default {show_default(CproxyConfig.connect_timeout_us)})"))
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
    add_session_options(parser, CproxyConfig, " and ".join(CproxyConfig.DEFAULT_BIND))
    return parser


def parse_cproxy(argv: list[str] | None) -> CproxyConfig:
    """The CproxyConfig of the command line `argv`, without the program's name."""
    parser = cproxy_parser()
    given, words = parser.split(argv)
    refuse_together(given, "plaintext", ("key", "certificate", "known_hosts", "host_fingerprint"))
    refuse_together(given, "stdio", (
        "plain", "bind", "eager", "idle", "keeper", "survive", "forward", "dynamic", "remote", "udp", "udp_idle"))
    refuse_together(given, "plain", (
        "target", "forward", "dynamic", "remote", "udp", "udp_idle", "carrier", "proxy", "via", "via_terminal", "eager",
        "idle", "idle_heartbeat", "connect_timeout", "stay", "notify", "state_dir", "key", "certificate",
        "known_hosts", "host_fingerprint", *SESSION_ONLY))
    refuse_together(given, "via", ("proxy", "stay"))
    if given.get("carrier") == "datagram":
        refuse_together(given, "carrier", ("plaintext", "proxy", "via", "stay"))
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
    expect_words(parser, words, (*listens, "HOST", "PORT") if is_named else listens)
    if listens:
        given["port"] = word_of("PORT", words.pop(0), parse_listening_port)
    if is_named:
        given["sproxy_host"] = word_of("HOST", words[0], parse_host)
        given["sproxy_port"] = word_of("PORT", words[1], parse_port)
    else:
        given["sproxy_host"] = via_host(given.get("name") or given["via"])
    if "remote" in given:
        given["eager"] = True
    for option, name, most in (("-R", "remote", MAX_PLACES), ("--udp", "udp", MAX_ASSOCIATIONS)):
        if len(given.get(name, ())) > most:
            raise UsageError(f"{option} can be given {most} times; another cproxy --name can have more")
    return configure(CproxyConfig, given)
