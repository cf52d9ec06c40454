"""`mproxy connect`: what ssh_config's ProxyCommand runs, so that ssh and all that uses it survive a change of address.

It is a `cproxy --stdio` to an sproxy that nobody has set up: ssh starts it on the host, and tells its port and its key
(mproxy.policy.host_dialer). What comes through the session is ssh again, to that host's sshd: so ssh's own checks, of
the host and of the user, are what they always were.
"""

from __future__ import annotations

import shlex

from mproxy.ground.config import LOG_LEVELS, CproxyConfig, SessionConfig, default_state_dir, format_host_port
from mproxy.ground.errors import UsageError
from mproxy.ground.words import parse_command, parse_duration, parse_host, parse_name, parse_port, via_host
from mproxy.programs.cproxy import make_program
from mproxy.programs.options import OneLineParser
from mproxy.service.exit import exit_status
from mproxy.service.run import run_program

PROGRAM = "mproxy connect"

# What ssh does here, whatever ssh_config says for other uses: one command, without a terminal, a forward or another
# connection. ProxyCommand comes last, because -J before it counts, and ssh refuses -J after it.
BARE = ("-T", "-a", "-x", "-o", "ClearAllForwardings=yes", "-o", "ControlMaster=no", "-o", "ControlPath=none",
        "-o", "RemoteCommand=none", "-o", "PermitLocalCommand=no", "-o", "ProxyCommand=none", "-o", "LogLevel=ERROR")

# Where sproxy may be on the other host although ssh does not look there.
MORE_PATH = "$PATH:$HOME/.local/bin:/usr/local/bin"


def main(argv: list[str]) -> int:
    """`mproxy connect`; the exit status."""
    return exit_status(PROGRAM, _run, argv)


def _run(argv: list[str]) -> int:
    config = parse(argv)
    return run_program("cproxy", lambda _argv: config, make_program, argv)


def parse(argv: list[str]) -> CproxyConfig:
    """The CproxyConfig of a command line."""
    parser = OneLineParser(
        PROGRAM, f"{PROGRAM} [options] [USER@]HOST[:PORT] [NAME]",
        "Connect standard input and output to sshd on HOST by a session that survives\n"
        "outages and changes of address: for ssh_config's ProxyCommand. What is needed on\n"
        "HOST is mproxy, installed; ssh starts it there.\n\n"
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
    parser.add_choice(parser, "--log-level", LOG_LEVELS, "debug, info, warning or error (default warning)")
    parser.add(parser, "--state-dir", parse_name, metavar="DIR", help=(
        "directory for our key and what is known of hosts (default $XDG_STATE_HOME/mproxy or ~/.local/state/mproxy;"
        " root: /var/lib/mproxy)"))
    parser.add_last(parser, "mproxy")
    given, words = parser.split(argv)
    if not 1 <= len(words) <= 2:
        parser.error("expected [USER@]HOST[:PORT] and at most a NAME" if words else "missing argument: HOST")
    user, host, port = parse_destination(words[0])
    session = SessionConfig(**{f"{name}_us": given.pop(name) for name in ("heartbeat",) if name in given})
    ssh, sproxy = given.pop("ssh"), given.pop("remote_sproxy")
    given.setdefault("log_level", "warning")
    given.setdefault("state_dir", default_state_dir())
    name = f"{f'{user}@' if user else ''}{format_host_port(host, port)}"
    return CproxyConfig(
        session=session, stdio=True, keeper=False, name=name, sproxy_host=via_host(f"ssh:{name}"), direct=host,
        via=bootstrap(ssh, user, words[1] if len(words) > 1 else host, port, sproxy), via_terminal=True, **given)


def parse_destination(text: str) -> tuple[str, str, int]:
    """(user, host, port) of [USER@]HOST[:PORT]; an IPv6 address may be as ssh writes it for %h:%p, without brackets."""
    user, _, place = text.rpartition("@")
    host, colon, port = place.rpartition(":")
    if not colon or place.endswith("]"):
        host, port = place, "22"
    try:
        return user, parse_host(host), parse_port(port)
    except UsageError as error:
        raise UsageError(f"{text}: {error}; expected [USER@]HOST[:PORT]") from None


def bootstrap(ssh: list[str], user: str, name: str, port: int, sproxy: str) -> str:
    """The shell command that joins the sproxy there, or starts it. ssh_config has its say under the host's `name`."""
    if user.startswith("-") or name.startswith("-"):
        raise UsageError("neither user nor host may begin with a hyphen")
    there = shlex.join(["sh", "-c", f'PATH="{MORE_PATH}"; exec {sproxy} --attach --start'])
    login = ["-l", user] if user else []
    return f"exec {shlex.join([*ssh, *BARE, '-p', str(port), *login, '--', name, f'exec {there}'])}"
