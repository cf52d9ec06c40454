"""Streams that sproxy opens, and how it is asked to listen: the rules of docs/protocol.md, without sockets."""

import pytest
from mproxy._listening import answer_listen, ask_listen, end_asking

from mproxy._frames import encode_frame
from mproxy._session import CarrierState, EventKind
from mproxy._wire import MAX_PLACES, SERVER_STREAM_BIT, CloseCode, FrameFlag, FrameType, ResetCode
from mproxy.ground.errors import LocalError
from tests.unit.session_pair import Pair, frames_of, lone, make_config, take_all

SERVER_STREAM = 1 << SERVER_STREAM_BIT
FIRST = SERVER_STREAM | 1
PLACE = b"localhost:9000"


def served_pair():
    """Both sides on a carrier; the client has asked for a place."""
    pair = Pair()
    pair.client.session.is_served = True
    pair.attach()
    return pair


def outcome(one, data):
    """The code with which that data ends the session; None: it goes on."""
    for event in one.receive(data, 2000, take_all):
        if event[0] == EventKind.CLOSED:
            return event[1]
    return None


def served_client(**config):
    one = lone(is_server=False, config=make_config(**config))
    one.session.is_served = True
    return one


# ---- asking

def test_asking_and_the_answers():
    pair = served_pair()
    ask_listen(pair.client.session, 1, PLACE)
    ask_listen(pair.client.session, MAX_PLACES, b"/run/there.sock")
    end_asking(pair.client.session)
    assert pair.up() == [(EventKind.LISTEN, 1, PLACE, False), (EventKind.LISTEN, MAX_PLACES, b"/run/there.sock", False),
                         (EventKind.LISTEN, 0, b"", True)]
    answer_listen(pair.server.session, 1, True, b"127.0.0.1:9000")
    answer_listen(pair.server.session, MAX_PLACES, False, b"not allowed")
    assert pair.down() == [(EventKind.LISTENING, 1, b"127.0.0.1:9000", True),
                           (EventKind.LISTENING, MAX_PLACES, b"not allowed", False)]


def test_without_a_carrier_nothing_can_be_asked():
    pair = served_pair()
    pair.lose()
    with pytest.raises(LocalError):
        ask_listen(pair.client.session, 1, PLACE)


@pytest.mark.parametrize("frame, code", [
    (encode_frame(FrameType.LISTENING, seq=1, ack=1), CloseCode.STATE_ERROR),
    (encode_frame(FrameType.LISTEN, seq=MAX_PLACES + 1), CloseCode.LIMIT_ERROR),
    (encode_frame(FrameType.LISTEN, seq=0, payload=PLACE), CloseCode.LIMIT_ERROR),
    (encode_frame(FrameType.LISTEN, seq=1, flags=FrameFlag.END), CloseCode.LIMIT_ERROR),
    (encode_frame(FrameType.LISTEN, seq=1, payload=b"x" * 301), CloseCode.FRAME_ERROR),
    (encode_frame(FrameType.LISTEN, seq=1, stream=1), CloseCode.FRAME_ERROR),
    (encode_frame(FrameType.LISTEN, seq=1 << 63), CloseCode.LIMIT_ERROR),
    (encode_frame(FrameType.OPEN, stream=FIRST), CloseCode.STREAM_ERROR),
    (encode_frame(FrameType.ACK, stream=FIRST), CloseCode.STREAM_ERROR),
])
def test_a_client_that_breaks_the_rules(frame, code):
    assert outcome(lone(is_server=True), frame) == code


@pytest.mark.parametrize("frame, code", [
    (encode_frame(FrameType.LISTEN, seq=1, payload=PLACE), CloseCode.STATE_ERROR),
    (encode_frame(FrameType.OPEN, stream=1), CloseCode.STREAM_ERROR),
    (encode_frame(FrameType.OPEN, stream=FIRST) * 2, CloseCode.STREAM_ERROR),
    (encode_frame(FrameType.LISTENING, seq=MAX_PLACES + 1), CloseCode.LIMIT_ERROR),
    (encode_frame(FrameType.ACK, stream=FIRST), CloseCode.STREAM_ERROR),
    (encode_frame(FrameType.DATA, stream=FIRST, payload=b"x"), CloseCode.STREAM_ERROR),
])
def test_a_server_that_breaks_the_rules(frame, code):
    assert outcome(served_client(), frame) == code


@pytest.mark.parametrize("frame", [encode_frame(FrameType.OPEN, stream=FIRST),
                                   encode_frame(FrameType.LISTENING, seq=1, ack=1)])
def test_a_server_that_was_not_asked(frame):
    assert outcome(lone(is_server=False), frame) == CloseCode.STATE_ERROR


def test_before_the_end_of_the_list_nobody_asks():
    assert outcome(lone(is_server=True, active=False), encode_frame(FrameType.LISTEN, seq=1)) == CloseCode.STATE_ERROR


def test_who_asks_and_does_not_read_the_answers_ends():
    server = lone(is_server=True)
    asked = encode_frame(FrameType.LISTEN, seq=1, payload=PLACE)
    for _ in range(100_000 // 228):
        if outcome(server, asked) is not None:
            break
        answer_listen(server.session, 1, False, b"no" * 100)
    assert server.session.state == CarrierState.CLOSED_FOR_GOOD


def test_more_streams_than_the_client_serves():
    client = served_client(max_streams=2)
    for number in range(4):
        assert outcome(client, encode_frame(FrameType.OPEN, stream=FIRST + number)) is None
    resets = [frame for frame in frames_of(client.transmit(1 << 20)) if frame[0] == FrameType.RESET]
    assert {(frame[2], frame[3]) for frame in resets} == {(FIRST + 2, ResetCode.STREAM_LIMIT),
                                                          (FIRST + 3, ResetCode.STREAM_LIMIT)}
    for number in range(100_000):
        if outcome(client, encode_frame(FrameType.OPEN, stream=FIRST + number + 10)) is not None:
            break
    assert number < 20_000, "what one peer can have remembered is bounded"


# ---- streams of the server

def opened(pair, target=b"1 127.0.0.1:9000"):
    """A stream of the server that the client knows."""
    stream = pair.server.open(target)
    assert pair.down() == [(EventKind.OPENED, stream, target)]
    return stream


def test_a_stream_of_the_server():
    pair = served_pair()
    assert opened(pair) == FIRST
    assert pair.client.open() == 1, "each side has ids of its own"
    pair.server.write(FIRST, b"request")
    assert (EventKind.DATA, FIRST, b"request", False) in pair.pump()[0]
    pair.client.write(FIRST, b"answer")
    assert (EventKind.DATA, FIRST, b"answer", False) in pair.pump()[1]
    pair.client.reset(1)
    pair.both_end(FIRST)
    pair.beat()
    pair.beat()
    assert pair.streams() == (0, 0)


def test_bytes_of_an_outage_come_once():
    pair = served_pair()
    stream = opened(pair)
    pair.server.write(stream, b"one")
    pair.pump()
    pair.lose()
    pair.server.write(stream, b"two")
    pair.client.write(stream, b"three")
    pair.attach()
    client, server = pair.pump()
    assert [event[2] for event in client if event[0] == EventKind.DATA] == [b"two"]
    assert [event[2] for event in server if event[0] == EventKind.DATA] == [b"three"]


def test_open_that_was_lost_is_repeated():
    pair = served_pair()
    stream = pair.server.open(b"1")
    pair.server.write(stream, b"first words")
    pair.server.transmit(1 << 20)
    pair.lose()
    pair.attach()
    client, _ = pair.pump()
    assert client == [(EventKind.OPENED, stream, b"1"), (EventKind.DATA, stream, b"first words", False)]


def test_a_stream_that_began_while_there_was_no_carrier():
    pair = served_pair()
    pair.lose()
    stream = pair.server.open(b"1")
    pair.attach()
    assert pair.pump()[0] == [(EventKind.OPENED, stream, b"1")]


@pytest.mark.parametrize("is_shown", [False, True], ids=["unanswered", "answered"])
def test_open_that_came_behind_the_clients_list(is_shown):
    """The client's list for the next carrier is made while the former one still brings an OPEN, and takes an answer:
    the stream goes on, is opened once, and no byte comes twice."""
    pair = served_pair()
    listed = pair.hello()
    stream = opened(pair)
    pair.server.write(stream, b"one")
    assert pair.down() == [(EventKind.DATA, stream, b"one", False)]
    pair.client.write(stream, b"answer")
    if is_shown:
        pair.up()
    pair.attach(listed)
    pair.server.write(stream, b"two")
    client, server = pair.pump()
    assert client == [(EventKind.DATA, stream, b"two", False)]
    assert [event[2] for event in server] == ([] if is_shown else [b"answer"])
    pair.both_end(stream)
    pair.beat()
    pair.beat()
    assert pair.streams() == (0, 0)


def test_reset_behind_the_clients_list():
    """The client resets such a stream; the word for it is lost."""
    pair = served_pair()
    listed = pair.hello()
    stream = opened(pair)
    pair.client.reset(stream, ResetCode.REFUSED)
    pair.client.transmit(1 << 20)
    pair.attach(listed)
    assert pair.pump()[1] == [(EventKind.RESET, stream, ResetCode.REFUSED)]


def test_a_stream_that_the_client_has_finished_is_reset():
    """The server's is in no list of the client's, and the client had shown that it knew it."""
    pair = served_pair()
    stream = opened(pair)
    pair.client.write(stream, b"x")
    pair.pump()
    pair.lose()
    pair.attach(encode_frame(FrameType.RESUME, flags=FrameFlag.END, ack=stream))
    assert pair.server_events[0] == (EventKind.RESET, stream, ResetCode.UNKNOWN_STREAM)


def test_a_stream_that_the_server_lacks_is_reset():
    pair = served_pair()
    stream = opened(pair)
    pair.lose()
    client = pair.client
    client.session.attach(pair.epoch + 1, 16384, 65536, b"", pair.now)
    events = client.receive(encode_frame(FrameType.RESUME, flags=FrameFlag.END), pair.now, take_all)
    assert (EventKind.RESET, stream, ResetCode.UNKNOWN_STREAM) in events


def test_ids_come_again():
    """After the last id comes the first; the other side's are never given."""
    for is_server in (False, True):
        one = lone(is_server=is_server)
        kind = SERVER_STREAM if is_server else 0
        one.skip_ids(SERVER_STREAM - 2)
        assert [one.open() for _ in range(3)] == [kind | SERVER_STREAM - 1, kind | 1, kind | 2]
        late = encode_frame(FrameType.ACK, stream=kind | SERVER_STREAM - 3)
        assert outcome(one, late) is None, "forgotten by both"
