"""Checks of JSON values: what fits and what does not, at every limit."""

import itertools
import json

import pytest

from mproxy.ground._checks import (
    ANY_NUMBER,
    COUNT,
    END,
    NUMBER,
    TEXT,
    WHOLE,
    list_of,
    named,
    object_of,
    or_null,
)

MOST = 2 ** 63
VALUES = [None, True, False, "", "7", "\ud800", [], {}, ["::1", 80], {"a": 1}, 0, 1, -1, MOST - 1, MOST, 1 - MOST,
          -MOST, -MOST - 1, 10 ** 400, 0.0, -0.0, 0.5, -0.5, 1e300, -1e300, float(MOST), -float(MOST), float("inf"),
          float("-inf"), float("nan")]
FITS = {
    "text": (TEXT, lambda value: type(value) is str),
    "count": (COUNT, lambda value: type(value) is int and 0 <= value < MOST),
    "whole": (WHOLE, lambda value: type(value) is int and -MOST < value < MOST),
    "number": (NUMBER, lambda value: type(value) in (int, float) and 0 <= value < MOST),
    "any number": (ANY_NUMBER, lambda value: type(value) in (int, float) and -MOST < value < MOST),
    "end": (END, lambda value: value == ["::1", 80]),
}


@pytest.mark.parametrize(("check", "fits"), FITS.values(), ids=FITS)
def test_plain_values(check, fits):
    for value in VALUES:
        assert check(value) is fits(value), value
        assert or_null(check)(value) is (value is None or fits(value)), value
        assert list_of(check)([value]) is named(check)({"x": value}) is fits(value), value
        assert not list_of(check)(value) or value == []
        assert not named(check)(value) or value in ({}, {"a": 1})


@pytest.mark.parametrize("end", [[], ["a"], ["a", 1, 2], ["a", -1], ["a", 65536], ["a", 10 ** 30], ["a", "1"], [1, 1],
                                 ["a", True], ["a", 1.0], ("a", 1), None], ids=str)
def test_no_address(end):
    assert not END(end)
    assert END(["a", 0]) and END(["", 65535])


def test_objects():
    """Goal: every mixture of fields that are right, wrong and not there."""
    check = object_of({"a": COUNT, "b": TEXT}, {"c": object_of({"d": NUMBER})}, never=("e",))
    choices = {"a": [1, -1], "b": ["x", None], "c": [{"d": 1}, {}], "e": [1, 1], "f": [[], {}]}
    for chosen in itertools.product(*([None, (True, right), (False, wrong)] for right, wrong in choices.values())):
        fields = {name: choice for name, choice in zip(choices, chosen, strict=True) if choice}
        sound = all(fields[name][0] for name in fields.keys() - "f")
        fits = {"a", "b"} <= fields.keys() and "e" not in fields and sound
        assert check(json.loads(json.dumps({name: value for name, (_, value) in fields.items()}))) is fits, fields
    assert not check([]) and not check(None)


def test_what_is_no_check_is_a_mistake_at_once():
    for wrong in (lambda: object_of({"a": int}), lambda: list_of(None), lambda: or_null(str), lambda: named(7)):
        with pytest.raises(TypeError):
            wrong()
