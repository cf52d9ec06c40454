"""Entries of config.toml: what is always on, by name. An entry becomes a command line of the program that it is for.

    [cproxy.office]
    arguments = "5200 server:6200"
    eager = true
    forward = ["8080:intranet:80"]

Which options there are, and what their values mean, only the programs' own parsers know; so whatever can be said on the
command line can be said here. `arguments` is what stands there without an option.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import re

from mproxy.ground.errors import MproxyError, UsageError
from mproxy.ground.words import parse_name, printable
from mproxy.programs.toml_statements import HEADER, VALUE, read_statements

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any

    from mproxy.programs.options import OneLineParser
    from mproxy.programs.toml_statements import Statement

SYSTEM_FILE = "/etc/mproxy/config.toml"

# program: (module, the function that makes its parser, the function that parses a command line).
KINDS = {
    "cproxy": ("mproxy.programs.cproxy_options", "cproxy_parser", "parse_cproxy"),
    "sproxy": ("mproxy.programs.sproxy_options", "sproxy_parser", "parse_sproxy"),
    "relay": ("mproxy.programs.relay_options", "relay_parser", "parse_relay"),
    "recv": ("mproxy.programs.recv_options", "recv_parser", "parse_recv"),
}

ARGUMENTS = "arguments"

# Options without a meaning for what runs in the background, or that are said in another way.
NOT_HERE = {
    "name": "leave it out: the entry is called as its table is",
    "stdio": "leave it out: there is no standard input in the background",
    "via-terminal": "leave it out: there is no terminal in the background",
    "attach": "leave it out: it is for a command that a client runs",
    "start": "leave it out: it is for a command that a client runs",
    "daemon": "leave it out: 'mproxy up' has it run in the background",
    **dict.fromkeys(("help", "help-all", "version"), "not an option of an entry"),
}

PATHS = ("FILE", "DIR", "FILE|DIR", "FILE|DIR|-")

NAME = re.compile(r"[A-Za-z0-9][\w-]*", re.ASCII)
OPTION = re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*")


class EntriesError(UsageError):
    """Something is wrong with files of entries: (file, line, what is wrong and what is expected) of each mistake."""

    def __init__(self, wrong: list[tuple[str, int, str]]) -> None:
        self.wrong = sorted(wrong, key=lambda each: each[:2])
        super().__init__("; ".join(self.lines()))

    def lines(self) -> list[str]:
        return [f"{path}:{line}: {text}" for path, line, text in self.wrong]


class Entry:
    """One entry, as it is written."""

    def __init__(self, path: str, line: int, program: str, name: str) -> None:
        self.path = path
        self.line = line
        self.program = program
        self.name = name
        self.given: dict[str, Statement] = {}  # by option
        self.is_damaged = False  # not all of it could be read

    def words(self) -> list[str]:
        """Its words on the program's command line; EntriesError for anything that is wrong."""
        parts, wrong = _Reading(self).parts()
        if wrong:
            raise EntriesError([(self.path, line, text) for line, text in wrong])
        return _joined(self.name, parts)

    def command_line(self) -> list[str]:
        """The whole of it, as it is typed."""
        start = [self.program] if self.program in ("cproxy", "sproxy") else ["mproxy", self.program]
        return [*start, *self.words()]

    def parse(self) -> Any:
        """What the program makes of them: its configuration."""
        return _parse(self.program, self.words())

    def has(self, option: str) -> bool:
        """Whether it says anything about that option."""
        return option in self.given

    def takes(self, option: str) -> bool:
        """Whether its program has that option."""
        return _Reading(self).takes(option)


# ---- files

def own_file(environ: Mapping[str, str] = os.environ) -> str | None:
    """The user's own file (XDG base directory specification); None if the environment names no place."""
    if environ.get("XDG_CONFIG_HOME", "").startswith("/"):
        return os.path.join(environ["XDG_CONFIG_HOME"], "mproxy", "config.toml")
    if environ.get("HOME", "").startswith("/"):
        return os.path.join(environ["HOME"], ".config", "mproxy", "config.toml")
    return None


def usual_files() -> list[str]:
    """The user's own file and the system's."""
    return [path for path in (own_file(), SYSTEM_FILE) if path]


def read_entries(paths: Iterable[str], is_checked: bool = True) -> dict[str, Entry]:
    """{name: Entry} of files; those that do not exist have none, and of two with one name the first counts.

    EntriesError with all that is wrong in all of them; unless `is_checked` only what can be read is wanted.
    """
    entries: dict[str, Entry] = {}
    wrong: list[tuple[str, int, str]] = []
    for path in paths:
        found, mistakes = _read(path)
        if is_checked:
            mistakes += [mistake for entry in found.values() for mistake in _Reading(entry).mistakes()]
        wrong += [(path, line, text) for line, text in mistakes]
        entries = found | entries
    if wrong and is_checked:
        raise EntriesError(wrong)
    return entries


def _read(path: str) -> tuple[dict[str, Entry], list[tuple[int, str]]]:
    """The entries of a file and their mistakes; what they say is not looked at yet."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
    except FileNotFoundError:
        return {}, []
    except OSError as error:
        raise UsageError(f"cannot read {printable(path)}: {error.strerror}") from None
    except UnicodeDecodeError:
        return {}, [(1, "not UTF-8 text; expected TOML")]
    statements, wrong = read_statements(text)
    entries: dict[str, Entry] = {}
    refused = set()  # tables of which no more is said
    for each in statements:
        if each.table in refused:
            continue
        try:
            _take(path, each, entries)
        except UsageError as error:
            wrong.append((each.line, str(error)))
            if not each.key:
                refused.add(each.table)
    for line, _text in wrong:
        above = [entry for entry in entries.values() if entry.line <= line]
        if above:
            max(above, key=lambda entry: entry.line).is_damaged = True
    return entries, wrong


def _take(path: str, statement: Statement, entries: dict[str, Entry]) -> None:
    """Add a statement to its entry, which begins with its header; UsageError."""
    parts = (*statement.table, *statement.key)
    shown = printable(".".join(parts))
    if not statement.key:
        if len(parts) != 2:
            raise UsageError(f"[{shown}]: not an entry; {HEADER}")
        _open(path, statement.line, *parts, entries)
    elif len(parts) != 3:
        raise UsageError(f"{shown}: not an option of an entry; {VALUE}, below [PROGRAM.NAME]")
    else:
        program, name, option = parts
        entry = entries.get(name)
        if entry is None or entry.program != program:
            entry = _open(path, statement.line, program, name, entries)
        if option in entry.given:
            raise UsageError(f"{option}: given in line {entry.given[option].line}, too; expected once")
        entry.given[option] = statement


def _open(path: str, line: int, program: str, name: str, entries: dict[str, Entry]) -> Entry:
    """A new entry; UsageError."""
    if program not in KINDS:
        raise UsageError(f"not a program: {printable(program)}; expected cproxy, sproxy, relay or recv")
    if not NAME.fullmatch(name) or name.isdigit() or name in KINDS or name == "send":
        raise UsageError(f"not a name for an entry: {printable(name)}; expected letters, digits, - and _")
    if name in entries:
        raise UsageError(f"the name {name} is taken by line {entries[name].line}; expected another one")
    entries[name] = Entry(path, line, program, name)
    return entries[name]


# ---- entries

class _Reading:
    """What the program's parser says of an entry."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        module, make_parser, _parse = KINDS[entry.program]
        parser: OneLineParser = getattr(importlib.import_module(module), make_parser)()
        actions = [action for action in parser._actions if action.option_strings]
        self._options = {_long(action): action for action in actions}
        self._option_of = {string: _long(action) for action in actions for string in action.option_strings}

    def takes(self, option: str) -> bool:
        """Whether the program has that option."""
        return option in self._options

    def parts(self) -> tuple[dict[str, list[str]], list[tuple[int, str]]]:
        """{option: its words}, and what is wrong with values by themselves."""
        parts: dict[str, list[str]] = {}
        wrong = []
        for option, statement in self._entry.given.items():
            try:
                if option == ARGUMENTS:
                    parts[option] = _arguments(statement.value)
                else:
                    parts[option] = self._words(option, statement.value)
            except UsageError as error:
                wrong.append((statement.line, f"{option}: {error}"))
        return parts, wrong

    def mistakes(self) -> Iterator[tuple[int, str]]:
        """(line, text) of all that is wrong: what the program complains of is left out, and it is asked again."""
        entry = self._entry
        parts, wrong = self.parts()
        yield from wrong
        if entry.program == "recv" and not entry.has("output") and not entry.is_damaged:
            yield entry.line, "where do files go? expected output = DIRECTORY"
        gone = entry.given.keys() - parts.keys()
        while (text := _complaint(entry.program, _joined(entry.name, parts))) is not None:
            named = [self._option_of[string] for string in OPTION.findall(text) if string in self._option_of]
            culprit = next((option for option in named if option in parts), None)
            if culprit is not None:
                yield entry.given[culprit].line, text.removeprefix("--")
                del parts[culprit]
                gone.add(culprit)
                continue
            if not gone & {*named, ARGUMENTS} and not entry.is_damaged:
                yield entry.given[ARGUMENTS].line if entry.has(ARGUMENTS) else entry.line, text
            return

    def _words(self, option: str, value: Any) -> list[str]:
        """The words for an option's value; UsageError."""
        if option in NOT_HERE:
            raise UsageError(NOT_HERE[option])
        action = self._options.get(option)
        if action is None:
            close = difflib.get_close_matches(option, [*(self._options.keys() - NOT_HERE.keys()), ARGUMENTS], n=1)
            rest = f"expected {close[0]}?" if close else f"see {' '.join(self._program_words)} --help-all"
            raise UsageError(f"not an option of {self._entry.program}; {rest}")
        if action.nargs == 0:
            if not isinstance(value, bool):
                raise UsageError(f"not a switch: {_show(value)}; expected true or false")
            switch = f"--{option}" if value else f"--no-{option}"
            return [switch] if switch in self._option_of else []
        if isinstance(value, list) and not isinstance(action, argparse._AppendAction):
            raise UsageError(f"takes one value; expected {action.metavar}")
        words = []
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, bool) or not isinstance(each, str | int | float):
                raise UsageError(f"not a value: {_show(each)}; expected {action.metavar}")
            word = self._absolute(str(each)) if action.metavar in PATHS else str(each)
            words += [f"--{option}={word}"] if word.startswith("-") else [f"--{option}", word]
        return words

    @property
    def _program_words(self) -> list[str]:
        program = self._entry.program
        return [program] if program in ("cproxy", "sproxy") else ["mproxy", program]

    def _absolute(self, path: str) -> str:
        """A path as seen from the directory of the file; what runs in the background is in no directory of its own."""
        if path == "-":
            raise UsageError("there is no standard output in the background; expected FILE or DIR")
        if parse_name(path).startswith("~"):
            return os.path.expanduser(path)
        return os.path.join(os.path.dirname(os.path.abspath(self._entry.path)), path)


def _long(action: argparse.Action) -> str:
    return action.option_strings[-1].lstrip("-")


def _arguments(value: Any) -> list[str]:
    """What stands on the command line without an option."""
    values = value.split() if isinstance(value, str) else value if isinstance(value, list) else [value]
    if not all(isinstance(each, str | int) and not isinstance(each, bool) for each in values):
        raise UsageError(f"not words: {_show(value)}; expected text, or a list of texts and numbers")
    words = [str(each) for each in values]
    options = [word for word in words if word.startswith("-")]
    if options:
        raise UsageError(f"{printable(options[0])} is an option; expected on a line of its own, as OPTION = VALUE")
    return words


def _joined(name: str, parts: Mapping[str, list[str]]) -> list[str]:
    options = [word for option, words in parts.items() if option != ARGUMENTS for word in words]
    return ["--name", name, *options, *parts.get(ARGUMENTS, ())]


def _parse(program: str, words: list[str]) -> Any:
    module, _make_parser, parse = KINDS[program]
    parse_words: Callable[[list[str]], Any] = getattr(importlib.import_module(module), parse)
    parsed = parse_words(words)
    if program != "relay":
        return parsed
    _command, config = parsed
    if config.file is not None:
        from mproxy.relay.rule_file import read_rules
        try:
            read_rules(config.file)
        except UsageError as error:
            raise UsageError(f"--config: {error}") from None
    return config


def _complaint(program: str, words: list[str]) -> str | None:
    """What the program would say about its command line; None: nothing."""
    try:
        _parse(program, words)
    except MproxyError as error:
        return str(error)
    return None


def _show(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else printable(str(value))
