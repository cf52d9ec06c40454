"""Command lines: words in, checked values out.

A mistake in a command line raises a UsageError with one line that says what is wrong and what to do; programs pass it
to `complain` and exit with 2. `--help` and `--version` print and raise SystemExit(0). The options of cproxy and sproxy
are in `cproxy_options` and `sproxy_options`, what both have in `session_options`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence

from mproxy import __version__
from mproxy.ground.config import LOG_FORMATS, LOG_LEVELS, LogConfig
from mproxy.ground.errors import UsageError
from mproxy.ground.words import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn, TypeVar

    Value = TypeVar("Value")


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
        group.add_argument(*names, type=lambda text: word_of(option, text, parse), help=help, **keywords)

    def add_word(self, name: str, parse: Callable[[str], object], help: str, **keywords: Any) -> None:
        """A positional argument, required unless `nargs` says otherwise; an attribute `name` of the result of
        `parse_args`."""
        shown = keywords.get("metavar", name)
        self.add_argument(name, type=lambda text: word_of(shown, text, parse), help=help, **keywords)

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
        expect_words(self, words, [name for name, _ in expected])
        return [word_of(name, word, parse) for word, (name, parse) in zip(words, expected, strict=True)]


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


def word_of(name: str, text: str, parse: Callable[[str], Value]) -> Value:
    """`parse(text)`, with name and text in front of its complaint."""
    try:
        return parse(text)
    except UsageError as error:
        raise UsageError(f"{name} {printable(text)}: {error}") from None


def refuse_together(given: dict[str, Any], first: str, others: Iterable[str]) -> None:
    """Refuse an option next to `first`, which makes it meaningless."""
    for other in others:
        if first in given and given.get(other, False) is not False:  # --no-keeper is never out of place
            flags = [f"--{name.replace('_', '-')}" for name in (first, other)]
            raise UsageError(f"{flags[0]} and {flags[1]} cannot be used together")


def expect_words(parser: OneLineParser, words: list[str], names: Sequence[str]) -> None:
    """Refuse too few or too many words; names in brackets are optional."""
    expected = f"expected {' '.join(names)}"
    needed = sum(not name.startswith("[") for name in names)
    if len(words) < needed:
        parser.error(f"missing argument: {names[len(words)]}; {expected}")
    if len(words) > len(names):
        parser.error(f"unexpected argument: {printable(words[len(names)])}; {expected}")


def keeps_by_default() -> bool:
    """Whether there is a keeper unless the command line says otherwise: what a test of everything can choose."""
    return os.environ.get("MPROXY_KEEPER", "1") == "1"
