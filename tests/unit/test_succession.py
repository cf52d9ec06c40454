"""Which session cproxy's next worker goes on with."""

from types import SimpleNamespace

from mproxy._session import CarrierState
from mproxy.programs.succession import rank


def session(state=CarrierState.NO_CARRIER, session_id=b""):
    return SimpleNamespace(state=state, session_id=session_id)


def test_one_that_is_being_ended_gives_way_to_its_follower():
    """The worker died behind the end of a session, when an application had come that waits for the next one."""
    over = session(CarrierState.CLOSED_FOR_GOOD, b"1234")
    follower = session()
    assert rank(over, False) < rank(follower, True)
    assert rank(over, True) < rank(follower, True), "what it still has gets its end"


def test_one_that_nobody_uses_does_not_hide_the_end_of_the_last():
    assert rank(session(), False) < rank(session(CarrierState.CLOSED_FOR_GOOD, b"1234"), False)


def test_the_one_that_sproxy_knows_goes_on():
    assert rank(session(), True) < rank(session(session_id=b"1234"), False)
