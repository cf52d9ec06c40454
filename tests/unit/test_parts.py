"""A pipe's blocks come in parts: however they are cut, the hash is that of the whole."""

import random

import pytest

from mproxy.transfer.parts import Parts
from mproxy.transfer.tree import LEAF_BYTES, block_count, leaf, root


def cut(data, chance, room):
    """The next part of `data`, of random length."""
    return data[:min(len(data), room, chance.choice((1, 1000, 70_000, LEAF_BYTES)))]


@pytest.mark.parametrize("size", [0, 1, LEAF_BYTES - 1, LEAF_BYTES, LEAF_BYTES + 1, 2 * LEAF_BYTES, 2_500_000])
def test_parts_of_any_length_make_the_same_blocks(size):
    chance = random.Random(size)
    data = chance.randbytes(size)
    ours, theirs, digests, arrived, left = Parts(), Parts(), {}, bytearray(size), data
    while not ours.ended:
        part = cut(left, chance, ours.room)
        left = left[len(part):]
        number, digest = ours.make(part, not part)
        at = theirs.add(number, part, digest)
        arrived[at:at + len(part)] = part
        digests[number] = digest
    count = block_count(size)
    whole = [leaf(data[at * LEAF_BYTES:(at + 1) * LEAF_BYTES], at, at == count - 1) for at in range(count)]
    assert [digests[number] for number in sorted(digests)] == whole
    assert root(b"".join(digests.values())) == root(b"".join(whole))
    assert arrived == data
    assert theirs.ended


def test_what_is_damaged_or_out_of_order_is_not_taken():
    assert Parts().add(0, b"x", leaf(b"y", 0, False)) is None
    assert Parts().add(1, b"x", leaf(b"x", 1, False)) is None, "the block before has not come"
    parts = Parts()
    assert parts.add(0, b"x", leaf(b"x", 0, False)) == 0
    assert parts.add(1, b"x", leaf(b"x", 1, False)) is None, "the block before is not full"
    parts = Parts()
    full = bytes(LEAF_BYTES)
    assert parts.add(0, full, leaf(full, 0, False)) == 0
    assert parts.add(0, b"x", leaf(full + b"x", 0, False)) is None, "too long"
    parts = Parts()
    assert parts.add(0, b"x", leaf(b"x", 0, False)) == 0
    assert parts.add(0, b"", leaf(b"x", 0, False)) is None, "without data, and not the end"
    parts = Parts()
    assert parts.add(0, b"x", leaf(b"x", 0, True)) == 0
    assert parts.add(0, b"y", leaf(b"xy", 0, True)) is None, "it has ended"
