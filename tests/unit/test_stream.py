"""The rules of a single stream, tested through a session: what enters, what is released, and what is refused.

The rules are numbered in mproxy/_stream.pyx.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mproxy._frames import encode_frame
from mproxy._session import EventKind
from mproxy._wire import CloseCode, FrameFlag, FrameType, ResetCode
from tests.unit.session_pair import Pair, frames_of, lone, make_config, take_all, take_none

WINDOW = 16384
TEXT = bytes(i * 7 % 251 for i in range(WINDOW))


@pytest.fixture
def server():
    """A server with stream 1 open."""
    server = lone(is_server=True)
    server.receive(encode_frame(FrameType.OPEN, stream=1), 2000, take_all)
    return server


def data(seq, payload, flags=0, ack=0):
    """A DATA frame of stream 1."""
    return encode_frame(FrameType.DATA, flags=flags, stream=1, seq=seq, ack=ack, payload=payload)


def closed_by(one, frame, takes=take_none):
    """The code that a frame makes the session close with, or None."""
    for event in one.receive(frame, 3000, takes):
        if event[0] == EventKind.CLOSED:
            return event[1]
    return None


# ---- rule 2: what enters

def test_bytes_in_order_are_kept_or_taken(server):
    assert server.receive(data(0, TEXT[:10]), 3000, take_all) == [(EventKind.DATA, 1, TEXT[:10], False)]
    assert server.receive(data(10, TEXT[10:20]), 3000, lambda *_: 4) == [(EventKind.DATA, 1, TEXT[10:14], False)]
    server.receive(data(20, TEXT[20:30]), 3000, take_all)
    assert server.hand(1, 3) == (TEXT[14:17], False)
    assert server.hand(1, 99) == (TEXT[17:30], False)


def test_repetition_is_skipped(server):
    server.receive(data(0, TEXT[:100]), 3000, take_all)
    assert server.receive(data(0, TEXT[:100]), 3000, take_all) == []
    assert server.receive(data(50, TEXT[50:150]), 3000, take_all) == [(EventKind.DATA, 1, TEXT[100:150], False)]


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 400)), max_size=12), st.integers(1, 500))
@settings(deadline=None, max_examples=60)
def test_any_repetition_in_any_pieces(spans, piece):
    """However data overlaps and is cut, the application gets every byte once and in order."""
    server = lone(is_server=True)
    stream = encode_frame(FrameType.OPEN, stream=1)
    reached = 0
    for back, length in spans:
        start = max(0, reached - back)
        stream += data(start, TEXT[start:start + length])
        reached = max(reached, start + length)
    got = b""
    for at in range(0, len(stream), piece):
        for event in server.receive(stream[at:at + piece], 3000, take_all):
            got += event[2] if event[0] == EventKind.DATA else b""
    assert got == TEXT[:reached]


@pytest.mark.parametrize("seq, length, code", [
    (1, 1, CloseCode.OFFSET_ERROR),
    (1 << 63, 1, CloseCode.OFFSET_ERROR),
    ((1 << 64) - 1, 2, CloseCode.OFFSET_ERROR),
    (0, WINDOW + 1, CloseCode.LIMIT_ERROR),
    (0, WINDOW, None),
])
def test_gaps_and_floods(server, seq, length, code):
    assert closed_by(server, data(seq, bytes(length))) == code


def test_window_counts_from_what_was_handed_on(server):
    assert closed_by(server, data(0, TEXT)) is None
    server.hand(1, 1000)
    assert closed_by(server, data(WINDOW, TEXT[:1000])) is None
    assert closed_by(server, data(WINDOW + 1000, b"x")) == CloseCode.LIMIT_ERROR


# ---- rule 3: the end

def test_end_is_told_behind_the_last_byte(server):
    server.receive(data(0, b"abc", FrameFlag.FIN), 3000, take_none)
    assert server.hand(1, 2) == (b"ab", False)
    assert server.hand(1, 2) == (b"c", True)


def test_repeated_end_is_acknowledged_again(server):
    server.receive(data(0, b"abc", FrameFlag.FIN), 3000, take_all)
    server.hand(1, 0)
    server.transmit(1 << 20)
    assert server.receive(data(0, b"abc", FrameFlag.FIN), 3000, take_all) == []
    assert [frame[4] for frame in frames_of(server.transmit(1 << 20))] == [4]


@pytest.mark.parametrize("frame, code", [
    (data(3, b"d"), CloseCode.OFFSET_ERROR),
    (data(0, b"ab", FrameFlag.FIN), CloseCode.OFFSET_ERROR),
    (data(2, b"cd", FrameFlag.FIN), CloseCode.OFFSET_ERROR),
    (data(0, b"ab"), None),
    (data(3, b"", FrameFlag.FIN), None),
])
def test_nothing_comes_after_the_end(server, frame, code):
    server.receive(data(0, b"abc", FrameFlag.FIN), 3000, take_all)
    assert closed_by(server, frame) == code


# ---- rule 1: what is let go

def test_ack_lets_go_of_what_it_covers(server):
    server.write(1, TEXT[:5000])
    server.transmit(1 << 20)
    server.receive(encode_frame(FrameType.ACK, stream=1, ack=3000), 3000, take_all)
    look = server.look(1)
    assert (look["acked"], look["sent"], look["written"]) == (3000, 5000, 5000)
    assert server.session.streams.out_held == 2000


@pytest.mark.parametrize("ack, code", [
    (0, CloseCode.OFFSET_ERROR), (99, CloseCode.OFFSET_ERROR), (100, None), (200, None), (201, CloseCode.OFFSET_ERROR),
    (1 << 63, CloseCode.OFFSET_ERROR), ((1 << 64) - 1, CloseCode.OFFSET_ERROR),
])
@pytest.mark.parametrize("frame_type", [FrameType.ACK, FrameType.DATA])
def test_ack_of_what_was_not_sent_or_backwards(server, frame_type, ack, code):
    server.write(1, TEXT[:200])
    server.transmit(1 << 20)
    server.receive(encode_frame(FrameType.ACK, stream=1, ack=100), 3000, take_all)
    server.write(1, TEXT[200:300])    # written, but on no carrier yet
    payload = b"x" if frame_type == FrameType.DATA else b""
    assert closed_by(server, encode_frame(frame_type, stream=1, ack=ack, payload=payload)) == code


def test_only_what_left_counts_as_sent(server):
    """If the carrier took only part of a frame, the rest was never sent."""
    server.write(1, TEXT[:200])
    server.transmit(28 + 50)
    assert server.look(1)["peak"] == 50
    assert closed_by(server, encode_frame(FrameType.ACK, stream=1, ack=51)) == CloseCode.OFFSET_ERROR


def test_end_counts_one_offset(server):
    server.write(1, b"abc")
    server.end(1)
    server.transmit(1 << 20)
    server.receive(encode_frame(FrameType.ACK, stream=1, ack=3), 3000, take_all)
    assert not server.look(1)["out_done"]
    server.receive(encode_frame(FrameType.ACK, stream=1, ack=4), 3000, take_all)
    assert server.look(1)["out_done"]


# ---- rule 4: reset

@pytest.mark.parametrize("ours", [True, False], ids=["our reset", "peer's reset"])
def test_no_byte_moves_after_a_reset(server, ours):
    server.write(1, TEXT[:200])
    server.receive(data(0, TEXT[:200]), 3000, take_none)
    if ours:
        server.reset(1)
        server.transmit(1 << 20)
    else:
        assert server.receive(encode_frame(FrameType.RESET, stream=1), 3000, take_all) == [(EventKind.RESET, 1, 0)]
    assert (server.session.streams.out_held, server.session.streams.in_held) == (0, 0)
    assert server.receive(data(200, b"more"), 3000, take_all) == []
    assert server.transmit(1 << 20) == b""


def test_half_close_lets_the_answer_through():
    pair = Pair()
    pair.attach()
    stream = pair.client.open()
    pair.client.write(stream, b"question")
    pair.client.end(stream)
    pair.pump()
    assert pair.server.hand(stream, 0)[1]
    answer = b""
    for _ in range(20):
        pair.server.write(stream, TEXT)
        answer += b"".join(event[2] for event in pair.pump()[0])
    pair.server.end(stream)
    pair.pump()
    assert answer == TEXT * 20
    assert pair.client.hand(stream, 0)[1]


def test_the_vanished_application_is_heard_to_the_end():
    """Its bytes and its end arrive, what comes back is dropped, then the other side is reset."""
    pair = Pair()
    pair.attach()
    stream = pair.client.open()
    pair.client.write(stream, TEXT)
    pair.pump(take_none)
    pair.client.end(stream)
    pair.client.discard(stream)
    pair.server.write(stream, TEXT)
    pair.pump(take_none)
    assert pair.server.hand(stream, 1 << 20) == (TEXT, True)
    client_events, server_events = pair.pump()
    assert client_events == []
    assert server_events == [(EventKind.RESET, stream, 0)]
    assert pair.client.session.streams.in_held == 0


def test_a_reset_overtakes_nothing_that_was_written():
    """The application vanished without an end: all it wrote is handed on before the other side is reset, at once."""
    pair = Pair()
    pair.attach()
    stream = pair.client.open()
    pair.client.write(stream, TEXT)
    pair.client.discard(stream)
    assert pair.pump(take_none) == ([], [(EventKind.OPENED, stream, b""), (EventKind.DATA, stream, b"", False)])
    assert pair.server.hand(stream, 100) == (TEXT[:100], False)
    assert pair.pump() == ([], [])
    assert pair.server.hand(stream, 1 << 20) == (TEXT[100:], False)
    assert pair.pump() == ([], [(EventKind.RESET, stream, ResetCode.APPLICATION)])
    pair.beat()
    pair.beat()
    assert pair.streams() == (0, 0)


def test_a_reset_behind_bytes_that_were_sent_asks_for_their_ack():
    """The reset needs neither a heartbeat nor further DATA to be sent."""
    pair = Pair()
    pair.attach()
    stream = pair.client.open()
    pair.server.receive(pair.client.transmit(1 << 20), pair.now, take_all)
    pair.server.write(stream, TEXT[:200])
    pair.pump()
    pair.server.discard(stream)
    assert pair.pump() == ([(EventKind.RESET, stream, ResetCode.APPLICATION)], [])


def test_what_is_sent_to_a_broken_application_is_acknowledged_and_dropped():
    """Its last words may still have to be read; meanwhile the sender is not held up."""
    pair = Pair()
    pair.attach()
    stream = pair.client.open()
    pair.client.write(stream, TEXT)
    pair.pump(take_none)
    pair.server.deafen(stream)
    pair.pump(take_none)
    assert pair.client.look(stream)["acked"] == len(TEXT)
    assert pair.client.write(stream, TEXT) == len(TEXT)
    assert pair.pump(take_none) == ([], [])
    pair.server.write(stream, b"too large")
    pair.server.discard(stream)
    assert [event[:3] for event in pair.pump()[0]] == [
        (EventKind.DATA, stream, b"too large"), (EventKind.RESET, stream, ResetCode.APPLICATION)]
    assert pair.server.session.streams.in_held == 0


@pytest.mark.parametrize("sent", [0, 20, 100_000])
def test_a_reset_in_an_outage_comes_behind_what_was_written(sent):
    """However much of it the old carrier had taken, and with the news that nobody was there."""
    pair = Pair()
    pair.attach()
    stream = pair.client.open()
    pair.pump()
    pair.server.write(stream, TEXT)
    pair.server.transmit(sent)
    pair.lose()
    pair.server.discard(stream, ResetCode.WHILE_AWAY)
    pair.attach()
    events = pair.pump()[0]
    assert b"".join(event[2] for event in events[:-1]) == TEXT
    assert events[-1] == (EventKind.RESET, stream, ResetCode.WHILE_AWAY)


@pytest.mark.parametrize("why", [b"", b"stray", b"x" * 300])
def test_a_killed_stream_says_why_before_all_that_waits(why):
    pair = Pair()
    pair.attach()
    stream, other = pair.client.open(), pair.client.open()
    pair.pump()
    pair.client.write(other, TEXT[:100])
    pair.client.write(stream, TEXT)
    pair.client.kill(stream, why)
    sent = pair.client.transmit(1 << 20)
    resets = [frame for frame in frames_of(sent) if frame[2] == stream]
    assert frames_of(sent)[0] == resets[0] == (
        FrameType.RESET, 0, stream, ResetCode.KILLED, 0, why[:200])
    assert [frame[:4] for frame in resets[1:]] == [(FrameType.RESET, 0, stream, ResetCode.KILLED)]
    events = pair.server.receive(sent, pair.now, take_all)
    assert [event for event in events if event[1] == stream] == [(EventKind.RESET, stream, ResetCode.KILLED)]
    assert pair.client.session.streams.out_held == 100
    pair.beat()
    pair.beat()
    assert pair.streams() == (1, 1)


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_stream_killed_in_an_outage_is_reset_on_the_next_carrier(side):
    pair = Pair()
    pair.attach()
    stream = pair.client.open()
    pair.client.write(stream, TEXT)
    pair.pump(take_none)
    pair.lose()
    getattr(pair, side).kill(stream, b"nobody will read this")
    at_client, at_server = pair.attach()
    later = pair.pump()
    found = at_client + later[0] if side == "server" else at_server + later[1]
    assert (EventKind.RESET, stream, ResetCode.KILLED) in found
    assert pair.client.session.streams.out_held == pair.server.session.streams.in_held == 0


def test_a_stream_killed_before_its_open_was_sent_is_never_heard_of():
    pair = Pair()
    pair.attach()
    stream = pair.client.open()
    pair.client.kill(stream, b"early")
    assert pair.pump() == ([], [])
    assert pair.streams() == (0, 0)


def test_capacity_grows_to_the_window_and_no_further():
    config = make_config(window_bytes=100_000, session_budget_bytes=1 << 20)
    client = lone(is_server=False, config=config)
    stream = client.open()
    written = 0
    while done := client.write(stream, TEXT):
        written += done
    assert written == 100_000
    assert client.look(stream)["out_capacity"] == 131072


def test_a_carrier_that_takes_nothing_keeps_the_ring_small():
    client = lone(is_server=False)
    stream = client.open()
    client.session.streams.stalled = True
    assert client.write(stream, TEXT) == 4096
    client.session.streams.stalled = False
    assert client.write(stream, TEXT) == WINDOW - 4096
