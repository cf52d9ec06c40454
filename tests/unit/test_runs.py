"""Trains of packets: which packets are joined, and which must never be."""

import random

import pytest
from tests.drivers._relay import plan

PACKET = 1400


def one(length):
    """A message that is one packet."""
    return length, length


@pytest.mark.parametrize("messages, runs", [
    ([one(100)], [(1, 0, False)]),
    ([one(100), one(100), one(100)], [(3, 100, False)]),
    ([one(100), one(100), one(40)], [(3, 100, False)]),
    ([one(100), one(40), one(100)], [(2, 100, False), (1, 0, False)]),
    ([one(40), one(100)], [(1, 0, False), (1, 0, False)]),
    ([one(0)], [(1, 0, False)]),
    ([one(0), one(0)], [(1, 0, False), (1, 0, False)]),
    ([one(100), one(0), one(100)], [(1, 0, False), (1, 0, False), (1, 0, False)]),
    ([(PACKET * 10, PACKET)], [(1, PACKET, False)]),
    ([(PACKET * 10, PACKET), (PACKET * 5, PACKET)], [(2, PACKET, False)]),
    ([(PACKET * 10 + 1, PACKET), one(PACKET)], [(1, PACKET, False), (1, 0, False)]),
    ([(PACKET * 2, PACKET), (PACKET + 7, PACKET), one(PACKET)], [(2, PACKET, False), (1, 0, False)]),
    ([(PACKET * 2, PACKET), one(7), one(7)], [(2, PACKET, False), (1, 0, False)]),
    ([one(PACKET), (14, 7)], [(1, 0, False), (1, 7, False)]),
    ([one(7), (PACKET * 2, PACKET)], [(1, 0, False), (1, PACKET, False)]),
    ([one(65507), one(65507)], [(1, 0, False), (1, 0, False)]),
])
def test_what_is_joined(messages, runs):
    assert plan(messages) == runs


def test_a_train_has_at_most_64_packets():
    assert plan([one(20)] * 130) == [(64, 20, False), (64, 20, False), (2, 20, False)]


def test_a_train_fits_into_one_packet_before_it_is_cut_up():
    assert plan([one(PACKET)] * 60) == [(46, PACKET, False), (14, PACKET, False)]


def test_what_came_as_a_train_leaves_as_one_whatever_its_size():
    assert plan([(128 * 20, 20)]) == [(1, 20, False)]


def test_a_segment_that_failed_is_not_tried_again_but_smaller_ones_are():
    messages = [one(PACKET), one(PACKET), (PACKET * 3, PACKET), one(900), one(900)]
    assert plan(messages, PACKET) == [(1, 0, False), (1, 0, False), (1, PACKET, True), (2, 900, False)]


def test_random_messages_keep_order_and_bounds(seed):
    """Cutting the runs up again always gives the packets that came, in the same order."""
    chance = random.Random(seed)
    for _ in range(500):
        messages = []
        for _ in range(chance.randint(1, 64)):
            segment = chance.choice([0, 1, 7, 100, 100, 100, 1400, 1400, 65507])
            count = chance.randint(1, min(64, 65507 // segment)) if segment else 1
            length = segment * count - chance.randint(0, segment - 1) if count > 1 else segment
            messages.append((length, segment))
        came = [packet for message in messages for packet in packets(*message)]
        left = []
        done = 0
        for pieces, segment, _ in plan(messages):
            run = messages[done:done + pieces]
            total = sum(length for length, _ in run)
            cut = packets(total, segment) if segment else [total]
            assert segment or pieces == 1
            assert pieces == 1 or (len(cut) <= 64 and total <= 65507)
            left += cut
            done += pieces
        assert done == len(messages)
        assert left == came


def packets(length, segment):
    """Lengths of the packets of a train."""
    if length <= segment:
        return [length]
    return [segment] * (length // segment) + ([length % segment] if length % segment else [])
