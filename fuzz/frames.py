# Invariant: however the bytes are cut into pieces, the parser finds the same frames or ends with the same error; no
# frame is longer than its type allows, and no piece of DATA lies outside its frame.
"""The frame parser, whole and byte by byte."""

from mproxy._frames import FrameParser
from mproxy._wire import HEADER_BYTES, MAX_DATA_BYTES, MAX_IGNORABLE_BYTES, FrameType
from mproxy.ground.errors import PeerError


def parse(pieces):
    """([frames, DATA joined], the error's text or None)."""
    parser = FrameParser()
    frames = []
    try:
        for piece in pieces:
            for kind, flags, stream, seq, ack, payload, offset in parser.feed(piece):
                assert len(payload) <= (MAX_DATA_BYTES if kind == FrameType.DATA else MAX_IGNORABLE_BYTES)
                head = (kind, flags, stream, seq, ack)
                if offset:
                    assert frames[-1][0] == head and len(frames[-1][1]) == offset
                    frames[-1][1] += payload
                else:
                    frames.append([head, payload])
    except PeerError as error:
        return frames, str(error)
    return frames, None


def check(data):
    """Called with every input."""
    whole = parse([data])
    single = parse([data[i:i + 1] for i in range(len(data))])
    if whole[1] is None:
        assert whole == single
    else:
        assert whole[1] == single[1]  # the whole input's frames before the error are not told
    header = parse([data[:HEADER_BYTES], data[HEADER_BYTES:]])
    assert header[1] == whole[1]
