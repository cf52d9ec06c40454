"""A TOML file statement by statement, so that every value has its line, and one mistake does not hide the next.

`tomllib` tells of the first mistake alone, and not where a value comes from. But each statement can be parsed by
itself: it ends with the first line that makes it complete.
"""

from __future__ import annotations

import re
import tomllib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Path = tuple[str, ...]

# What a statement looks like: a mistake in the one before it ends there.
BEGINS = re.compile(r"""\s*(\[+[\w.\s"'-]+\]+\s*(#.*)?$|[\w.\s"'-]+=)""")

HEADER = "expected [PROGRAM.NAME], such as [cproxy.office]"
VALUE = "expected OPTION = VALUE, with text in quotes"


class Statement:
    """A header (`key` is empty), or a value: where it is, and what it says."""

    __slots__ = ("key", "line", "table", "value")

    def __init__(self, line: int, table: Path, key: Path = (), value: Any = None) -> None:
        self.line = line
        self.table = table  # of its header, or of the one above it
        self.key = key
        self.value = value


def read_statements(text: str) -> tuple[list[Statement], list[tuple[int, str]]]:
    """The statements of a file, and its mistakes: [(line, what is wrong and what is expected), ...]."""
    found: list[Statement] = []
    wrong: list[tuple[int, str]] = []
    table: Path | None = ()  # None: of a header that cannot be read
    for line, is_header, parsed in _split(text):
        if isinstance(parsed, str):
            wrong.append((line, f"{parsed}; {HEADER if is_header else VALUE}"))
            table = None if is_header else table
        elif is_header:
            table, value = next(_leaves((), parsed))
            if value == {}:
                found.append(Statement(line, table))
            else:
                wrong.append((line, f"double brackets; {HEADER}"))
                table = None
        elif table is not None:
            found += [Statement(line, table, key, value) for key, value in _leaves((), parsed)]
    return found, wrong


def _split(text: str) -> Iterator[tuple[int, bool, dict[str, Any] | str]]:
    """(line, whether it is a header, the statement's value or what is wrong) of each."""
    lines = text.split("\n")
    is_valid = not isinstance(_parse(text), str)
    at = 0
    while at < len(lines):
        begin, at = at, at + 1
        first_character = lines[begin].lstrip()[:1]
        if first_character in ("", "#"):
            continue
        parsed = first = _parse(lines[begin])
        while isinstance(parsed, str) and at < len(lines) and (is_valid or not BEGINS.match(lines[at])):
            at += 1
            parsed = _parse("\n".join(lines[begin:at]))
        yield begin + 1, first_character == "[", first if isinstance(parsed, str) else parsed


def _parse(text: str) -> dict[str, Any] | str:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        what = str(error).partition(" (at ")[0]
        return f"{what[:1].lower()}{what[1:]}"


def _leaves(path: Path, value: dict[str, Any]) -> Iterator[tuple[Path, Any]]:
    """(path, value) of all that is no table with something in it."""
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from _leaves((*path, key), inner)
        else:
            yield (*path, key), inner
