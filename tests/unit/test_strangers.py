"""The table of peers that have dialled but not proved anything yet."""

import random

from mproxy.transport.strangers import Strangers


def full_of(source, most=8):
    table = Strangers(most, random.Random(1))
    for number in range(most):
        assert table.add(number, source) is None
    return table


def test_a_flood_from_one_source_pushes_out_its_own():
    table = full_of(b"flood")
    assert table.add(100, b"honest") in range(8)
    victims = {table.add(number, b"flood") for number in range(200, 1200)}
    assert 100 not in victims
    assert len(table) == 8


def test_shares_become_even():
    table = full_of(b"a")
    held = dict.fromkeys(range(8), b"a")
    for number in range(8, 400):
        source = (b"b", b"c", b"d")[number % 3]
        held[number] = source
        held.pop(table.add(number, source))
    counts = [list(held.values()).count(source) for source in (b"a", b"b", b"c", b"d")]
    assert sum(counts) == 8
    assert min(counts) >= 1
    assert max(counts) <= 3


def test_the_one_that_is_over_goes_first_otherwise_any():
    table = full_of(b"a")
    table.end(5)
    assert table.add(100, b"a") == 5
    assert len({table.add(number, b"a") for number in range(200, 300)}) > 4


def test_who_is_gone_or_no_stranger_leaves_room():
    table = full_of(b"a")
    table.remove(3)
    table.remove(3)
    table.end(3)
    assert table.add(100, b"b") is None
    assert table.add(101, b"b") is not None
