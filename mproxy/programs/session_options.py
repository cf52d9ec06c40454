"""What the command lines of cproxy and sproxy share. Defaults and ranges are those of `mproxy.ground.config`."""

from __future__ import annotations

from mproxy.ground.config import CproxyConfig, SessionConfig, Setting, SproxyConfig, default_state_dir
from mproxy.ground.words import parse_bind, parse_count, parse_duration, parse_name, parse_size
from mproxy.programs.options import keeps_by_default

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    from mproxy.programs.options import OneLineParser

    Configuration = TypeVar("Configuration", CproxyConfig, SproxyConfig)

UNITS = """\
TIME is a number with us, ms, s, m, h or d (1s, 1.5m; a bare number is seconds).
SIZE is a number with KiB, MiB, GiB, or kB, MB, GB for powers of 1000.
"""

# Options without a meaning for a relay without sessions; ignoring one silently would hide a mistake.
SESSION_ONLY = (
    "plaintext", "heartbeat", "misses", "session_ttl", "window", "session_budget", "max_streams", "max_sessions",
    "keeper")


def show_default(setting: Setting[Any]) -> str:
    """A setting's default as --help shows it; % has a meaning for argparse."""
    shown: str = setting.format(setting.default)
    return shown


def add_session_options(parser: OneLineParser, config_class: type[CproxyConfig] | type[SproxyConfig],
                default_bind: str) -> None:
    """Options that cproxy and sproxy share. Those not given stay None, and the configuration fills them in."""
    session = SessionConfig
    group = parser.add_argument_group("session")
    parser.add(group, "--heartbeat", parse_duration, metavar="TIME", help=(
        f"send a heartbeat this often (default {show_default(session.heartbeat_us)}; 10ms to 1h)"))
    parser.add(group, "--misses", parse_count, metavar="N", help=(
        f"unanswered heartbeats after which the connection counts as lost (default {show_default(session.misses)})"))
    parser.add(group, "--session-ttl", parse_duration, metavar="TIME", help=(
        f"keep a session that has no connection this long (default {show_default(session.session_ttl_us)})"))
    parser.add(group, "--window", parse_size, metavar="SIZE", help=(
        "bytes in flight in one direction of one stream; memory use grows up to this while the other side does not"
        f" read (default {show_default(session.window_bytes)}; 4KiB to 1GiB)"))
    parser.add(group, "--session-budget", parse_size, metavar="SIZE", help=(
        "the same for all streams of a session together, at least one window"
        f" (default {show_default(session.session_budget_bytes)})"))

    group = parser.add_argument_group("limits")
    parser.add(group, "--max-streams", parse_count, metavar="N", help=(
        f"connections relayed at once in one session (default {show_default(session.max_streams)})"))
    if hasattr(config_class, "max_sessions"):
        parser.add(group, "--max-sessions", parse_count, metavar="N", help=(
            f"sessions at once (default {show_default(config_class.max_sessions)})"))
    parser.add(group, "--udp-idle", parse_duration, metavar="TIME", help=(
        f"forget a flow of datagrams after this long without one (default {show_default(config_class.udp_idle_us)})"))
    parser.add(group, "--drain", parse_duration, metavar="TIME", help=(
        "after SIGTERM or SIGINT, deliver queued data for at most this long (default"
        f" {show_default(config_class.drain_us)})"))

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


def configure(config_class: type[Configuration], given: dict[str, Any]) -> Configuration:
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
