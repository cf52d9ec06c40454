"""How a carrier begins, and who is turned away."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mproxy import _wire
from mproxy._frames import encode_frame
from mproxy._wire import CloseCode, FrameType
from mproxy.errors import PeerError
from mproxy.handshake import Caller, Greeter, Hello, Welcome, encode_preamble, make_proof

SESSION, SECRET, INSTANCE, NONCE = b"s" * 16, b"k" * 32, b"i" * 16, b"n" * 16


def make_hello(**values):
    """A HELLO that resumes SESSION, or with a changed value."""
    fields = {"session_id": SESSION, "instance_id": INSTANCE, "proof": bytes(32), "nonce": NONCE, "epoch": 5,
              "budget_bytes": 1 << 26, "window_bytes": 1 << 22, **values}
    hello = Hello(**fields)
    hello.proof = values.get("proof", make_proof(SECRET, hello))
    return hello


def make_welcome(**values):
    """The WELCOME for `make_hello`, or with a changed value."""
    return Welcome(**{"session_id": SESSION, "secret": SECRET, "epoch": 5, "budget_bytes": 1 << 26,
                      "window_bytes": 1 << 22, "routing_tag": 99, **values})


def fed(opening, data, size=None):
    """Feed `data` in pieces of `size`; the first thing that comes out."""
    result = None
    for at in range(0, len(data), size or len(data)):
        result = opening.feed(data[at:at + (size or len(data))])
        if result is not None:
            return result
    return result


def refusal(opening, data, size=None):
    """The PeerError that `data` gives."""
    with pytest.raises(PeerError) as caught:
        fed(opening, data, size)
    return caught.value


def welcomed(welcome, **values):
    """What a Caller makes of a server's answer."""
    return fed(Caller(make_hello(**values), b""), encode_preamble() + welcome.encode())


# ---- HELLO

@pytest.mark.parametrize("size", [None, 1, 16, 17, 44])
def test_hello_arrives_as_it_was_meant(size):
    caller = Caller(make_hello(), b"", tag=1234)
    greeter = Greeter()
    hello = fed(greeter, caller.opening, size)
    assert vars(hello) == vars(make_hello())
    assert greeter.peer_tag == 1234
    assert hello.proves(SECRET)


def test_new_session_has_no_id():
    assert fed(Greeter(), Caller(make_hello(session_id=b""), b"").opening).session_id == b""


@pytest.mark.parametrize("changed", [
    {"session_id": b"S" * 16}, {"instance_id": b"I" * 16}, {"nonce": b"N" * 16}, {"epoch": 6}, {"proof": bytes(32)},
])
def test_proof_covers_what_a_resume_claims(changed):
    hello = make_hello()
    for name, value in changed.items():
        setattr(hello, name, value)
    assert not fed(Greeter(), Caller(hello, b"").opening).proves(SECRET)
    assert not make_hello().proves(b"K" * 32)


@given(st.binary(max_size=200), st.integers(1, 200))
@settings(deadline=None)
def test_what_follows_is_left_for_the_session(rest, size):
    opening = Caller(make_hello(), b"").opening
    greeter = Greeter()
    data = opening + rest
    hello = at = None
    for at in range(0, len(data), size):
        hello = greeter.feed(data[at:at + size])
        if hello:
            break
    assert hello
    assert greeter.leftover + data[at + size:] == rest


@pytest.mark.parametrize("changed, code", [
    ({"window_bytes": 4095}, CloseCode.LIMIT_ERROR),
    ({"window_bytes": (1 << 30) + 1}, CloseCode.LIMIT_ERROR),
    ({"budget_bytes": 4095}, CloseCode.LIMIT_ERROR),
    ({"epoch": 0}, CloseCode.STALE_EPOCH),
    ({"epoch": 1 << 63}, CloseCode.STALE_EPOCH),
])
def test_hello_with_limits_nobody_can_work_with(changed, code):
    assert refusal(Greeter(), Caller(make_hello(**changed), b"").opening).code == code


# ---- strangers

@pytest.mark.parametrize("data, words", [
    (b"GET / HTTP/1.1\r\n", "HTTP"),
    (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"),
    (b"\x16\x03\x01\x02\x00\x01", "TLS"),
    (b"\x00\x00\x00\x01", "00 00 00 01"),
    (b"\xab", None),
    (b"\xabmp", None),
    (b"\xabmpX", "ab 6d 70 58"),
])
@pytest.mark.parametrize("size", [None, 1])
def test_strangers_are_known_by_their_first_bytes(data, words, size):
    for opening in (Greeter(), Caller(make_hello(), b"")):
        if words is None:
            assert fed(opening, data, size) is None
        else:
            error = refusal(opening, data, size)
            assert error.code == CloseCode.VERSION_ERROR
            if size is None:
                assert words in str(error)


def test_another_version_is_named_with_ours():
    error = refusal(Greeter(), encode_preamble(version=7))
    assert error.code == CloseCode.VERSION_ERROR
    assert "7" in str(error) and str(_wire.VERSION) in str(error)


@pytest.mark.parametrize("opening, first", [
    (Greeter, encode_frame(FrameType.WELCOME, payload=bytes(80))),
    (Greeter, encode_frame(FrameType.HEARTBEAT, payload=bytes(16))),
    (lambda: Caller(make_hello(), b""), make_hello().encode()),
    (lambda: Caller(make_hello(), b""), encode_frame(FrameType.ACK, stream=1)),
])
def test_wrong_first_frame(opening, first):
    assert refusal(opening(), encode_preamble() + first).code == CloseCode.STATE_ERROR


@given(st.binary(max_size=300), st.booleans())
@settings(deadline=None, max_examples=300)
def test_garbage_is_refused_or_waited_for(data, behind_preamble):
    """Invariant: PeerError or None, never anything else, and nothing kept beyond one small frame."""
    for opening in (Greeter(), Caller(make_hello(), b"")):
        try:
            opening.feed(encode_preamble() + data if behind_preamble else data)
        except PeerError as error:
            assert error.code in set(CloseCode)


# ---- WELCOME

def test_welcome_arrives_as_it_was_meant():
    assert vars(welcomed(make_welcome())) == vars(make_welcome())


def test_welcome_may_name_the_session_that_hello_asked_for_anew():
    assert welcomed(make_welcome(), session_id=b"").session_id == SESSION


@pytest.mark.parametrize("changed", [{"epoch": 4}, {"epoch": 6}, {"session_id": b"S" * 16}])
def test_welcome_for_another(changed):
    with pytest.raises(PeerError) as caught:
        welcomed(make_welcome(**changed))
    assert caught.value.code == CloseCode.STATE_ERROR


@pytest.mark.parametrize("changed", [{"window_bytes": 0}, {"budget_bytes": 0}, {"window_bytes": (1 << 32) - 1}])
def test_welcome_with_limits_nobody_can_work_with(changed):
    with pytest.raises(PeerError) as caught:
        welcomed(make_welcome(**changed))
    assert caught.value.code == CloseCode.LIMIT_ERROR


# ---- turned away

@pytest.mark.parametrize("size", [None, 1])
def test_farewell_tells_why(size):
    caller = Caller(make_hello(), b"")
    error = refusal(caller, Greeter.farewell(PeerError(CloseCode.STALE_EPOCH, "a newer carrier", 41)), size)
    assert (error.code, str(error)) == (CloseCode.STALE_EPOCH, "a newer carrier")
    assert caller.refused and caller.stale_epoch == 41


@pytest.mark.parametrize("reason", ["", "x" * 500, "\N{EURO SIGN}" * 100, "\udc80"])
def test_farewell_of_any_reason_is_a_valid_frame(reason):
    error = refusal(Caller(make_hello(), b""), Greeter.farewell(PeerError(CloseCode.TOO_MANY, reason)))
    assert error.code == CloseCode.TOO_MANY
    assert len(str(error)) <= 200


def test_unknown_code_of_a_later_version_is_survived():
    answer = encode_preamble() + encode_frame(FrameType.GOODBYE, seq=1 << 40, payload=b"later")
    assert refusal(Caller(make_hello(), b""), answer).code in set(CloseCode)
