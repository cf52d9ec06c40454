"""`mproxy config`: checks, shows and explains config.toml, where entries say what is always on."""

from __future__ import annotations

import os
import shlex

from mproxy.ground.errors import UsageError
from mproxy.ground.words import printable
from mproxy.programs.entries import read_entries, usual_files
from mproxy.programs.options import OneLineParser
from mproxy.programs.status_text import clean
from mproxy.programs.up_down import add_config
from mproxy.service.exit import exit_status

PROGRAM = "mproxy config"

EXAMPLE = """\
# What is always on: ~/.config/mproxy/config.toml, or for all users /etc/mproxy/config.toml.
#
# An entry is [PROGRAM.NAME]; PROGRAM is cproxy, sproxy, relay or recv. Its options are those of the command line
# without the dashes; arguments is the rest of the command line. Files are looked for beside this one.
#
#   mproxy config check            what is wrong here
#   mproxy up office               starts this one; mproxy up: all of them
#   mproxy service install office  has systemd start it, now and always

[cproxy.office]
arguments = "5200 server.example:6200"
forward = ["8080:intranet:80", "5432:database:5432"]
dynamic = 1080
eager = true

# [sproxy.ssh]
# arguments = "6200 127.0.0.1:22"
# source-per-key = true
# allow = ["intranet:80", "database:5432"]

# [relay.web]
# arguments = "8080 192.168.0.2:80 max=500"

# [recv.inbox]
# arguments = 7000
# key = "secret"
# output = "incoming/"
"""


def main(argv: list[str]) -> int:
    """`mproxy config`; the exit status: 2 when something is wrong."""
    return exit_status(PROGRAM, _run, argv)


def _run(argv: list[str]) -> int:
    parser = OneLineParser(
        PROGRAM, f"{PROGRAM} check|show [--config FILE]\n       {PROGRAM} example",
        "Check ~/.config/mproxy/config.toml and /etc/mproxy/config.toml, whose entries\n"
        "'mproxy up' starts.\n\n"
        "  check           name every mistake: its file, its line, what was expected\n"
        "  show            the command line that each entry becomes\n"
        "  example         print a file to begin with",
        "examples:\n"
        "  mproxy config example > ~/.config/mproxy/config.toml\n"
        "  mproxy config check")
    add_config(parser)
    parser.add_help_options()
    parser.add_hidden_words()
    given, words = parser.split(argv)
    commands = {"check": _check, "show": _show}
    if words == ["example"]:
        print(EXAMPLE, end="")
        return 0
    if len(words) != 1 or words[0] not in commands:
        raise UsageError(f"expected check, show or example{f', not {printable(words[0])}' if words else ''}"
                         f" (try '{PROGRAM} --help')")
    files = [given["config"]] if "config" in given else usual_files()
    present = [path for path in files if os.path.exists(path)]
    if not present:
        raise UsageError(f"there is no {' and no '.join(files)}; 'mproxy config example' shows what goes there")
    commands[words[0]](present)
    return 0


def _check(files: list[str]) -> None:
    entries = read_entries(files)
    for path in files:
        count = sum(entry.path == path for entry in entries.values())
        print(clean(f"{path}: {'1 entry' if count == 1 else f'{count} entries'}, all right"))


def _show(files: list[str]) -> None:
    for entry in read_entries(files).values():
        print(clean(f"{entry.name}: {shlex.join(entry.command_line())}"))
