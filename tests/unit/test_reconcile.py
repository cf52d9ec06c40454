"""The rule by which another process knows what was read from an application and written to it: what it refuses.

That it is right of a real kernel is in tests/system/test_reconciling.py.
"""

import pytest
from tests.drivers._outlive import settle

ACCEPTED = {"is_connection": True, "is_counted": True, "tcp_state": "ESTABLISHED", "peer_ended": False,
            "received": 1000, "unread": 300, "acked": 500, "unacked": 100}  # 700 read, 600 written
DIALLED = ACCEPTED | {"acked": 501}


def settled(*, dialled=False, facts=None, **noted):
    return settle((DIALLED if dialled else ACCEPTED) | (facts or {}),
                  **{"dialled": dialled, "read": 700, "handed": 600} | noted)


@pytest.mark.parametrize("dialled", [False, True])
def test_what_was_done_is_noted(dialled):
    """Nothing new; read more; handed more of what was kept; handed what had just come."""
    assert settled(dialled=dialled) == ("connected", 700, 600, 600)
    assert settled(dialled=dialled, read=100, released=50, capacity=4096) == ("connected", 700, 600, 600)
    assert settled(dialled=dialled, handed=200, kept=800) == ("connected", 700, 600, 800)
    assert settled(dialled=dialled, handed=200, kept=600) == ("connected", 700, 600, 600)
    assert settled(dialled=dialled, handed=200) == ("connected", 700, 600, 600)


def test_what_had_just_come_may_have_been_noted_in_part():
    """Offset by offset: `head` was stored, `tail` was not."""
    assert settled(handed=600, kept=200) == ("connected", 700, 600, 600)


@pytest.mark.parametrize("noted, why", [
    ({"read": 701}, "more was noted than was read"),
    ({"read": 100, "capacity": 512}, "more was read than there was room for"),
    ({"read": 699, "released": 699, "capacity": 0}, "a byte was read and there was no room at all"),
    ({"read": 699, "out_ended": True}, "a byte was read behind the end"),
    ({"handed": 601}, "more was noted than was written"),
    ({"handed": 500, "kept": 599}, "more was written than was kept, and the ring was not empty"),
    ({"handed": 500, "in_ended": True}, "what had just come was behind the end"),
    ({"kept": 601, "in_done": True}, "the end was handed before the last byte"),
    ({"handed": 599, "in_done": True}, "a byte was written behind the end"),
])
def test_numbers_that_contradict_each_other(noted, why):
    assert settled(**noted)[0] == "unknown", why


@pytest.mark.parametrize("facts", [
    {"is_counted": False}, {"tcp_state": "SYN_SENT"}, {"tcp_state": "SYN_RECV"}, {"tcp_state": 10}, {"tcp_state": 0},
    {"acked": 1 << 40}, {"tcp_state": "FIN_WAIT1"}, {"unread": 1001}, {"peer_ended": True},
])
def test_facts_that_cannot_be(facts):
    assert settled(facts=facts)[0] == "unknown"


def test_a_connection_that_was_never_made():
    """No byte has moved: it may be dialled again. If one has, nobody knows."""
    for facts in ({"tcp_state": "SYN_SENT"}, {"tcp_state": "CLOSE", "acked": 0, "unacked": 0}):
        facts |= {"received": 0, "unread": 0}
        assert settled(dialled=True, facts=facts, read=0, handed=0, kept=50) == ("unconnected", 0, 0, 50)
        assert settled(dialled=True, facts=facts, read=0, handed=1, kept=50)[0] == "unknown"
        assert settled(dialled=True, facts=facts, read=1, handed=0, kept=50)[0] == "unknown"


def test_one_that_is_over_is_asked_only_what_was_read():
    over = {"tcp_state": "CLOSE", "acked": 3, "unacked": 9}
    assert settled(facts=over, read=600) == ("broken", 700, 600, 600)
    assert settled(facts=over | {"peer_ended": True}, read=600) == ("broken", 699, 600, 600)
    assert settled(facts=over, read=701)[0] == "unknown"


def test_who_takes_no_more_is_not_asked_what_it_has():
    assert settled(read=600, handed=9000, deaf=True) == ("connected", 700, 9000, 9000)
