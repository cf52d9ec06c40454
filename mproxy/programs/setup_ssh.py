"""`mproxy setup-ssh`: has ssh, and all that uses it, reach some hosts by `mproxy connect`, by a block in ~/.ssh/config.

The block is the first thing in the file, because of several values ssh takes the first. It ends with `Match all`, so
that what follows is no part of its last host. It does not count for the ssh that starts sproxy, which has to reach the
host as the rest of the file says: by a ProxyJump, perhaps.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import sys

from mproxy.ground.errors import MproxyError, UsageError
from mproxy.ground.private_directory import make_private_directories
from mproxy.ground.words import printable
from mproxy.programs.connect import BOOTSTRAP
from mproxy.programs.options import OneLineParser
from mproxy.programs.own_command import own_command
from mproxy.service.exit import complain, exit_status

PROGRAM = "mproxy setup-ssh"

BEGIN, END = "# mproxy setup-ssh: begin", "# mproxy setup-ssh: end"
BLOCK = re.compile(rf"^{BEGIN}\n(.*?)^{END}\n\n?", re.MULTILINE | re.DOTALL)
HOSTS = re.compile(r"^(?:Host (.+)|Match originalhost (\S+) .*)$", re.MULTILINE)

# A pattern of ssh_config, for one or several hosts.
PATTERN = re.compile(r"!?[\w.*?:@%+-]+")


def main(argv: list[str]) -> int:
    """`mproxy setup-ssh`; the exit status: 1 when the change was not wanted."""
    return exit_status(PROGRAM, _run, argv)


def _run(argv: list[str]) -> int:
    parser = OneLineParser(
        PROGRAM, f"{PROGRAM} [options] HOST...",
        "Have ssh, scp, sftp, rsync, git and editors reach these hosts by 'mproxy\n"
        "connect', so that their connections survive: a block in ~/.ssh/config. The\n"
        "change is shown before it is made.\n\n"
        "  HOST            a name or pattern, as in ssh_config's Host lines",
        "examples:\n"
        "  mproxy setup-ssh server '*.work'\n"
        "  mproxy setup-ssh --undo server")
    parser.add_argument("--undo", action="store_true", default=False, help=(
        "take these hosts out again; without HOST: all of them"))
    parser.add_argument("--yes", action="store_true", default=False, help="do not ask")
    parser.add_argument("--config", metavar="FILE", default="~/.ssh/config", help=(
        "another file than ~/.ssh/config"))
    parser.add_help_options()
    parser.add_hidden_words()
    given, hosts = parser.split(argv)
    for host in hosts:
        if not PATTERN.fullmatch(host):
            raise UsageError(f"HOST {printable(host)}: not a name or pattern of ssh_config")
    if not hosts and not given["undo"]:
        raise UsageError(f"missing argument: HOST (try '{PROGRAM} --help')")
    path = os.path.realpath(os.path.expanduser(given["config"]))
    before = read(path)
    after = change(before, hosts, own_command(), undo=given["undo"])
    if after == before:
        complain(PROGRAM, f"nothing to change in {path}")
        return 0
    show(before, after, path)
    if not given["yes"] and not is_wanted():
        complain(PROGRAM, "nothing was changed")
        return 1
    write(path, after)
    complain(PROGRAM, f"{path} was changed" + ("" if given["undo"] else f"; to undo it: {PROGRAM} --undo"))
    return 0


def change(text: str, hosts: list[str], mproxy: list[str], undo: bool) -> str:
    """The file with these hosts in its block, or without them."""
    found = BLOCK.search(text)
    present = found[1] if found else ""
    match = HOSTS.search(present)
    listed = re.split("[ ,]+", match[1] or match[2]) if match else []
    rest = BLOCK.sub("", text, count=1)
    wanted = list(dict.fromkeys([*listed, *hosts]))
    if undo:
        wanted = [host for host in listed if hosts and host not in hosts]
    if not wanted:
        return rest
    command = shlex.join(mproxy).replace("%", "%%")
    # printenv(1) means the same to every shell that somebody may have.
    return (f'{BEGIN}\nMatch originalhost {",".join(wanted)} !exec "printenv {BOOTSTRAP}"\n'
            f"    ProxyCommand {command} connect %r@%h:%p %n\nMatch all\n{END}\n{chr(10) if rest else ''}{rest}")


def read(path: str) -> str:
    """The file's text; empty if there is none."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise MproxyError(f"cannot read {path}: {error.strerror}") from None


def show(before: str, after: str, path: str) -> None:
    """The change, as diff(1) shows it."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), path, path, lineterm="", n=1)
    for line in lines:
        print(line.encode("utf-8", "backslashreplace").decode())
    sys.stdout.flush()


def is_wanted() -> bool:
    """Ask; UsageError where nobody can answer."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask whether to make this change: add --yes")
    try:
        return input("Make this change? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def write(path: str, text: str) -> None:
    """Put the new file in the old one's place at once, with its mode; others see either."""
    temporary = f"{path}.{os.getpid()}"
    try:
        make_private_directories(os.path.dirname(path))
        mode = os.stat(path).st_mode & 0o777 if os.path.exists(path) else 0o600
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        with open(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            os.fsync(fd)
        os.replace(temporary, path)
    except OSError as error:
        raise MproxyError(f"cannot write {path}: {error.strerror}") from None
