"""docs/protocol.md and mproxy._wire name the same numbers.

The page has one table for each enum, with rows `| NAME | number | ... |`; backquotes and 0x are allowed.
"""

import enum
import re

import pytest

from mproxy import _wire
from tests.meta.sources import ROOT

PAGE = ROOT / "docs" / "protocol.md"
ROW = re.compile(r"\|\s*`?([A-Z][A-Z0-9_]*)`?\s*\|\s*`?(0x[0-9A-Fa-f]+|\d+)`?\s*\|")
ENUMS = [kind for kind in vars(_wire).values() if isinstance(kind, type) and issubclass(kind, enum.Enum)]
ENUM_NAMES = ["CloseCode", "FrameFlag", "FrameType", "HelloFeature", "PreambleFlag", "ResetCode",
              "WelcomeFeature"]


def tables():
    """Every table of the page with rows of names and numbers, as (line of its first row, {name: number})."""
    table, start = {}, 0
    for number, line in enumerate([*PAGE.read_text().split("\n"), ""], 1):
        if row := ROW.match(line):
            start = start or number
            assert row[1] not in table, f"protocol.md:{number}: {row[1]} twice in one table"
            table[row[1]] = int(row[2], 0)
        elif not line.startswith("|"):
            if table:
                yield start, table
            table, start = {}, 0


def members(kind):
    return {name: int(member) for name, member in kind.__members__.items()}


def test_the_enums_are_known():
    """A new enum of the protocol needs a table on the page, and its name in this test."""
    assert sorted(kind.__name__ for kind in ENUMS) == ENUM_NAMES


@pytest.mark.parametrize("kind", ENUMS, ids=lambda kind: kind.__name__)
def test_page_has_the_table(kind):
    expected = members(kind)
    start, table = max(tables(), key=lambda found: len(found[1].items() & expected.items()), default=(0, {}))
    wrong = [f"{name}: {table.get(name, 'missing')} in protocol.md, {expected.get(name, 'missing')} in mproxy._wire"
             for name in sorted(table.keys() | expected.keys()) if table.get(name) != expected.get(name)]
    assert not wrong, f"{kind.__name__} and the table at protocol.md:{start}:\n" + "\n".join(wrong)


def test_every_other_number_on_the_page_is_right():
    """Sizes and limits need no table, but where the page has one, its numbers must be those of the code."""
    of_enums = [members(kind) for kind in ENUMS]
    wrong = [f"protocol.md:{start}: {name} is {getattr(_wire, name, 'no name')} in mproxy._wire, not {number}"
             for start, table in tables() if not any(table.items() & known.items() for known in of_enums)
             for name, number in table.items() if getattr(_wire, name, None) != number]
    assert not wrong, "\n".join(wrong)
