"""The rule by which the next worker of a relay knows where the bytes of a direction are; what it refuses.

That it is right of the real program is in tests/system/test_relay_outlives.py.
"""

import pytest
from tests.drivers._settled import settle

BYTES = bytes(range(100))


@pytest.mark.parametrize("noted", [0, 60, 100])
def test_nothing_is_between(noted):
    """However much of it was noted."""
    assert settle(100, 100, noted=noted) == ("ring", b"", 100)
    assert settle(100, 100, noted=100, ring=BYTES[90:]) == ("ring", b"", 100), "the last write was not noted"


def test_in_the_ring():
    assert settle(100, 60, noted=100, ring=BYTES[60:]) == ("ring", BYTES[60:], 100)
    assert settle(100, 80, noted=100, ring=BYTES[60:]) == ("ring", BYTES[80:], 100), "a write was not noted"


def test_in_the_pipe():
    for noted in (100, 40):
        assert settle(100, 60, noted=noted, piped=40) == ("pipe", b"", 100)


def test_in_the_buffer():
    """Read and not noted; written in part; what was written noted, and not what was left."""
    for written, noted in ((40, 40), (70, 40), (70, 70)):
        assert settle(100, written, noted=noted, buffer=BYTES[40:], copied_from=40, copied=True) == (
            "ring", BYTES[written:], 100)


@pytest.mark.parametrize("wrong, why", [
    ({"read": 50, "written": 51}, "more was written than was read"),
    ({"piped": 39}, "a byte is missing in the pipe"),
    ({"piped": 41}, "there is one too many"),
    ({"written": 100, "piped": 1}, "nothing is missing, and a byte in the pipe"),
    ({"ring": BYTES[61:]}, "the ring begins behind what was written"),
    ({"noted": 99}, "a byte was read that is nowhere"),
    ({"noted": 40, "buffer": BYTES[40:], "copied_from": 40}, "the buffer was used for another side"),
    ({"noted": 40, "buffer": BYTES[61:], "copied_from": 61, "copied": True}, "it begins behind what was written"),
    ({"read": 1 << 30, "noted": 40, "copied_from": 40, "copied": True}, "it does not hold as much"),
    ({"noted": 90, "ring": BYTES[60:90], "copied_from": 60, "copied": True}, "bytes in the ring and in the buffer"),
    ({"ring": BYTES[60:], "ended": True}, "the end was passed on before the last byte"),
])
def test_contradictions(wrong, why):
    facts = {"read": 100, "written": 60, "noted": 100} | wrong
    assert settle(facts.pop("read"), facts.pop("written"), **facts) is None, why
