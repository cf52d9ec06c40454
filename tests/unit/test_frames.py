"""The frame codec: what was encoded is parsed again, in whatever pieces it comes; nothing else is accepted."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mproxy import _wire
from mproxy._frames import FrameParser, encode_frame
from mproxy._wire import CloseCode, FrameFlag, FrameType
from mproxy.ground.errors import PeerError

U64 = st.integers(0, (1 << 64) - 1)
STREAM = st.integers(1, (1 << 32) - 1)


def payload(least, most):
    """Payloads of so many bytes."""
    return st.binary(min_size=least, max_size=most)


def frame(kind, flags, stream, body):
    """Keyword arguments of `encode_frame`, with any seq and ack."""
    return st.fixed_dictionaries({
        "type": st.just(int(kind)), "flags": flags, "stream": stream, "payload": body, "seq": U64, "ack": U64})


def flags(*allowed):
    """Any combination of the flags that a type has, and IGNORABLE."""
    return st.sets(st.sampled_from([*allowed, FrameFlag.IGNORABLE])).map(lambda chosen: sum(map(int, chosen)))


NONE, ZERO = payload(0, 0), st.just(0)
VALID = {
    "HELLO": frame(FrameType.HELLO, flags(), ZERO, payload(144, 144)),
    "WELCOME": frame(FrameType.WELCOME, flags(), ZERO, payload(168, 168)),
    "RESUME": frame(FrameType.RESUME, flags(FrameFlag.DONE, FrameFlag.ABORTED), STREAM, NONE),
    "RESUME END": frame(FrameType.RESUME, st.just(int(FrameFlag.END)), ZERO, NONE),
    "HEARTBEAT": frame(FrameType.HEARTBEAT, flags(FrameFlag.REPLY), ZERO, payload(16, 16)),
    "OPEN": frame(FrameType.OPEN, flags(), STREAM, payload(0, 300)),
    "DATA": frame(FrameType.DATA, flags(FrameFlag.FIN, FrameFlag.WANT_ACK), STREAM, payload(1, 600)),
    "DATA END": frame(FrameType.DATA, st.just(int(FrameFlag.FIN)), STREAM, NONE),
    "ACK": frame(FrameType.ACK, flags(FrameFlag.WANT_ACK), STREAM, NONE),
    "RESET": frame(FrameType.RESET, flags(), STREAM, payload(0, 200)),
    "GOODBYE": frame(FrameType.GOODBYE, flags(), ZERO, payload(0, 200)),
    "unknown": frame(77, st.just(int(FrameFlag.IGNORABLE)), st.integers(0, (1 << 32) - 1), payload(0, 4096)),
}
FRAMES = st.lists(st.one_of(*VALID.values()), max_size=12)


def whole(parts):
    """Join the parts of DATA frames: [(type, flags, stream, seq, ack, payload)]."""
    frames = []
    for kind, flag, stream, seq, ack, data, offset in parts:
        if offset:
            assert frames[-1][:5] == (kind, flag, stream, seq, ack) and len(frames[-1][5]) == offset
            frames[-1] = (*frames[-1][:5], frames[-1][5] + data)
        else:
            frames.append((kind, flag, stream, seq, ack, data))
    return frames


def expected(frames):
    """What parsing gives for what was encoded."""
    return [(one["type"], one["flags"], one["stream"], one["seq"], one["ack"], one["payload"]) for one in frames]


def encoded(frames):
    """The bytes of frames given as keyword arguments."""
    return b"".join(encode_frame(**one) for one in frames)


@given(FRAMES)
@settings(deadline=None)
def test_given_whole(frames):
    assert whole(FrameParser().feed(encoded(frames))) == expected(frames)


@given(FRAMES)
@settings(deadline=None, max_examples=50)
def test_given_byte_by_byte(frames):
    parser, parts = FrameParser(), []
    for byte in encoded(frames):
        parts += parser.feed(bytes([byte]))
    assert whole(parts) == expected(frames)


@given(FRAMES, st.lists(st.integers(1, 200), max_size=40))
@settings(deadline=None)
def test_given_in_any_pieces(frames, sizes):
    parser, parts, data = FrameParser(), [], encoded(frames)
    for size in sizes:
        parts += parser.feed(data[:size])
        data = data[size:]
    assert whole(parts + parser.feed(data)) == expected(frames)


@given(FRAMES, st.integers(1, 5))
@settings(deadline=None)
def test_limit_leaves_the_rest(frames, limit):
    parser, data = FrameParser(), encoded(frames)
    first = parser.feed(data, limit=limit)
    assert len(first) == min(limit, len(frames))
    assert parser.unparsed == encoded(frames[len(first):])
    assert whole(first + parser.feed(b"")) == expected(frames)


def outcome(pieces):
    """(frames, error or None) of any input."""
    parser, parts = FrameParser(), []
    for piece in pieces:
        try:
            parts += parser.feed(piece)
        except PeerError as error:
            assert error.code == CloseCode.FRAME_ERROR
            with pytest.raises(PeerError, match=str(error)):
                parser.feed(b"")
            return parts, str(error)
    return parts, None


@given(st.one_of(st.binary(max_size=300), st.tuples(FRAMES, st.data())))
@settings(deadline=None, max_examples=300)
def test_garbage_ends_the_same_however_it_comes(given_):
    """Invariant: whether an input is accepted does not depend on how it is cut; there is never a crash."""
    if isinstance(given_, tuple):
        frames, more = given_
        data = bytearray(encoded(frames) or b"\0")
        data[more.draw(st.integers(0, len(data) - 1))] ^= more.draw(st.integers(1, 255))
        given_ = bytes(data)
    in_one, byte_by_byte = outcome([given_]), outcome([bytes([byte]) for byte in given_])
    assert in_one[1] == byte_by_byte[1]
    if in_one[1] is None:
        assert whole(in_one[0]) == whole(byte_by_byte[0])


WRONG = {
    "reserved bits": (encode_frame(FrameType.ACK, stream=1)[:3] + b"\1" + encode_frame(FrameType.ACK, stream=1)[4:],
                      "reserved"),
    "type 0": (encode_frame(0), "unknown type"),
    "type 100": (encode_frame(100, stream=1), "unknown type"),
    "long unknown": (encode_frame(100, flags=FrameFlag.IGNORABLE, payload=bytes(4097)), "too long to skip"),
    "flag": (encode_frame(FrameType.ACK, flags=FrameFlag.FIN, stream=1), "flag"),
    "short HELLO": (encode_frame(FrameType.HELLO, payload=bytes(103)), "length"),
    "long WELCOME": (encode_frame(FrameType.WELCOME, payload=bytes(81)), "length"),
    "long OPEN": (encode_frame(FrameType.OPEN, stream=1, payload=bytes(301)), "length"),
    "long RESET": (encode_frame(FrameType.RESET, stream=1, payload=bytes(201)), "length"),
    "ACK with payload": (encode_frame(FrameType.ACK, stream=1, payload=b"x"), "length"),
    "long DATA": (encode_frame(FrameType.DATA, stream=1, payload=bytes((1 << 20) + 1)), "length"),
    "DATA without data": (encode_frame(FrameType.DATA, stream=1), "without data"),
    "DATA of the session": (encode_frame(FrameType.DATA, payload=b"x"), "stream number"),
    "HEARTBEAT of a stream": (encode_frame(FrameType.HEARTBEAT, stream=1, payload=bytes(16)), "stream number"),
    "RESUME of no stream": (encode_frame(FrameType.RESUME), "RESUME"),
    "END of a stream": (encode_frame(FrameType.RESUME, flags=FrameFlag.END, stream=1), "RESUME"),
}


@pytest.mark.parametrize("data, reason", WRONG.values(), ids=WRONG)
def test_wrong_frames_are_refused_at_their_header(data, reason):
    """They are refused before a byte of the payload is stored."""
    with pytest.raises(PeerError, match=reason) as caught:
        FrameParser().feed(data[:_wire.HEADER_BYTES])
    assert caught.value.code == CloseCode.FRAME_ERROR


def test_data_comes_in_the_parts_it_arrived_in():
    parser = FrameParser()
    data = encode_frame(FrameType.DATA, flags=FrameFlag.FIN, stream=9, seq=100, payload=b"abcdef")
    assert parser.feed(data[:30]) == [(FrameType.DATA, FrameFlag.FIN, 9, 100, 0, b"ab", 0)]
    assert parser.feed(data[30:]) == [(FrameType.DATA, FrameFlag.FIN, 9, 100, 0, b"cdef", 2)]
