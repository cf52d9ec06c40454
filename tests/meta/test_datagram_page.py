"""docs/datagram.md and the engine say the same: numbers, states, layout."""

import re

import pytest
from tests.drivers._datagram import pack_header

from mproxy.transport import _states
from mproxy.transport._packet import ControlType, EndCode, PacketFlag, PacketType
from tests.meta.sources import ROOT

PAGE = (ROOT / "docs" / "datagram.md").read_text()
ROW = re.compile(r"\|\s*([A-Z][A-Z_]*)\s*\|\s*(0x[0-9a-f]+|\d+)\s*\|")
ARROW = re.compile(r"^    (\w+) --> (\w+): (\w+)$", re.MULTILINE)


def tables():
    """Every table of the page with rows of names and numbers, as {name: number}."""
    table = {}
    for line in [*PAGE.split("\n"), ""]:
        if row := ROW.match(line):
            table[row[1]] = int(row[2], 0)
        elif not line.startswith("|") and table:
            yield table
            table = {}


@pytest.mark.parametrize("kind", [PacketType, PacketFlag, ControlType, EndCode], ids=lambda kind: kind.__name__)
def test_page_has_the_numbers(kind):
    assert {name: int(member) for name, member in kind.__members__.items()} in list(tables())


def test_diagram_is_the_table_of_states():
    table = [(before.name, after.name, cause.name) for before, cause, after in _states.TRANSITIONS]
    assert ARROW.findall(PAGE) == table


def test_every_state_and_cause_is_reached():
    reached = {after for _before, _cause, after in _states.TRANSITIONS} | {_states.ConnectionState.NEW}
    assert reached == set(_states.ConnectionState)
    assert {cause for _before, cause, _after in _states.TRANSITIONS} == set(_states.ConnectionCause)


def test_page_has_the_layout_of_the_header():
    header = pack_header(1, 2, 3, 4, 5, 6)
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\w+)", PAGE, re.MULTILINE)
    fields = [(int(at), int(size), name) for at, size, name in rows if int(at) < len(header)]
    assert [(name, int.from_bytes(header[at:at + size], "big")) for at, size, name in fields] == [
        ("type", 1), ("flags", 2), ("bytes", 3), ("destination", 4), ("number", 5), ("offset", 6)]
