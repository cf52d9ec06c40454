"""What the session refuses, when it considers a carrier suspect or dead, and which limits it keeps."""

import pytest
from tests.drivers._pysession import PySession

from mproxy._frames import encode_frame
from mproxy._session import CarrierState, EventKind, Session
from mproxy._wire import CloseCode, FrameFlag, FrameType, ResetCode
from mproxy.ground.errors import LocalError
from tests.unit.session_pair import (
    BEAT_US,
    SECRET,
    SESSION_ID,
    Pair,
    end_mark,
    frames_of,
    heartbeat,
    lone,
    make_config,
    take_all,
    take_none,
)

# ---- frames that are wrong at this point

OPEN = encode_frame(FrameType.OPEN, stream=1)
DATA = encode_frame(FrameType.DATA, stream=1, payload=b"x")
FAR_DATA = encode_frame(FrameType.DATA, stream=9, payload=b"x")
FAR_ACK = encode_frame(FrameType.ACK, stream=9)
FAR_RESET = encode_frame(FrameType.RESET, stream=9)
LISTED = encode_frame(FrameType.RESUME, stream=1)
HELLO = encode_frame(FrameType.HELLO, payload=bytes(144))
WELCOME = encode_frame(FrameType.WELCOME, payload=bytes(168))
FOREIGN_BEAT = encode_frame(FrameType.HEARTBEAT, payload=b"another session!")


def outcome(one, data):
    """The code that `data` makes the session close with, or None."""
    closed = [event for event in one.receive(data, 2000, take_all) if event[0] == EventKind.CLOSED]
    assert len(closed) <= 1
    if not closed:
        return None
    assert closed[0][3], "this side found the reason"
    goodbye = [frame for frame in frames_of(one.transmit(1 << 20)) if frame[0] == FrameType.GOODBYE]
    assert [(frame[3], frame[5]) for frame in goodbye] == [(closed[0][1], closed[0][2])]
    assert closed[0][2], "the peer is told in words, too"
    return closed[0][1]


@pytest.mark.parametrize("is_server", [True, False])
@pytest.mark.parametrize("frame, code", [
    (HELLO, CloseCode.STATE_ERROR), (WELCOME, CloseCode.STATE_ERROR), (end_mark(), CloseCode.STATE_ERROR),
    (LISTED, CloseCode.STATE_ERROR), (FOREIGN_BEAT, CloseCode.STATE_ERROR), (FAR_DATA, CloseCode.STREAM_ERROR),
    (FAR_ACK, CloseCode.STREAM_ERROR), (FAR_RESET, CloseCode.STREAM_ERROR), (heartbeat(5), None),
    (heartbeat(echo_of=5), None), (b"\0" * 28, CloseCode.FRAME_ERROR),
])
def test_active(is_server, frame, code):
    assert outcome(lone(is_server=is_server), frame) == code


@pytest.mark.parametrize("is_server", [True, False])
@pytest.mark.parametrize("frame, code", [
    (OPEN, CloseCode.STATE_ERROR), (DATA, CloseCode.STATE_ERROR), (FAR_ACK, CloseCode.STATE_ERROR),
    (FAR_RESET, CloseCode.STATE_ERROR), (HELLO, CloseCode.STATE_ERROR), (LISTED, None), (end_mark(), None),
    (heartbeat(5), None),
])
def test_resuming(is_server, frame, code):
    assert outcome(lone(is_server=is_server, active=False), frame) == code


def test_open_is_the_clients_to_say_and_once():
    assert outcome(lone(is_server=False), OPEN) == CloseCode.STATE_ERROR
    assert outcome(lone(is_server=True), OPEN + OPEN) == CloseCode.STREAM_ERROR


def test_data_for_a_forgotten_stream():
    pair = Pair()
    pair.attach()
    stream = pair.client.open()
    pair.pump()
    pair.both_end(stream)
    pair.beat()
    pair.beat()
    assert pair.streams() == (0, 0)
    late = encode_frame(FrameType.RESET, stream=stream) + encode_frame(FrameType.ACK, stream=stream)
    assert outcome(pair.server, late) is None
    assert outcome(pair.server, encode_frame(
        FrameType.DATA, stream=stream, payload=b"x")) == CloseCode.STREAM_ERROR


@pytest.mark.parametrize("received, ack, code", [
    (0, 0, None), (50, 50, None), (50, 0, None), (100, 0, None), (101, 0, CloseCode.OFFSET_ERROR),
    ((1 << 64) - 1, 0, CloseCode.OFFSET_ERROR), (50, 51, CloseCode.OFFSET_ERROR),
    (200, 150, CloseCode.OFFSET_ERROR),
])
def test_claims_of_a_resume(received, ack, code):
    """A peer may claim only what was sent: 100 of 150 bytes left before the carrier was lost."""
    client = lone(is_server=False)
    stream = client.open()
    client.write(stream, bytes(150))
    client.transmit(28 + 28 + 100)
    client.session.attach(2, 16384, 65536, b"", 2000)
    claim = encode_frame(FrameType.RESUME, stream=stream, seq=received, ack=ack)
    assert outcome(client, claim) == code
    if code is None:
        client.receive(end_mark(), 2000, take_all)
        sent = [frame for frame in frames_of(client.transmit(1 << 20)) if frame[0] == FrameType.DATA]
        assert [(frame[3], len(frame[5])) for frame in sent] == [(received, 150 - received)]
        assert client.session.streams.resend_bytes == 100 - received


def test_goodbye_ends_it_without_an_answer():
    one = lone(is_server=True)
    assert one.receive(encode_frame(FrameType.GOODBYE, seq=1, payload=b"bye"), 2000, take_all) == [
        (EventKind.CLOSED, CloseCode.SHUTDOWN, b"bye", False)]
    assert one.transmit(1 << 20) == b""
    assert one.session.state == CarrierState.CLOSED_FOR_GOOD


def test_close_tells_the_peer_after_what_was_begun():
    pair = Pair()
    pair.attach()
    stream = pair.client.open()
    pair.client.write(stream, bytes(1000))
    begun = pair.client.transmit(100)
    pair.client.session.close(CloseCode.SHUTDOWN, "going down")
    frames = frames_of(begun + pair.client.transmit(1 << 20))
    assert [frame[0] for frame in frames] == [FrameType.OPEN, FrameType.DATA, FrameType.GOODBYE]
    assert pair.client.open() == 0
    with pytest.raises(LocalError):
        pair.client.session.attach(9, 16384, 65536, b"", 2000)


def test_attach_needs_identity_and_a_higher_epoch():
    one = PySession(Session(make_config(), is_server=False))
    with pytest.raises(LocalError):
        one.session.attach(1, 16384, 65536, b"", 1000)
    one.session.learn_identity(SESSION_ID, SECRET)
    with pytest.raises(LocalError):
        one.session.learn_identity(SESSION_ID, SECRET)
    one.session.attach(5, 16384, 65536, b"", 1000)
    for epoch in (0, 4, 5):
        with pytest.raises(LocalError):
            one.session.attach(epoch, 16384, 65536, b"", 1000)


# ---- liveness: received last at 1000

def at(one, *beats):
    """(suspect, dead) when every deadline up to 1000 + each number of beats was kept."""
    result = []
    for count in beats:
        until = 1000 + round(count * BEAT_US)
        while one.session.deadline() <= until:
            one.session.handle_timeout(one.session.deadline())
            one.transmit(1 << 20)
        result.append((one.session.suspect, one.session.dead))
    return result


@pytest.mark.parametrize("misses, suspect_after, dead_after", [(2, 2, 2), (3, 2, 3), (5, 2, 5)])
def test_suspect_and_dead_to_the_microsecond(misses, suspect_after, dead_after):
    one = lone(is_server=False, config=make_config(misses=misses))
    tick = 1 / BEAT_US
    assert at(one, suspect_after - tick, suspect_after) == [(False, False), (True, dead_after == 2)]
    assert at(one, dead_after - tick)[0][1] is (dead_after == 2)
    assert at(one, dead_after) == [(True, True)]


def test_any_byte_counts_as_life():
    one = lone(is_server=False)
    assert at(one, 2) == [(True, False)]
    one.receive(heartbeat(7)[:1], 1000 + 2 * BEAT_US, take_all)
    assert at(one, 2) == [(False, False)]
    assert at(one, 3.9, 4) == [(False, False), (True, False)]


@pytest.mark.parametrize("path_beats, suspect_after, dead_after", [(0.1, 2, 3), (0.9, 2, 3.6), (2, 4, 8), (30, 30, 60)])
def test_a_slow_path_is_granted_more_silence(path_beats, suspect_after, dead_after):
    """Right: two and four times the time of an answer, if that is longer; at most 15 s count for a path."""
    one = lone(is_server=False)
    one.note_path(round(path_beats * BEAT_US))
    tick = 1 / BEAT_US
    assert at(one, suspect_after - tick, suspect_after) == [(False, False), (True, False)]
    assert at(one, dead_after - tick, dead_after) == [(True, False), (True, True)]


def test_what_moves_on_the_carrier_is_life():
    one = lone(is_server=False)
    assert at(one, 2.5) == [(True, False)]
    one.note_life(1000 + round(2.5 * BEAT_US))
    assert (one.session.suspect, one.session.dead) == (False, False)
    assert one.session.received_at == 1000
    assert at(one, 4.4, 4.5, 5.5) == [(False, False), (True, False), (True, True)]


def test_patience_grows_where_carriers_were_of_no_use():
    one = lone(is_server=True)
    one.grant(4)
    assert at(one, 2, 11.9, 12) == [(True, False), (True, False), (True, True)]


@pytest.mark.parametrize("path_s, asked_after_s", [(0, 1), (0.4, 1), (3, 6)])
def test_a_byte_that_is_not_answered_is_asked_after(path_s, asked_after_s):
    """Right: with a heartbeat of an hour, one more is sent after a second or two round trips, and doubt follows."""
    one = lone(is_server=False, config=make_config(heartbeat_us=3600 * 1_000_000))
    one.transmit(1 << 20)
    one.session.handle_timeout(1000)
    one.transmit(1 << 20)
    one.note_path(round(path_s * 1_000_000))
    one.note_sent(5_000_000)
    asked_at = 5_000_000 + asked_after_s * 1_000_000
    assert one.session.deadline() == asked_at
    one.session.handle_timeout(asked_at)
    assert one.transmit(1 << 20)
    assert not one.session.suspect
    assert one.session.deadline() == asked_at + asked_after_s * 1_000_000
    one.session.handle_timeout(one.session.deadline())
    assert (one.session.suspect, one.session.dead) == (True, False)


def test_an_answer_ends_the_question():
    one = lone(is_server=False, config=make_config(heartbeat_us=3600 * 1_000_000))
    one.note_sent(5_000_000)
    one.session.handle_timeout(6_000_000)
    one.receive(heartbeat(7), 6_100_000, take_all)
    assert one.session.deadline() > 3600 * 1_000_000
    assert not one.session.suspect


@pytest.mark.parametrize("misses", [2, 3, 10])
def test_late_clock_grants_an_interval_anew(misses):
    """A process that was stopped for a minute has heard nothing, but the carrier is not to blame."""
    one = lone(is_server=False, config=make_config(misses=misses))
    woken = 1000 + 60 * BEAT_US
    one.session.handle_timeout(woken)
    assert (one.session.suspect, one.session.dead) == (False, False)
    while not one.session.dead:
        judged_at = one.session.deadline()
        one.session.handle_timeout(judged_at)
    assert judged_at == woken + (misses - 1) * BEAT_US


def test_call_before_its_time_does_nothing():
    one = lone(is_server=False)
    one.transmit(1 << 20)
    while one.session.deadline() <= 1000:
        one.session.handle_timeout(1000)
        one.transmit(1 << 20)
    one.session.handle_timeout(1000 + BEAT_US - 1)
    assert one.transmit(1 << 20) == b""


def test_no_deadline_without_a_carrier():
    one = lone(is_server=False)
    one.session.carrier_lost()
    assert one.session.deadline() > 1 << 62
    assert not one.session.wants_transmit()


def test_heartbeat_every_interval_and_an_answer_to_each():
    pair = Pair()
    pair.attach()
    pair.pump()
    beats = []
    for _ in range(3):
        pair.now += BEAT_US
        pair.client.session.handle_timeout(pair.now)
        beats += frames_of(pair.client.transmit(1 << 20))
        pair.server.receive(heartbeat(pair.now), pair.now, take_all)
        echo = [frame for frame in frames_of(pair.server.transmit(1 << 20)) if frame[1] & FrameFlag.REPLY]
        assert [frame[4] for frame in echo] == [pair.now]
    assert [(frame[0], frame[3]) for frame in beats] == [
        (FrameType.HEARTBEAT, 1000 + count * BEAT_US) for count in (1, 2, 3)]


# ---- limits

def test_more_streams_than_allowed_are_reset():
    server = lone(is_server=True, config=make_config(max_streams=3))
    opened = b"".join(encode_frame(FrameType.OPEN, stream=stream) for stream in range(1, 6))
    events = server.receive(opened, 2000, take_all)
    assert [event[1] for event in events if event[0] == EventKind.OPENED] == [1, 2, 3]
    assert [(frame[0], frame[2], frame[3]) for frame in frames_of(server.transmit(1 << 20))
            if frame[0] == FrameType.RESET] == [
        (FrameType.RESET, 5, ResetCode.STREAM_LIMIT), (FrameType.RESET, 4, ResetCode.STREAM_LIMIT)]


def test_client_opens_no_more_than_allowed():
    client = lone(is_server=False, config=make_config(max_streams=3))
    streams = [client.open() for _ in range(4)]
    assert streams == [1, 2, 3, 0]
    client.reset(2)
    assert client.open() == 4


@pytest.mark.parametrize("small_is_server", [True, False])
def test_the_smaller_budget_rules(small_is_server):
    """A stream gets a share of what is free, at least 4 KiB: none starves, and the receiver's limit is not reached."""
    big, small = make_config(session_budget_bytes=1 << 20), make_config(session_budget_bytes=20_000)
    pair = Pair(*((big, small) if small_is_server else (small, big)))
    pair.attach()
    streams = [pair.client.open() for _ in range(10)]
    pair.pump()
    for stream in streams:
        while pair.client.write(stream, bytes(1000)):
            pair.pump(take_none)
    written = [pair.client.look(stream)["written"] for stream in streams]
    assert written[0] > written[-1] == 4096
    assert pair.client.session.streams.out_held <= 20_000 + 10 * 4096
    assert pair.server.session.state == CarrierState.ACTIVE
    for stream in streams:
        pair.server.hand(stream, 1 << 20)
    pair.pump(take_none)
    assert pair.client.session.streams.out_held == 0


def test_bytes_of_a_reset_stream_make_room_without_breaking_the_peers_budget():
    """The peer keeps the stream's bytes until it reads the RESET; what takes their place must come after it."""
    config = make_config(window_bytes=16384, session_budget_bytes=16384)
    pair = Pair(config)
    pair.attach()
    streams = [pair.client.open() for _ in range(6)]
    pair.pump()
    for _ in range(50):
        for stream in list(streams):
            pair.client.write(stream, bytes(8192))
            pair.up(take_none)
        pair.client.reset(streams.pop(0))
        for stream in streams:
            pair.client.write(stream, bytes(8192))
        streams.append(pair.client.open())
        pair.pump(take_none)
        assert pair.server.session.state == CarrierState.ACTIVE


def test_stream_ids_are_never_zero_and_skip_the_living():
    pair = Pair()
    pair.attach()
    first = pair.client.open()
    assert first == 1
    assert [pair.client.open() for _ in range(3)] == [2, 3, 4]
