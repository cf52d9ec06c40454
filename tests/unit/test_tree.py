"""The hash of a file: the vectorised code computes what hashlib does, by the BLAKE2 specification."""

import hashlib
import random

import pytest

from mproxy.transfer import tree
from mproxy.transfer._hash import four_leaves, is_fast, small_root

BLOCK = random.Random(6).randbytes(tree.LEAF_BYTES)


def node(data, depth, offset, is_last):
    """One node, as docs/datagram.md defines it."""
    return hashlib.blake2b(data, digest_size=32, fanout=0, depth=3, leaf_size=262144, node_offset=offset,
                           node_depth=depth, inner_size=32, last_node=is_last).digest()


@pytest.mark.parametrize("number", [0, 1, 2**30, 2**32 + 5])
@pytest.mark.parametrize("is_last", [False, True])
def test_block(number, is_last):
    """A whole block: four leaves and a node over them."""
    leaves = b"".join(node(BLOCK[i * 262144:(i + 1) * 262144], 0, number * 4 + i, is_last and i == 3) for i in range(4))
    assert tree.slow_leaves(BLOCK, number, is_last) == leaves
    assert tree.leaf(bytearray(BLOCK), number, is_last) == node(leaves, 1, number, is_last)


@pytest.mark.parametrize("size, leaves", [(0, 1), (1, 1), (262144, 1), (262145, 2), (1048575, 4)])
def test_short_block(size, leaves):
    """The last block of a file has as many leaves as it fills, and one if it is empty."""
    digests = b"".join(node(BLOCK[:size][i * 262144:(i + 1) * 262144], 0, 12 + i, i == leaves - 1)
                       for i in range(leaves))
    assert tree.leaf(BLOCK[:size], 3, True) == node(digests, 1, 3, True)


def test_root():
    """The digests of all blocks, in order."""
    assert tree.root(b"a" * 64) == node(b"a" * 64, 2, 0, True)


@pytest.mark.parametrize("quarter", [128, 256, 4096])
def test_lanes_are_apart(quarter):
    """Every parameter reaches every lane, and short leaves end at the right byte."""
    data = BLOCK[:4 * quarter]
    expected = [hashlib.blake2b(data[i * quarter:(i + 1) * quarter], digest_size=20, fanout=2, depth=5, leaf_size=77,
                                node_offset=9 + i, node_depth=3, inner_size=64, last_node=i == 3).digest()
                for i in range(4)]
    if is_fast:
        assert four_leaves(data, (20, 2, 5, 77, 3, 64), 9, True) == b"".join(expected)
    else:  # this processor has no AVX2: hashlib does it all
        with pytest.raises(ValueError, match="AVX2"):
            four_leaves(data, (20, 2, 5, 77, 3, 64), 9, True)


def test_lanes_of_every_length():
    """The same as hashlib's for up to 80 compressions, with different bytes in each lane."""
    if not is_fast:
        return  # this processor has no AVX2: hashlib does it all, and the test below looks at that
    for quarter in range(128, 80 * 128 + 1, 128):
        data = BLOCK[quarter:5 * quarter]
        for is_last in (False, True):
            expected = b"".join(node(data[i * quarter:(i + 1) * quarter], 0, 4 + i, is_last and i == 3)
                                for i in range(4))
            assert four_leaves(data, (32, 0, 3, 262144, 0, 32), 4, is_last) == expected, quarter


BORDERS = [length for quarter in range(5) for around in range(-130, 131)
           if 0 <= (length := quarter * tree.QUARTER_BYTES + around) <= tree.LEAF_BYTES]


@pytest.mark.parametrize("offset", range(10))
def test_blocks_of_every_length_around_every_border(offset):
    """From empty to whole, each byte of difference around the ends of leaves and of the 128 bytes hashed at once."""
    for length in BORDERS[offset::10]:
        leaves = max(1, -(-length // tree.QUARTER_BYTES))
        data = memoryview(BLOCK)[:length]
        for is_last in (False, True):
            digests = b"".join(
                node(data[i * 262144:min((i + 1) * 262144, length)], 0, 28 + i, is_last and i == leaves - 1)
                for i in range(leaves))
            assert tree.leaf(data, 7, is_last) == node(digests, 1, 7, is_last), length


def test_bad_sizes():
    """Sizes that do not consist of four whole quarters are refused."""
    for size in (0, 128, 513, 640):
        with pytest.raises(ValueError, match="quarters"):
            four_leaves(bytes(size), (32, 0, 3, 262144, 0, 32), 0, False)


@pytest.mark.parametrize("size", [0, 1, 111, 127, 128, 129, 255, 256, 257, 1000, 4096, 4097, 16384, 262143, 262144])
def test_the_root_of_a_small_file_is_made_in_one_go(size):
    data = BLOCK[:size]
    assert small_root(data) == tree.root(tree.leaf(data, 0, True))
    assert small_root(bytearray(data)) == small_root(memoryview(data))


def test_a_small_file_has_one_leaf():
    with pytest.raises(ValueError, match="more than a leaf"):
        small_root(bytes(262145))
