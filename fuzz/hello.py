# Invariant: whatever a stranger sends, the reception answers with a Hello within the protocol's limits or with
# PeerError, and keeps no more than a preamble and a frame meanwhile; cut into bytes it comes to the same. The same
# holds for cproxy and what it takes for an sproxy.
"""Preamble and HELLO at sproxy, preamble and WELCOME at cproxy."""

from mproxy._wire import MAX_WINDOW_BYTES, MIN_WINDOW_BYTES
from mproxy.ground.errors import PeerError
from mproxy.handshake import Caller, Greeter, Hello


def greeter():
    """sproxy's side, for whom every proof is right."""
    return Greeter(lambda _hello, _channel: None)


def caller():
    """cproxy's side, which begins a session."""
    return Caller(lambda: (Hello(b"", b"i" * 16, b"n" * 16, 1, 65536, 65536), b"", b""))


def outcome(opening, pieces):
    """What comes of the pieces: the first frame's payload, an error's text, or nothing yet."""
    try:
        for piece in pieces:
            first = opening.feed(piece)
            if first is not None:
                assert MIN_WINDOW_BYTES <= first.window_bytes <= MAX_WINDOW_BYTES
                assert 0 < first.epoch < 1 << 63
                return first.encode()
    except PeerError as error:
        return str(error)
    return None


def check(data):
    """Called with every input; its first bit chooses the side."""
    if not data:
        return
    make = caller if data[0] & 1 else greeter
    data = data[1:]
    whole = outcome(make(), [data])
    single = outcome(make(), [data[i:i + 1] for i in range(len(data))])
    if whole is None or not isinstance(whole, str):
        assert whole == single
    else:
        assert isinstance(single, str)  # of two mistakes the first byte's is told first
