"""The command line of `mproxy copy`."""

from __future__ import annotations

from mproxy.ground.config import LOG_LEVELS, LogConfig, Setting
from mproxy.ground.errors import UsageError
from mproxy.ground.words import parse_command, parse_name, parse_port
from mproxy.programs.copy_places import parse_place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from mproxy.programs.copy_places import RemotePlace

PROGRAM = "mproxy copy"

_USAGE = """mproxy copy [options] FILE... [USER@]HOST:PATH
       mproxy copy [options] [USER@]HOST:FILE... PATH"""

_DESCRIPTION = """\
Copy files and directories to another host, or from there, as scp does. The
other end is started by ssh, with a key for this copy alone; the data go over
UDP, or through ssh where UDP does not get through. HOST needs mproxy
installed. Copied again after an interruption, it continues where it
stopped.

A directory that exists, or a PATH with a slash at its end, takes what is copied
under its own name; another PATH is the name of the one thing that is copied."""

_EPILOG = """\
exit status: 0 everything arrived, 2 wrong command line, 3 no space, 4 no
permission, 5 already exists (--no-clobber), 6 no answer, 8 partial: everything
arrived but what was named (left out, unreadable, or changed meanwhile), 130
interrupted, 1 any other failure.

TIME is a number with us, ms, s, m, h or d (1s, 1.5m; a bare number is seconds).

examples:
  mproxy copy movie.mkv photos/ ann@server:incoming/
  mproxy copy -P 2222 'server:logs/*.gz' .
  mproxy copy --links --exclude .git/ project server:backup/
"""

# What goes to the end that sends, and to the one that receives.
SENDERS = ("links", "rules", "update", "limit", "xattrs", "delta", "compress", "delete")
RECEIVERS = ("perms", "force", "xattrs", "delete")


class CopyConfig(LogConfig):
    """What is copied, and how."""

    remote: Setting[RemotePlace] = Setting(None)  # type: ignore[arg-type]  # no default: always given
    pushes = Setting(True)  # from here to there
    paths: Setting[tuple[str, ...]] = Setting(())  # of the sources, wherever they are
    target = Setting("")  # a path, wherever it is
    ssh: Setting[tuple[str, ...]] = Setting(("ssh",))
    remote_mproxy: Setting[str | None] = Setting(None)
    datagram: Setting[dict[str, Any]] = Setting({})
    options: Setting[dict[str, Any]] = Setting({})  # of the transfer, by their names in TransferConfig
    bind: Setting[str | None] = Setting(None)
    dry_run = Setting(False)
    yes = Setting(False)
    json = Setting(False)
    quiet = Setting(False)

    def for_one(self, names: Sequence[str]) -> dict[str, Any]:
        """The options of these names that were given."""
        return {name: self.options[name] for name in names if name in self.options}


# The options of most calls, with what becomes of their values; None: there is none.
_PLAIN: dict[str, tuple[str, Callable[[str], Any] | None]] = {
    "--quiet": ("quiet", None), "--ssh": ("ssh", parse_command), "--remote-mproxy": ("remote_mproxy", parse_name),
    "-P": ("P", parse_port), "-r": ("habit", None), "-p": ("habit", None)}


def parse_copy(argv: list[str] | None) -> CopyConfig:
    """The CopyConfig of the command line `argv`."""
    given, words = (argv and split_plain(argv)) or split(argv)
    given["force"] = given.get("force", True)
    datagram = given.pop("datagram", {})
    options = {name: given.pop(name) for name in {*SENDERS, *RECEIVERS} if name in given}
    ssh = given.pop("ssh", ["ssh"])
    if "P" in given:
        ssh = [*ssh, "-p", str(given.pop("P"))]
    given.pop("habit", None)
    given.setdefault("log_level", "warning")
    return CopyConfig(datagram=datagram, options=options, ssh=tuple(ssh), **given, **_find_ends(words))


def split_plain(argv: list[str]) -> tuple[dict[str, Any], list[str]] | None:
    """(options, words) of a command line with nothing unusual, since ssh waits for this, and a parser takes 20 ms;
    None: it is another one, or there is something wrong with it."""
    given: dict[str, Any] = {"rules": ()}
    words = list(argv)
    while words and words[0].startswith("-"):
        name, parse = _PLAIN.get(words.pop(0), ("", None))
        if not name:
            return None
        given[name] = True
        if parse is not None:
            try:
                given[name] = parse(words.pop(0))
            except (IndexError, UsageError):
                return None
    return (given, words) if len(words) >= 2 and not any(word.startswith("-") for word in words) else None


def split(argv: list[str] | None) -> tuple[dict[str, Any], list[str]]:
    """The same of any command line."""
    from mproxy.programs.deleting import check_deletion
    from mproxy.programs.options import OneLineParser
    from mproxy.programs.transfer import add_path_options, add_source_options, take_datagram, take_rules
    parser = OneLineParser(PROGRAM, _USAGE, _DESCRIPTION, _EPILOG)
    group = parser.add_argument_group("files")
    add_source_options(parser, group, "")
    group.add_argument("--perms", action="store_true", default=None, help=(
        "keep modes whatever the umask of the receiving side (never set-user-ID and the like)"))
    group.add_argument("--no-clobber", action="store_false", dest="force", default=None, help=(
        "leave files alone that exist and are different: status 5 (default: they are replaced)"))
    group.add_argument("-r", "-p", action="store_true", dest="habit", default=None, help=(
        "accepted, as scp has them: directories are copied with what is in them, times and modes kept, anyway"))
    group = parser.add_argument_group("connection")
    parser.add(group, "--ssh", parse_command, metavar="COMMAND", help=(
        "the ssh command with any options, such as 'ssh -J gate' (default ssh)"))
    parser.add(group, "-P", parse_port, metavar="PORT", help="the port of sshd, as scp has it")
    parser.add(group, "--remote-mproxy", parse_name, metavar="COMMAND", help=(
        "mproxy on HOST (default: mproxy on the PATH there, or in ~/.local/bin or /usr/local/bin)"))
    group.add_argument("--other-end", action="store_true", default=None, help=(
        "what ssh runs on HOST, as its only option; not for people"))
    add_path_options(parser, group)
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", default=None, help="print one JSON object per file")
    group.add_argument("--quiet", action="store_true", default=None, help="no progress bar")
    parser.add_choice(group, "--log-level", LOG_LEVELS, "debug, info, warning or error (default warning)")
    parser.add_log_format(group)
    parser.add_last(group, "mproxy")
    given, words = parser.split(argv)
    if given.pop("other_end", None):
        raise UsageError("--other-end is given alone, by the mproxy copy of another host")
    if len(words) < 2:
        parser.error(f"missing argument: {('FILE', 'PATH')[len(words)]}; expected FILE... [USER@]HOST:PATH, or"
                     " [USER@]HOST:FILE... PATH")
    take_rules(given)
    check_deletion(given, words)
    if "compress" in given:  # either side needs what reads and what writes it
        from mproxy.transfer import zstd
        zstd.load()
    given["datagram"] = take_datagram(given)
    return given, words


def _find_ends(words: Sequence[str]) -> dict[str, Any]:
    """Which side is which: settings of the CopyConfig."""
    *sources, target = words
    places = [parse_place(source) for source in sources]
    there = parse_place(target)
    if there is not None:
        if any(places):
            raise UsageError(f"one side has to be this host: copy {sources[[*map(bool, places)].index(True)]} here, or"
                             " run mproxy copy on one of the hosts")
        if sources.count("-") > 1:
            raise UsageError("'-' (standard input) can be given only once")
        return {"remote": there, "pushes": True, "paths": tuple(sources), "target": there.path}
    remote = [place for place in places if place is not None]
    if not remote:
        raise UsageError("neither side is another host: write HOST:PATH for what is there (cp copies on this one)")
    if len(remote) < len(places):
        here = sources[[*map(bool, places)].index(False)]
        raise UsageError(f"{here} is on this host, other sources are on {remote[0]}: copy them one after the other")
    if len({place.login for place in remote}) > 1:
        raise UsageError(f"{remote[0]} and {next(place for place in remote if place.login != remote[0].login)} are two"
                         " hosts: copy from one after the other")
    return {"remote": remote[0], "pushes": False, "paths": tuple(place.path for place in remote), "target": target}
