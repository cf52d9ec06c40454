"""The numbers of the protocol: they must not change by accident, and the limits must be consistent."""

import pytest

from mproxy import _wire
from mproxy._frames import encode_frame
from mproxy._wire import CloseCode, FrameFlag, FrameType, ResetCode


def test_types_and_flags_are_what_is_on_the_wire():
    assert {kind.name: int(kind) for kind in FrameType} == {
        "HELLO": 1, "WELCOME": 2, "RESUME": 3, "HEARTBEAT": 4, "OPEN": 5, "DATA": 6, "ACK": 7, "RESET": 8,
        "GOODBYE": 9, "LISTEN": 10, "LISTENING": 11, "REST": 12, "ASSOCIATE": 13, "ASSOCIATED": 14, "DATAGRAM": 15}
    assert {flag.name: int(flag) for flag in FrameFlag} == {
        "FIN": 1, "WANT_ACK": 2, "REPLY": 4, "END": 8, "DONE": 16, "ABORTED": 32, "IGNORABLE": 128}


def test_flags_are_single_and_distinct_bits():
    assert len({int(flag) for flag in FrameFlag}) == len(list(FrameFlag))
    assert all(flag & (flag - 1) == 0 and 0 < flag < 256 for flag in map(int, FrameFlag))


@pytest.mark.parametrize("codes", [CloseCode, ResetCode])
def test_codes_have_no_gaps(codes):
    """New codes are appended; a peer that does not know one treats it as the first."""
    assert [int(code) for code in codes] == list(range(len(list(codes))))


def test_magic_is_neither_text_nor_tls():
    first = (_wire.MAGIC & 0xFFFFFFFF) >> 24
    assert first > 0x7F and first != 0x16


def test_header_is_big_endian_with_a_zero_in_the_middle():
    frame = encode_frame(0x11, flags=0x22, stream=0x01020304, seq=0x05060708090A0B0C, ack=0x0D0E0F1011121314,
                         payload=b"xyz")
    assert frame == bytes.fromhex("11 22 0000 01020304 00000003 05060708090a0b0c 0d0e0f1011121314") + b"xyz"
    assert len(frame) == _wire.HEADER_BYTES + 3


def test_limits_fit_each_other():
    assert 255 + len(":65535") <= _wire.MAX_TARGET_BYTES
    assert _wire.MAX_REASON_BYTES <= _wire.MAX_IGNORABLE_BYTES
    assert max(_wire.HELLO_BYTES, _wire.WELCOME_BYTES, _wire.MAX_TARGET_BYTES) <= _wire.MAX_IGNORABLE_BYTES
    assert _wire.MIN_WINDOW_BYTES <= _wire.MAX_DATA_BYTES <= _wire.MAX_WINDOW_BYTES < 1 << 31
