"""What cproxy -D reads of an application: SOCKS 4, 4A and 5, in whatever pieces, and nothing that follows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mproxy.policy.socks import MOST_BYTES, SocksError, SocksReader

METHODS = b"\x05\x02\x00\x02"
BY_NAME = b"\x05\x01\x00\x03\x08Intranet\x00\x50"
BY_IPV4 = b"\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x50"
BY_IPV6 = b"\x05\x01\x00\x04" + bytes(15) + b"\x01\x00\x50"
FOUR = b"\x04\x01\x00\x50\x0a\x00\x00\x01me\x00"
FOUR_A = b"\x04\x01\x00\x50\x00\x00\x00\x01me\x00intranet\x00"

GOOD = [
    (METHODS + BY_NAME, ("intranet", 80)), (METHODS + BY_IPV4, ("10.0.0.1", 80)), (METHODS + BY_IPV6, ("::1", 80)),
    (FOUR, ("10.0.0.1", 80)), (FOUR_A, ("intranet", 80))]


def in_pieces(data, sizes):
    """What a reader makes of `data` that arrives like this: (target, answers, bytes taken)."""
    reader, taken, end, sizes = SocksReader(), 0, 0, iter(sizes)
    while reader.target is None and taken < len(data):
        end = min(len(data), max(end, taken) + next(sizes, len(data)))
        used = reader.feed(data[taken:end])
        assert used == end - taken or reader.target is not None, "none of an incomplete greeting stays unread"
        taken += used
    assert reader.taken == taken
    return reader.target, reader.answers, taken


@pytest.mark.parametrize(("data", "target"), GOOD)
@given(sizes=st.lists(st.integers(1, 9), max_size=60), rest=st.binary(max_size=20))
def test_greetings(data, target, sizes, rest):
    found, answers, taken = in_pieces(data + rest, sizes)
    assert (found, taken) == (target, len(data))
    assert answers == (b"\x05\x00\x05\x00\x00\x01" + bytes(6) if data[0] == 5 else b"\x00\x5a" + bytes(6))


@pytest.mark.parametrize(("data", "answer"), [
    (b"GET / HTTP/1.1\r\n", b""), (b"\x16\x03\x01", b""),
    (b"\x05\x01\x02", b"\x05\xff"), (b"\x05\x00", b"\x05\xff"),
    (METHODS + b"\x05\x02" + BY_IPV4[2:], b"\x05\x07\x00\x01" + bytes(6)),
    (METHODS + b"\x05\x01\x00\x02" + bytes(6), b"\x05\x08\x00\x01" + bytes(6)),
    (METHODS + BY_IPV4[:-2] + b"\0\0", b"\x05\x01\x00\x01" + bytes(6)),
    (METHODS + b"\x05\x01\x00\x03\x00\x00\x50", b"\x05\x01\x00\x01" + bytes(6)),
    (METHODS + b"\x05\x01\x00\x03\x04a\x0ab \x00\x50", b"\x05\x01\x00\x01" + bytes(6)),
    (METHODS + b"\x04", b""),
    (b"\x04\x02" + FOUR[2:], b"\x00\x5b" + bytes(6)),
    (FOUR[:-1] + b"x" * 300, b"\x00\x5b" + bytes(6)),
    (FOUR_A[:-1] + b"x" * 300, b"\x00\x5b" + bytes(6)),
])
def test_refused(data, answer):
    with pytest.raises(SocksError) as caught:
        SocksReader().feed(data)
    assert caught.value.answer == answer and str(caught.value).isprintable()


@given(st.lists(st.binary(min_size=1, max_size=80), max_size=40), st.sampled_from([b"", b"\x04\x01", b"\x05", METHODS]))
def test_whatever_comes_is_bounded(pieces, beginning):
    """Invariant: a target, a refusal, or no more than MOST_BYTES kept; no other exception."""
    reader = SocksReader()
    try:
        for piece in (beginning, *pieces):
            if reader.target is not None or not piece:
                break
            assert 0 < reader.feed(piece) <= len(piece)
            assert reader.taken <= MOST_BYTES
    except SocksError as error:
        assert len(str(error)) < 200
