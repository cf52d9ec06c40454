"""What is sent on the carrier next: order, batches, turns, and frames that are no longer needed."""

from mproxy._frames import encode_frame
from mproxy._wire import FrameFlag, FrameType
from tests.unit.session_pair import Pair, frames_of, lone, make_config, take_none

BIG = make_config(window_bytes=1 << 20, session_budget_bytes=1 << 23)


def write_all(one, stream, data):
    """Write everything; the limits must allow it."""
    while data:
        done = one.write(stream, data)
        assert done
        data = data[done:]


def opened(config=BIG, count=1):
    """A client on a carrier with `count` streams whose OPEN has left."""
    client = lone(is_server=False, config=config)
    streams = [client.open() for _ in range(count)]
    while client.transmit(1 << 20):
        pass
    return client, streams


def test_open_comes_first_and_data_needs_no_answer():
    client = lone(is_server=False)
    stream = client.open(b"host:23")
    client.write(stream, b"hello")
    assert frames_of(client.transmit(1 << 20)) == [
        (FrameType.OPEN, 0, stream, 0, 0, b"host:23"), (FrameType.DATA, 0, stream, 0, 0, b"hello")]


def test_the_end_rides_on_the_last_data():
    client, (stream,) = opened()
    client.write(stream, b"bye")
    client.end(stream)
    assert frames_of(client.transmit(1 << 20)) == [(FrameType.DATA, FrameFlag.FIN, stream, 0, 0, b"bye")]


def test_an_end_alone_is_an_empty_frame():
    client, (stream,) = opened()
    client.end(stream)
    assert frames_of(client.transmit(1 << 20)) == [(FrameType.DATA, FrameFlag.FIN, stream, 0, 0, b"")]


def test_little_data_overtakes_bulk():
    client, (bulk, keys) = opened(count=2)
    write_all(client, bulk, bytes(300_000))
    client.write(keys, b"k")
    assert [frame[2] for frame in frames_of(client.transmit(1 << 20))] == [keys, bulk, bulk]


def test_bulk_gets_a_turn_among_many_small():
    client, (bulk, *small) = opened(count=30)
    write_all(client, bulk, bytes(300_000))
    for stream in small:
        write_all(client, stream, bytes(16_000))
    order = [frame[2] for frame in frames_of(client.transmit(600_000))]
    assert order.index(bulk) < 12, "bulk waits for more than the run of small ones"


def test_bulk_streams_take_turns():
    client, (one, other) = opened(count=2)
    write_all(client, one, bytes(600_000))
    write_all(client, other, bytes(600_000))
    order = [frame[2] for frame in frames_of(client.transmit(1 << 20))]
    assert order[:4] == [one, other, one, other]


def test_a_frame_that_began_is_finished_in_pieces():
    client, (stream,) = opened()
    data = bytes(range(256)) * 100
    write_all(client, stream, data)
    sent = b""
    while piece := client.transmit(77):
        sent += piece
    assert b"".join(frame[5] for frame in frames_of(sent)) == data


def test_a_batch_holds_more_streams_than_plans():
    client, streams = opened(count=300)
    for stream in streams:
        client.write(stream, b"%d" % stream)
    sent = client.transmit(5)
    while piece := client.transmit(1 << 20):
        sent += piece
    assert [int(frame[5]) for frame in frames_of(sent)] == streams


def test_a_begun_frame_of_a_reset_stream_is_still_finished():
    client, (stream,) = opened()
    write_all(client, stream, b"x" * 20_000)
    begun = client.transmit(1000)
    client.reset(stream)
    types = [frame[0] for frame in frames_of(begun + client.transmit(1 << 20))]
    assert types == [FrameType.DATA, FrameType.RESET]


def test_an_ack_may_overtake_the_repetition_it_makes_needless():
    """A client's RESUME list is old when it arrives, so the server may repeat bytes that were delivered already."""
    pair = Pair(BIG)
    pair.attach()
    stream = pair.client.open()
    pair.pump()
    old_list = pair.hello()
    write_all(pair.server, stream, b"y" * 300_000)
    pair.down(take_none)
    pair.attach(old_list)
    begun = pair.server.transmit(100)
    pair.client.hand(stream, 1 << 20)
    pair.up()
    assert pair.server.look(stream)["out_capacity"] == 0
    rest = begun + pair.server.transmit(1000)
    write_all(pair.server, stream, b"z" * 50_000)
    while piece := pair.server.transmit(1 << 20):
        rest += piece
    pair.client.receive(rest, pair.now, take_none)
    data, _ended = pair.client.hand(stream, 1 << 20)
    assert data == b"z" * 50_000


def test_control_frames_go_before_streams():
    server = lone(is_server=True)
    server.receive(encode_frame(FrameType.OPEN, stream=1), 2000, take_none)
    server.write(1, b"data")
    server.session.probe(2000)
    assert [frame[0] for frame in frames_of(server.transmit(1 << 20))] == [FrameType.HEARTBEAT, FrameType.DATA]


def test_a_reset_goes_before_bytes_that_take_its_place():
    """The peer counts the stream's bytes in its budget until it reads the RESET."""
    client, (lost, other, *small) = opened(count=40)
    for stream in small:
        write_all(client, stream, bytes(16_000))
    write_all(client, other, bytes(100_000))
    client.reset(lost)
    first = frames_of(client.transmit(1 << 20))[0]
    assert first[:3] == (FrameType.RESET, 0, lost)
