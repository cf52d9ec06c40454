"""`mproxy connect`: what ssh_config's ProxyCommand runs, so that ssh and all that uses it survive a change of address.

It is a `cproxy --stdio` to an sproxy that nobody has set up: ssh starts it on the host, and tells its port and its key
(mproxy.policy.host_dialer). What comes through the session is ssh again, to that host's sshd: so ssh's own checks, of
the host and of the user, are what they always were.
"""

from __future__ import annotations

import os
import socket

from mproxy.ground.config import LOG_LEVELS, CproxyConfig, SessionConfig, default_state_dir, format_host_port
from mproxy.ground.errors import MproxyError, UsageError
from mproxy.ground.words import parse_command, parse_duration, parse_host, parse_name, parse_port, printable, via_host
from mproxy.io.stdio import check_stdio
from mproxy.policy.host_record import HostRecord
from mproxy.policy.via_start import forget_early, owns_terminal, start_early, take_over_early
from mproxy.programs.next_ssh import standby_name
from mproxy.programs.own_command import is_plain, shell_words
from mproxy.programs.standby_guest import use_standby
from mproxy.service.exit import exit_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROGRAM = "mproxy connect"

# After the end of ssh.
IDLE_US = 600_000_000

# In the environment of the ssh that starts sproxy: whoever is called by it has nothing to do but connect to sshd.
BOOTSTRAP = "MPROXY_BOOTSTRAP"

# What that ssh does, whatever ssh_config says for other uses: one command, without a terminal, a forward or another
# connection. How HOST is reached is ssh_config's.
BARE = ("-T", "-a", "-x", "-o", "ClearAllForwardings=yes", "-o", "ControlMaster=no", "-o", "ControlPath=none",
        "-o", "RemoteCommand=none", "-o", "PermitLocalCommand=no", "-o", "LogLevel=ERROR")

# Where sproxy may be on the other host although ssh does not look there.
MORE_PATH = "$PATH:$HOME/.local/bin:/usr/local/bin"


def bare_environment() -> dict[str, str]:
    """That of an ssh which does not go through an sproxy there, whatever ssh_config says: there may be none yet, or it
    may be what is to be changed."""
    return {**os.environ, BOOTSTRAP: "1"}


def main(argv: list[str]) -> int:
    """`mproxy connect`; the exit status."""
    return exit_status(PROGRAM, _run, argv)


def _run(argv: list[str]) -> int:
    if BOOTSTRAP in os.environ:
        return relay(argv)
    if argv and use_standby(standby_name(argv)):
        return 0
    config = parse(argv)
    check_stdio([0, 1])
    via = config.via or ""
    if not take_over_early(via) and HostRecord(config.state_dir, config.name or "").is_reached_by_ssh:
        start_early(via, owns_terminal())  # what follows takes a while, in which it can log in
    from mproxy.programs.cproxy import make_program
    from mproxy.service.run import run_program
    try:
        return run_program("cproxy", lambda _argv: config, make_program, argv)
    finally:
        forget_early()


def relay(argv: list[str]) -> int:
    """Be no more than a connection to sshd: ssh_config calls us for the ssh that starts sproxy, too."""
    from mproxy.programs.attach import splice
    _given, (_user, host, port), _name = read(argv)
    try:
        connection = socket.create_connection((host, port))
    except OSError as error:
        raise MproxyError(f"cannot connect to {host} port {port}: {error.strerror or error}") from None
    with connection:
        splice(connection)
    return 0


def parse(argv: list[str]) -> CproxyConfig:
    """The CproxyConfig of a command line."""
    given, (user, host, port), name = read(argv)
    session = SessionConfig(**{f"{name}_us": given.pop(name) for name in ("heartbeat",) if name in given})
    ssh, sproxy = given.pop("ssh"), given.pop("remote_sproxy")
    given["hushed"] = "log_level" not in given
    given.setdefault("log_level", "warning")
    state_dir = given.pop("state_dir", None) or default_state_dir()
    given["state_dir"] = state_dir and os.path.abspath(state_dir)  # we may leave this directory
    given["idle_us"] = given.pop("idle", IDLE_US)
    login = f"{user}@" if user else ""
    place = f"{login}{format_host_port(host, port)}"
    return CproxyConfig(
        session=session, stdio=True, keeper=False, name=place, sproxy_host=via_host(f"ssh:{place}"), direct=host,
        via=bootstrap(ssh, user, name, port, sproxy), via_terminal=True, standby=standby_name(argv),
        ssh_name=f"{login}{name if port == 22 else format_host_port(name, port)}", **given)


def read(argv: list[str]) -> tuple[dict[str, Any], tuple[str, str, int], str]:
    """The options of a command line, its destination, and what ssh_config calls that."""
    given, words = split_plain(argv) or split(argv)
    destination = parse_destination(words[0])
    return given, destination, words[1] if len(words) > 1 else destination[1]


def split_plain(argv: list[str]) -> tuple[dict[str, Any], list[str]] | None:
    """(options, words) of a command line as `mproxy ssh` and ssh_config have it most often, since every ssh waits for
    this, and a parser takes 10 ms; None: it is another one."""
    given: dict[str, Any] = {"ssh": ["ssh"], "remote_sproxy": "sproxy"}
    if argv[:1] == ["--ssh"] and len(argv) > 1 and argv[1].split() and is_plain(argv[1].replace(" ", "")):
        given["ssh"], argv = argv[1].split(), argv[2:]
    if not 1 <= len(argv) <= 2 or any(word.startswith("-") for word in argv):
        return None
    return given, argv


def split(argv: list[str]) -> tuple[dict[str, Any], list[str]]:
    """(options, words) of any command line."""
    from mproxy.programs.options import OneLineParser
    parser = OneLineParser(
        PROGRAM, f"{PROGRAM} [options] [USER@]HOST[:PORT] [NAME]",
        "Connect standard input and output to sshd on HOST by a session that survives\n"
        "outages and changes of address: for ssh_config's ProxyCommand. HOST needs mproxy\n"
        "installed; ssh starts it there.\n\n"
        "  HOST:PORT       where sshd listens (default port 22)\n"
        "  NAME            what ssh_config calls HOST, if it has settings for that name",
        "TIME is a number with us, ms, s, m, h or d (1s, 1.5m; a bare number is seconds).\n\n"
        "example, in ~/.ssh/config; 'mproxy setup-ssh work' writes it:\n"
        "  Host work\n"
        "      ProxyCommand mproxy connect %r@%h:%p %n")
    parser.add(parser, "--ssh", parse_command, metavar="COMMAND", default=["ssh"], help=(
        "the ssh command with any options, such as 'ssh -J gate' (default ssh)"))
    parser.add(parser, "--remote-sproxy", parse_name, metavar="COMMAND", default="sproxy", help=(
        "sproxy on HOST (default: sproxy on the PATH there, or in ~/.local/bin or /usr/local/bin)"))
    parser.add(parser, "--heartbeat", parse_duration, metavar="TIME", help=(
        "send a heartbeat this often (default 1s)"))
    parser.add(parser, "--idle", parse_duration, metavar="TIME", help=(
        "how long the session is kept when ssh has ended, for the next one with the same command line, which then"
        " waits for nothing (default 10m, 0: not at all)"))
    parser.add_choice(parser, "--log-level", LOG_LEVELS, (
        "debug, info, warning or error (default warning until there is a session, then error)"))
    parser.add(parser, "--state-dir", parse_name, metavar="DIR", help=(
        "directory for our key and what is known of hosts (default $XDG_STATE_HOME/mproxy or ~/.local/state/mproxy;"
        " root: /var/lib/mproxy)"))
    parser.add_last(parser, "mproxy")
    given, words = parser.split(argv)
    if not 1 <= len(words) <= 2:
        parser.error("expected [USER@]HOST[:PORT] and at most a NAME" if words else "missing argument: HOST")
    return given, words


def parse_destination(text: str) -> tuple[str, str, int]:
    """(user, host, port) of [USER@]HOST[:PORT]; an IPv6 address may be as ssh writes it for %h:%p, without brackets."""
    user, _, place = text.rpartition("@")
    host, colon, port = place.rpartition(":")
    if not colon or place.endswith("]"):
        host, port = place, "22"
    try:
        return user, parse_host(host), parse_port(port)
    except UsageError as error:
        raise UsageError(f"{printable(text)}: {error}; expected [USER@]HOST[:PORT]") from None


def bootstrap(ssh: list[str], user: str, name: str, port: int, sproxy: str) -> str:
    """The shell command that joins the sproxy there, or starts it. ssh_config has its say under the host's `name`."""
    if user.startswith("-") or name.startswith("-"):
        raise UsageError("neither user nor host may begin with a hyphen")
    look = "command -v sproxy >/dev/null || exit 127; " if sproxy == "sproxy" else ""  # without the shell's own words
    there = shell_words(["sh", "-c", f'PATH="{MORE_PATH}"; {look}exec {sproxy} --attach --start'])
    words = [*ssh, *BARE, "-p", str(port), *(["-l", user] if user else []), "--", name, f"exec {there}"]
    return f"export {BOOTSTRAP}=1; exec {shell_words(words)}"
