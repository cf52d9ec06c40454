"""The session's state machine: streams, ends, resume, heartbeats, limits, and broken peers."""

import pytest

from mproxy._frames import encode_frame
from mproxy._session import CarrierState, EventKind, Session
from mproxy._wire import FrameFlag, FrameType, ResetCode
from tests.unit.session_pair import (
    BEAT_US,
    Pair,
    end_mark,
    frames_of,
    heartbeat,
    lone,
    make_config,
    take_all,
    take_none,
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


def test_last_ack_lost_and_the_peers_told_by_its_list(pair):
    """The same, but the server's list finishes the stream: the client still owes its last ack afterwards."""
    stream = started(pair)
    pair.client.end(stream)
    old_list = pair.hello()
    pair.up()
    pair.server.write(stream, b"answer")
    pair.server.end(stream)
    pair.down()
    pair.client.hand(stream, 0)
    pair.client.release(stream)
    pair.client.transmit(1 << 20)
    assert not pair.client.look(stream)["out_done"]
    pair.server.hand(stream, 0)
    pair.server.release(stream)
    pair.attach(old_list)
    pair.client.session.probe(pair.now)
    sent = pair.client.transmit(1 << 20)
    pair.client.receive(heartbeat(echo_of=pair.now), pair.now, take_all)
    pair.server.receive(sent, pair.now, take_all)
    assert pair.server.look(stream)["out_done"]
    assert pair.pump() == ([], [])
    pair.beat()
    pair.beat()
    assert pair.streams() == (0, 0)


def test_no_stream_is_forgotten_under_a_planned_frame(pair):
    """A peer may claim to have read what was not even sent yet."""
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


# ---- resume: what the other side does not list

def test_stream_opened_after_hello_left(pair):
    """The client's list for the new carrier lacks a stream that the old carrier still brought to the server."""
    old_list = pair.hello()
    stream = pair.client.open()
    pair.client.write(stream, b"question")
    pair.up()
    pair.server.write(stream, b"answer")
    pair.server.transmit(1 << 20)
    pair.attach(old_list)
    assert [event[:3] for event in pair.pump()[0]] == [(EventKind.DATA, stream, b"answer")]
    pair.both_end(stream)
    pair.beat()
    pair.beat()
    assert pair.streams() == (0, 0)


def test_reset_of_a_stream_whose_open_was_lost(pair):
    """The server never heard of the stream, so a RESET would refer to a stream that was never opened."""
    stream = pair.client.open()
    pair.client.transmit(1 << 20)
    pair.lose()
    pair.client.reset(stream)
    pair.attach()
    assert pair.pump() == ([], [])
    pair.beat()
    pair.beat()
    assert pair.streams() == (0, 0)


def test_lost_open_is_sent_again_with_its_data(pair):
    stream = pair.client.open(b"host:23")
    pair.client.write(stream, b"hello")
    pair.client.transmit(1 << 20)
    pair.lose()
    pair.attach()
    events = pair.pump()[1]
    assert events == [(EventKind.OPENED, stream, b"host:23"), (EventKind.DATA, stream, b"hello", False)]


def test_application_that_has_seen_both_ends_is_not_reset(pair):
    """The server has finished with the stream and forgotten it; here the application has not closed yet."""
    stream = started(pair)
    for one in (pair.client, pair.server):
        one.end(stream)
    pair.pump()
    for one in (pair.client, pair.server):
        one.hand(stream, 0)
    pair.server.release(stream)
    pair.pump()
    pair.beat()
    pair.beat()
    assert pair.streams() == (1, 0)
    assert pair.attach() == ([(EventKind.RESUMED,)], [(EventKind.RESUMED,)])
    pair.client.release(stream)
    pair.beat()
    pair.beat()
    assert pair.streams() == (0, 0)


@pytest.mark.parametrize("is_server", [True, False])
def test_stream_that_the_peer_does_not_know_is_reset(is_server):
    one = lone(is_server=is_server)
    if is_server:
        one.receive(encode_frame(FrameType.OPEN, stream=1), 2000, take_all)
    else:
        one.open()
        one.transmit(1 << 20)
        one.receive(encode_frame(FrameType.ACK, stream=1), 2000, take_all)
    one.session.attach(2, 16384, 65536, b"", 3000)
    events = one.receive(end_mark(newest=1), 3000, take_all)
    assert events == [(EventKind.RESET, 1, ResetCode.UNKNOWN_STREAM), (EventKind.RESUMED,)]


def test_newer_than_the_list_also_when_ids_wrapped():
    one = lone(is_server=True)
    one.receive(encode_frame(FrameType.OPEN, stream=3), 2000, take_all)
    one.session.attach(2, 16384, 65536, b"", 3000)
    assert one.receive(end_mark(newest=0xFFFFFFF0), 3000, take_all) == [(EventKind.RESUMED,)]


def test_ack_lost_behind_an_old_list(pair):
    """All bytes arrived before HELLO left, but their ack left later and is lost: the writer must not wait for ever."""
    stream = started(pair)
    while pair.server.write(stream, bytes(16384)):
        pair.down(take_none)
    old_list = pair.hello()
    pair.client.hand(stream, 1 << 20)
    pair.client.transmit(1 << 20)
    pair.attach(old_list)
    pair.pump()
    assert pair.server.session.streams.out_held == 0
    assert stream in pair.server.spaces()


# ---- heartbeats

def test_echo_of_a_later_heartbeat_counts(pair):
    """A peer that was stopped reads several heartbeats at once and answers the newest: the barrier must not stick."""
    stream = started(pair)
    pair.both_end(stream)
    late = b""
    for _ in range(3):
        pair.now += BEAT_US
        pair.client.session.handle_timeout(pair.now)
        late += pair.client.transmit(1 << 20)
    pair.now += 5000
    pair.server.receive(late, pair.now, take_all)
    echoes = frames_of(pair.server.transmit(1 << 20))
    assert [frame[4] for frame in echoes if frame[1] & FrameFlag.REPLY] == [1000 + 3 * BEAT_US]
    pair.client.receive(heartbeat(echo_of=1000 + 3 * BEAT_US), pair.now, take_all)
    assert pair.client.look(stream) is None
    assert pair.client.session.streams.rtt_us == 5000


@pytest.mark.parametrize("echo", [0, 999, 1 << 40, 1 << 63, (1 << 64) - 1])
def test_echo_of_nothing_we_sent_is_ignored(pair, echo):
    pair.client.session.probe(2000)
    pair.client.receive(heartbeat(echo_of=echo), 3000, take_all)
    assert pair.client.session.streams.rtt_us == -1


def echoed_after(pair, rtt_us):
    """What the client knows of the path after one more heartbeat."""
    pair.now += BEAT_US
    pair.client.session.probe(pair.now)
    pair.client.receive(heartbeat(echo_of=pair.now), pair.now + rtt_us, take_all)
    return pair.client.session.streams.rtt_us


def test_round_trip_time_is_the_shortest_of_late(pair):
    """Our own queue lengthens single round trips; if the path becomes longer for good, that is noticed in time."""
    assert echoed_after(pair, 8000) == 8000
    assert echoed_after(pair, 16000) == 8125
    assert echoed_after(pair, 2000) == 2000
    for _ in range(8):
        slow = echoed_after(pair, 100_000)
    assert 10_000 < slow < 15_000


# ---- frames of the peer

@pytest.mark.parametrize("frame_type", [0, 100, 255])
def test_unknown_type_that_may_be_ignored_is_skipped(pair, frame_type):
    """Type 0 is treated like any other unknown type; its numbers have no meaning."""
    stream = started(pair)
    skipped = encode_frame(
        frame_type, flags=FrameFlag.IGNORABLE, stream=stream, seq=99, ack=77, payload=b"of a later version")
    for one in (pair.client, pair.server):
        assert one.receive(skipped, pair.now, take_all) == []
        assert one.session.state == CarrierState.ACTIVE


# ---- acks

def test_full_buffer_whose_bytes_have_left_asks_for_an_ack():
    config = make_config(window_bytes=1 << 20, session_budget_bytes=1 << 20)
    pair = Pair(config)
    pair.attach()
    streams = [started(pair) for _ in range(12)]
    for stream in streams:        # each delivered and below what calls for an ack; together the whole budget
        while pair.client.write(stream, bytes(4096)) and pair.client.look(stream)["written"] < 120_000:
            pass
        pair.pump()
    stream = streams[-1]
    assert pair.client.session.streams.out_held > config.session_budget_bytes // 2
    while pair.client.write(stream, bytes(1024)):
        pair.up()
    pair.pump()
    assert pair.client.look(stream)["acked"] == pair.client.look(stream)["written"]
    assert stream in pair.client.spaces()


def test_bulk_beyond_what_waits_stays_with_its_application():
    """While two streams wait with bulk a third gives little, and then nothing until its turn comes: when the carrier
    took enough, or is lost."""
    pair = Pair(make_config(window_bytes=1 << 20, session_budget_bytes=1 << 24))
    pair.attach()
    client = pair.client
    one, two, three = (started(pair) for _ in range(3))
    for stream in (one, two):
        assert client.turn(stream, 65536) == 65536
        client.write(stream, bytes(65536))
    assert client.turn(one, 65536) == 0
    assert client.turn(three, 65536) == 16384
    client.write(three, bytes(16384))
    assert client.turn(three, 65536) == 0
    assert client.spaces() == []
    client.transmit(1 << 20)
    assert client.spaces() == [one, three]
    for stream in (one, two):
        assert client.turn(stream, 65536) == 65536
        client.write(stream, bytes(65536))
    assert client.turn(one, 65536) == 0
    pair.lose()
    assert client.spaces() == [one]
    assert client.turn(two, 65536) == 65536


@pytest.mark.parametrize("small_is_server", [True, False])
def test_acks_follow_the_smaller_window(small_is_server):
    """A stream that fills a small window and ends does not ask for an ack; its end must not wait for a heartbeat."""
    big, small = make_config(window_bytes=65536), make_config(window_bytes=4096)
    pair = Pair(*((big, small) if small_is_server else (small, big)))
    pair.attach()
    stream = started(pair)
    for one in (pair.client, pair.server):
        assert one.write(stream, bytes(4096)) == 4096
        one.end(stream)
    pair.pump()
    assert pair.client.look(stream)["in_ended"] and pair.server.look(stream)["in_ended"]


def test_ack_of_what_little_was_delivered_waits_for_the_heartbeat(pair):
    stream = started(pair)
    pair.client.write(stream, b"key")
    pair.pump()
    assert pair.client.look(stream)["acked"] == 0
    pair.beat()
    assert pair.client.look(stream)["acked"] == 3


# ---- no memory for what has no use

def test_streams_that_come_and_go_without_a_carrier_leave_nothing():
    """Applications that try again every second through a long outage must not fill the memory."""
    pair = Pair()
    for attempt in range(3):
        for _ in range(5):
            stream = pair.client.open(b"host:23")
            pair.client.write(stream, b"hello")
            pair.client.reset(stream)
        assert pair.streams() == (0, 0)
        assert pair.client.session.streams.out_held == 0
        if attempt == 1:
            pair.attach()
            pair.lose()
    kept = pair.client.open()
    pair.attach()
    assert pair.pump()[1] == [(EventKind.OPENED, kept, b"")]


def test_peer_that_reads_nothing_gets_no_heap_of_heartbeats(pair):
    for at in range(5000):
        pair.now += 1000
        pair.client.session.probe(pair.now)
        pair.client.receive(heartbeat(at + 1), pair.now, take_all)
        pair.client.transmit(1)
    assert len(pair.client.transmit(1 << 20)) < 80_000


@pytest.mark.parametrize("code", [11, 255, 1 << 40])
def test_unknown_reset_code_is_an_ordinary_reset(pair, code):
    """This holds for the code of a RESET and for that in a RESUME."""
    first, second = started(pair), started(pair)
    events = pair.client.receive(encode_frame(FrameType.RESET, stream=first, seq=code), pair.now, take_all)
    assert events == [(EventKind.RESET, first, ResetCode.APPLICATION)]
    pair.lose()
    pair.client.session.attach(pair.epoch + 1, 16384, 65536, b"", pair.now)
    ended = encode_frame(FrameType.RESUME, flags=FrameFlag.DONE | FrameFlag.ABORTED, stream=second, seq=code, ack=code)
    events = pair.client.receive(ended, pair.now, take_all)
    assert events == [(EventKind.RESET, second, ResetCode.APPLICATION)]


def test_no_room_for_an_application_whose_stream_was_reset(pair):
    """The I/O layer may ask once more before it releases the stream."""
    stream = started(pair)
    pair.client.receive(encode_frame(FrameType.RESET, stream=stream), pair.now, take_all)
    assert pair.client.write(stream, b"late") == 0
    assert pair.client.session.streams.out_held == 0


def test_few_streams_allowed_many_short_ones_in_a_row():
    """Finished streams are forgotten by echo; a fast client with a low limit must not look like an attacker."""
    pair = Pair(make_config(max_streams=2))
    pair.attach()
    for _ in range(6000):
        stream = pair.client.open()
        pair.client.end(stream)
        pair.up()
        pair.server.end(stream)
        pair.server.hand(stream, 0)
        pair.server.release(stream)
        pair.down()
        pair.client.hand(stream, 0)
        pair.client.release(stream)
    pair.pump()
    assert max(pair.streams()) < 1100


def test_broken_configuration_is_an_ordinary_error():
    with pytest.raises(AttributeError):
        Session(object(), is_server=True)
