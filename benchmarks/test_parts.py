"""The parts alone, with pytest-benchmark: codec, ring, and two sessions joined in memory.

Each benchmark's extra_info tells what one round does, so that ns per frame and bytes per second can be read off:
`make bench-parts` prints both. The loops are in C; what Python adds to a round is one call.
"""

import pytest
from tests.drivers._memory import ByteRing
from tests.drivers._pysession import PySession, exchange

from mproxy._frames import FrameParser, encode_frame
from mproxy._session import Session
from mproxy._wire import FrameType
from mproxy.ground.config import SessionConfig

SESSION_ID = b"parts of mproxy!"
BATCH_BYTES = 262144
STREAMS = 1000
BULK_BYTES = 64 << 20


def say(benchmark, frames=0, size=0):
    """Record what one round did and what that makes."""
    seconds = benchmark.stats.stats.median
    if frames:
        benchmark.extra_info["ns per frame"] = round(seconds * 1e9 / frames, 1)
    if size:
        benchmark.extra_info["GB/s"] = round(size / seconds / 1e9, 2)


@pytest.mark.parametrize("size", [0, 64, 1024, 65536])
def test_parser(benchmark, size):
    """Parse frames of one size: header checked, payload handed on in place."""
    count = max(10, min(10_000, (4 << 20) // (size + 28)))
    kind = FrameType.DATA if size else FrameType.ACK
    data = b"".join(encode_frame(kind, stream=1, seq=n * size, payload=bytes(size)) for n in range(count))
    assert benchmark(FrameParser().count, data) == count
    say(benchmark, count, len(data))


def test_encoder(benchmark):
    """One header encoded, with the call from Python."""
    benchmark(encode_frame, FrameType.ACK, stream=1, ack=7)


@pytest.mark.parametrize("size", [64, 16384, 262144])
def test_ring(benchmark, size):
    """Bytes into a ring of 512 KiB and out again, two calls from Python each."""
    ring = ByteRing()
    ring.reserve(524288)
    ring.fill(b"x")  # never empty, so that the storage stays
    data = bytes(size)

    def turn():
        ring.append(data)
        ring.release(ring.tail - 1)

    benchmark(turn)
    say(benchmark, size=size)


def joined():
    """Two sessions with STREAMS streams open between them."""
    config = SessionConfig(session_budget_bytes=1 << 30)
    client = PySession(Session(config, is_server=False))
    client.session.learn_identity(SESSION_ID, bytes(32))
    server = PySession(Session(config, is_server=True, session_id=SESSION_ID, secret=bytes(32)))
    limits = config.window_bytes, config.session_budget_bytes
    server.session.attach(1, *limits, server.session.streams.resume_list(), 1)
    client.session.attach(1, *limits, client.session.streams.resume_list(), 1)
    streams = [client.open() for _ in range(STREAMS)]
    for _ in range(3):
        client.receive(server.transmit(BATCH_BYTES), 1, take_all)
        while data := client.transmit(BATCH_BYTES):
            server.receive(data, 1, take_all)
    return client, server, streams


def take_all(_stream, length):
    """An application that takes whatever it is offered."""
    return length


def test_small_frames(benchmark):
    """64 bytes on each of 1,000 streams: planned, encoded, parsed, delivered, and what acks that takes."""
    client, server, streams = joined()
    data = bytes(64)

    def key_strokes():
        for stream in streams:
            assert client.write(stream, data) == len(data)

    benchmark.pedantic(lambda: exchange(client, server, 2, BATCH_BYTES), setup=key_strokes, rounds=50)
    say(benchmark, STREAMS)


def test_bulk(benchmark):
    """64 MiB on one stream, 256 KiB at a time, as from an application that always has more."""
    client, server, streams = joined()
    data = bytes(BATCH_BYTES)

    def copy():
        sent = 0
        while sent < BULK_BYTES:
            sent += client.write(streams[0], data)
            exchange(client, server, 3, BATCH_BYTES)

    benchmark.pedantic(copy, rounds=10, warmup_rounds=1)
    say(benchmark, size=BULK_BYTES)
