"""Whose session has to go when all places are taken, and when a newcomer is refused instead."""

import pytest

from mproxy._wire import CloseCode
from mproxy.ground.errors import PeerError
from mproxy.policy.places import YOUNG_US, Places, key_quota

NOW = 1_000_000_000


class Session:
    def __init__(self, name, streams=1, gone_for=None, age=YOUNG_US, lent=True):
        self.lent = lent
        self.name = name
        self.streams = streams
        self.attached = gone_for is None
        self.lost_at = None if gone_for is None else NOW - gone_for
        self.began_at = NOW - age

    def __repr__(self):
        return self.name


def full(*held):
    """Places that are all taken; `held`: (holder, session)."""
    places = Places(len(held))
    for holder, session in held:
        places.add(session, holder)
    return places


def gives_way(places, holder, quota=None):
    return str(places.make_room(holder, quota, NOW))


def refused(places, holder, quota=None):
    with pytest.raises(PeerError) as caught:
        places.make_room(holder, quota, NOW)
    assert caught.value.code == CloseCode.TOO_MANY
    return str(caught.value)


def test_nobody_gives_way_while_there_is_room():
    places = Places(2)
    places.add(Session("a", 0, gone_for=9), "A")
    assert places.make_room("A", 2, NOW) is None


def test_the_own_dead_never_lock_out_a_newcomer():
    """The one longest without a carrier goes; one without streams goes first."""
    dead = [("A", Session(f"gone {n}", gone_for=n)) for n in (5, 9, 7)]
    assert gives_way(full(*dead), "A") == "gone 9"
    assert gives_way(full(*dead, ("A", Session("empty", 0, gone_for=1))), "A") == "empty"


def test_the_biggest_holder_goes_first():
    places = full(("B", Session("b", gone_for=99)), *(("A", Session(f"a{n}", gone_for=n)) for n in (1, 2)))
    assert gives_way(places, "C") == "a2"
    assert gives_way(places, "B") == "a2", "of the bigger one, although there is one of its own"


def test_who_has_more_takes_nothing_from_who_has_less():
    places = full(("B", Session("asleep", gone_for=99)), *(("A", Session(f"a{n}")) for n in (1, 2)))
    assert "reached its limit of 3 sessions" in refused(places, "A")
    assert gives_way(places, "C") == "asleep"


def test_sessions_without_streams_go_before_nobody_does():
    places = full(("A", Session("busy")), ("A", Session("idle", 0)), ("B", Session("b")))
    assert gives_way(places, "C") == "idle"
    assert gives_way(places, "A") == "idle"
    young = full(("A", Session("a")), ("B", Session("just begun", 0, age=YOUNG_US - 1)))
    assert refused(young, "C")


def test_one_holder_cannot_take_all_places():
    """It locks out only its own newcomers; what it began last goes, in use or not."""
    places = full(*(("A", Session(f"a{n}")) for n in range(5)), *(("B", Session(f"b{n}")) for n in range(3)))
    assert gives_way(places, "C") == "a4"
    assert refused(places, "A")
    even = full(*(("A", Session(f"a{n}")) for n in range(4)), *(("B", Session(f"b{n}")) for n in range(4)))
    assert refused(even, "C"), "who keeps to half is left alone"


def test_what_a_line_gave_is_not_lent():
    assert refused(full(*(("A", Session(f"a{n}", lent=False)) for n in range(8))), "B")


def test_a_key_has_a_bound_of_its_own():
    places = Places(100)
    for n in range(3):
        places.add(Session(f"a{n}", 0), "A")
    assert "the key has reached its limit of 3 sessions (max-sessions=" in refused(places, "A", 3)
    assert places.make_room("B", 3, NOW) is None
    places.add(Session("gone", gone_for=1), "A")
    assert gives_way(places, "A", 4) == "gone"
    assert [key_quota(most) for most in (1, 64, 80, 1000)] == [1, 64, 64, 750]


def test_sessions_that_ended_leave_nothing():
    places = Places(1)
    session = Session("a")
    places.add(session, "A")
    places.remove(session, "A")
    places.remove(session, "A")
    assert places.make_room("B", None, NOW) is None and not places._held and not places.held("A")
