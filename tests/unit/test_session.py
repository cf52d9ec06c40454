"""The session's state machine: streams, ends, resume, heartbeats, limits, and what a broken peer meets."""

import pytest

from mproxy._frames import encode_frame
from mproxy._session import CarrierState, EventKind, Session
from mproxy._wire import CloseCode, FrameFlag, FrameType, ResetCode
from mproxy.errors import LocalError

from tests.unit.session_pair import (
    BEAT_US, SECRET, SESSION_ID, Pair, end_mark, frames_of, heartbeat, lone, make_config, take_all, take_none,
)


@pytest.fixture
def pair():
    """Both sides on a carrier."""
    pair = Pair()
    pair.attach()
    return pair


def started(pair):
    """A stream that both sides know."""
    stream = pair.client.open()
    pair.pump()
    return stream


# ---- finished streams are remembered until the peer surely knows

def test_finished_streams_are_forgotten_after_an_echo(pair):
    stream = started(pair)
    pair.both_end(stream)
    assert pair.streams() == (1, 1)
    pair.beat()
    pair.beat()
    assert pair.streams() == (0, 0)


def test_last_ack_lost_behind_an_old_list(pair):
    """The client finishes a stream after its HELLO left; the ack dies with the old carrier.

    Then a heartbeat's echo overtakes the server's repetition: it must not make the client forget the stream.
    """
    stream = started(pair)
    pair.client.end(stream)
    pair.up()
    pair.server.hand(stream, 0)
    old_list = pair.hello()
    pair.server.write(stream, b"answer")
    pair.server.end(stream)
    pair.server.release(stream)
    pair.down()
    pair.client.hand(stream, 0)
    pair.client.release(stream)
    pair.client.transmit(1 << 20)
    assert pair.client.look(stream)["retired"]
    pair.attach(old_list)
    pair.client.session.probe(pair.now)
    pair.up(most=44)
    echo = pair.server.transmit(44)
    assert [frame[0] for frame in frames_of(echo)] == [FrameType.HEARTBEAT]
    assert pair.client.receive(echo, pair.now, take_all) == []
    assert pair.pump() == ([], [])
    pair.beat()
    pair.beat()
    assert pair.streams() == (0, 0)


def test_no_stream_is_forgotten_under_a_planned_frame(pair):
    """A peer may claim to have read what it cannot have read yet."""
    stream = started(pair)
    pair.client.write(stream, bytes(4000))
    pair.client.transmit(100)
    pair.client.receive(encode_frame(FrameType.RESET, stream=stream), pair.now, take_all)
    pair.client.session.probe(pair.now)
    pair.client.receive(heartbeat(echo_of=pair.now), pair.now, take_all)
    assert pair.client.look(stream) is not None
    while pair.client.transmit(1000):
        pass
    pair.now += 1
    pair.client.session.probe(pair.now)
    pair.client.receive(heartbeat(echo_of=pair.now), pair.now, take_all)
    assert pair.client.look(stream) is None


def test_reset_lost_with_the_carrier_is_told_again_behind_its_own_barrier(pair):
    stream = started(pair)
    pair.client.reset(stream)
    pair.client.transmit(1 << 20)
    pair.lose()
    pair.attach()
    pair.client.session.probe(pair.now)
    pair.client.transmit(50)
    pair.client.receive(heartbeat(echo_of=pair.now), pair.now, take_all)
    assert pair.client.look(stream) is not None
