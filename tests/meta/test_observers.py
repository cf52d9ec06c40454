"""Observers have a base class in the room that calls them. It shows what they may be told, and mypy checks them."""

import ast
import re

import pytest

from tests.meta.sources import PACKAGE, source_files

CALL = re.compile(r"\bobserver\.(on_\w+)")
BY_NAME = re.compile(r"\btell\w*\(\s*\"on_|getattr\(self\.\w*observer")

# Rooms whose events have a base class.
ROOMS = ["endpoint", "policy"]


def methods(room):
    """Names of the methods of every class in `room` that is called something Observer."""
    for path in source_files(".py", under=PACKAGE / room):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and node.name.endswith("Observer"):
                yield from (item.name for item in node.body if isinstance(item, ast.FunctionDef))


@pytest.mark.parametrize("room", ROOMS)
def test_what_is_called_stands_in_a_base_class_and_nothing_else(room):
    texts = [path.read_text() for path in source_files(".py", ".pyx", under=PACKAGE / room)]
    called = {name for text in texts for name in CALL.findall(text)}
    assert called == {name for name in methods(room) if name.startswith("on_")}


@pytest.mark.parametrize("room", ROOMS)
def test_no_event_is_told_by_a_string(room):
    sources = source_files(".py", ".pyx", under=PACKAGE / room)
    wrong = [path.name for path in sources if BY_NAME.search(path.read_text())]
    assert not wrong
