"""Which of the connections that wait for their handshake has to go when there are too many."""

import pytest

from mproxy.policy.crowd import Crowd, Rank, at_random, share_of

A, B = "10.0.0.1", "10.0.0.2"


def oldest(guests):
    return guests[0]


@pytest.fixture
def crowd():
    return Crowd(4, oldest)


def fill(crowd, ranks):
    """Guests 0, 1, 2, ... of these ranks, of sources of their own."""
    for number, rank in enumerate(ranks):
        assert crowd.add(number, f"source {number}", 9, rank) is None


def test_of_equals_one_is_chosen_and_never_the_newcomer(crowd):
    fill(crowd, [Rank.STRANGER] * 4)
    assert crowd.add(9, B, 9) == 0
    chosen = {Crowd(1, at_random).most}
    random = Crowd(4, at_random)
    fill(random, [Rank.STRANGER] * 4)
    for number in range(100, 400):
        leaving = random.add(number, f"{number}", 9)
        assert leaving != number
        random.remove(leaving)
        chosen.add(leaving)
    assert len(random) == 4 and len(chosen) > 100


@pytest.mark.parametrize("low", list(Rank)[:-1])
def test_the_lowest_rank_goes_first(crowd, low):
    fill(crowd, [Rank.PROVEN, low, Rank.PROVEN, Rank.PROVEN])
    assert crowd.add(9, B, 9, Rank.PROVEN) == 1


def test_a_stranger_among_those_who_were_here_goes_itself(crowd):
    fill(crowd, [Rank.RETURNING] * 4)
    assert crowd.add(9, B, 9) == 9
    crowd.remove(9)
    assert crowd.add(10, B, 9, Rank.PRESENT) == 0


def test_every_rank_keeps_a_part():
    """A client that has a session could hold all places with endless lists: others must get in all the same."""
    crowd = Crowd(16, oldest)
    fill(crowd, [Rank.PROVEN] * 16)
    for newcomer, leaving in ((100, 0), (101, 1), (102, 100), (103, 101)):
        assert crowd.add(newcomer, f"{newcomer}", 9) == leaving
        crowd.remove(leaving)
    assert crowd.add(200, B, 9, Rank.RETURNING) == 2


def test_a_source_at_its_share_gives_one_of_its_own():
    crowd = Crowd(100, oldest)
    for number in range(3):
        assert crowd.add(number, A, 3) is None
    assert crowd.add(9, B, 3) is None
    assert crowd.add(3, A, 3) == 0
    crowd.remove(0)
    crowd.add(1, A, 3, Rank.PROVEN)
    assert crowd.add(4, A, 3) == 2, "the one that has proven something stays"


def test_who_left_counts_no_more(crowd):
    for number in range(1000):
        assert crowd.add(number, A, 1) is None
        crowd.remove(number)
        crowd.remove(number)
    assert not len(crowd) and not crowd._sources and not crowd._ranks


def test_shares():
    assert share_of(512, known=False) == 128 and share_of(512, known=True) == 256
    assert share_of(16, known=False) == 8
    assert share_of(3, known=True) == 3, "small limits are not divided"
