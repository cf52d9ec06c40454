"""DATA and ACK frames out of order, one parcel at a time: every byte once, and what a hostile peer can cost."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.drivers._memory import pool_bytes
from tests.drivers._pyparcels import give_parcel, split_frames

from mproxy._frames import encode_frame
from mproxy._session import EventKind
from mproxy._wire import CloseCode, FrameFlag, FrameType
from tests.unit.session_pair import end_mark, lone, make_config, take_all, take_none

WINDOW = 16384
TEXT = random.Random(1).randbytes(WINDOW)
MOST_GAPS = 1024


def opened(config=None):
    """A server with stream 1 open."""
    server = lone(is_server=True, config=config)
    server.receive(encode_frame(FrameType.OPEN, stream=1), 2000, take_all)
    return server


@pytest.fixture
def server():
    return opened()


def data(seq, length, flags=0, *, stream=1, ack=0):
    """A DATA frame with bytes of TEXT."""
    return encode_frame(FrameType.DATA, flags=flags, stream=stream, seq=seq, ack=ack, payload=TEXT[seq:seq + length])


def give(server, *frames, takes=take_all):
    """Events of one parcel, which is not refused."""
    events, refused = give_parcel(server, b"".join(frames), 3000, takes)
    assert not refused
    return events


def got(server, events, stream=1):
    """The bytes that the application has by these events and what is kept for it."""
    taken = b"".join(event[2] for event in events if event[0] == EventKind.DATA)
    return taken + server.hand(stream, 1 << 20)[0]


def code_of(events):
    return next((event[1] for event in events if event[0] == EventKind.CLOSED), None)


# ---- what comes in

def test_a_gap_is_waited_for(server):
    assert give(server, data(100, 50)) == []
    assert server.look(1)["early"] == 150 and server.look(1)["received"] == 0
    events = give(server, data(0, 100))
    assert got(server, events) == TEXT[:150]
    assert server.look(1)["early"] == 0 and server.session.streams.early_held == 0


def test_without_a_gap_bytes_go_straight_to_the_application(server):
    assert give(server, data(0, 10), data(10, 10)) == [(EventKind.DATA, 1, TEXT[:10], False),
                                                      (EventKind.DATA, 1, TEXT[10:20], False)]
    assert server.look(1)["in_capacity"] == 0


def test_of_a_slow_application_kept_and_early_bytes_lie_in_one_ring(server):
    give(server, data(0, 5000), takes=lambda *_: 1000)
    give(server, data(9000, 3000))
    assert server.hand(1, 3000)[0] == TEXT[1000:4000]
    give(server, data(5000, 2000))
    give(server, data(6000, 3000))
    assert server.hand(1, 1 << 20)[0] == TEXT[4000:12000]
    assert server.look(1)["in_capacity"] == 0


SPANS = st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 600), st.integers(0, 700), st.booleans()), max_size=40)


@given(SPANS, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=150)
def test_any_order_overlap_and_repetition(spans, pick):
    """Whatever comes, in whatever order: the application gets a prefix, each byte once; with all there, all of it."""
    server = opened()
    total = 3000
    rest = [(seq, 250, 1 << 20, False) for seq in range(0, total, 250)]
    pick.shuffle(rest)
    result = b""
    for seq, length, takes, hands in spans + rest + [(total, 0, 0, True)]:
        length = min(length, max(0, total - seq))
        flags = FrameFlag.FIN if seq + length == total else 0
        if length or flags:
            events = give(server, data(seq, length, flags), takes=lambda _id, n, most=takes: min(n, most))
            result += b"".join(event[2] for event in events)
        if hands:
            result += server.hand(1, pick.randrange(1, 2000))[0]
        assert result == TEXT[:len(result)]
    result += server.hand(1, 1 << 20)[0]
    assert result == TEXT[:total]
    assert server.hand(1, 1) == (b"", True), "the end comes behind the last byte"
    look = server.look(1)
    assert (look["in_capacity"], server.session.streams.in_held, server.session.streams.early_held) == (0, 0, 0)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)])
def test_the_end_may_come_early(server, order):
    frames = [data(0, 10), data(10, 10), data(20, 0, FrameFlag.FIN)]
    events = [event for index in order for event in give(server, frames[index])]
    assert got(server, events) == TEXT[:20]
    assert server.hand(1, 1) == (b"", True)
    assert sum(event[3] for event in events) == 1


def test_an_application_that_takes_no_more(server):
    """What comes is acknowledged as far as it is complete, and kept nowhere."""
    server.deafen(1)
    assert give(server, data(100, 50)) == give(server, data(0, 100)) == give(server, data(150, 0, FrameFlag.FIN)) == []
    look = server.look(1)
    assert (look["handed"], look["in_capacity"], look["in_done"]) == (150, 0, True)
    assert (server.session.streams.in_held, server.session.streams.early_held) == (0, 0)


def test_a_reset_gives_everything_back(server):
    lent = pool_bytes()[0]
    give(server, data(4000, 4000))
    server.reset(1)
    assert pool_bytes()[0] <= lent
    assert server.session.streams.early_held == 0
    assert give(server, data(0, 10)) == []


def test_a_lost_carrier_makes_early_bytes_as_if_they_had_not_come(server):
    give(server, data(0, 100), takes=take_none)
    give(server, data(200, 100))
    server.session.carrier_lost()
    assert server.session.streams.early_held == 0
    listed = split_frames(server.session.streams.resume_list())
    assert listed[0][3:5] == (100, 0), "received and handed of stream 1"
    server.session.attach(2, WINDOW, 65536, b"", 4000)
    server.receive(end_mark(0), 4000, take_all)
    server.receive(data(100, 200), 4000, take_all)
    assert server.hand(1, 1 << 20)[0] == TEXT[:300]


def test_before_the_list_is_complete_parcels_are_refused():
    server = lone(is_server=True, active=False)
    assert give_parcel(server, data(0, 10), 3000, take_all) == ([], True)


def test_a_stream_that_is_not_there_has_ended(server):
    assert give(server, data(0, 10, stream=7), encode_frame(FrameType.ACK, stream=7, ack=5)) == []


# ---- acks

def test_old_acks_say_nothing(server):
    server.write(1, TEXT[:100])
    server.transmit(1 << 20)
    give(server, encode_frame(FrameType.ACK, stream=1, ack=60))
    give(server, encode_frame(FrameType.ACK, stream=1, ack=30), data(0, 5, ack=10))
    assert server.look(1)["acked"] == 60


def test_an_ack_may_ask_about_bytes_that_are_still_to_come(server):
    give(server, encode_frame(FrameType.ACK, flags=FrameFlag.WANT_ACK, stream=1, seq=100))
    give(server, data(0, 50))
    assert server.transmit(1 << 20) == b"", "not yet all of it"
    give(server, data(50, 50))
    assert [frame[0:5:4] for frame in split_frames(server.transmit(1 << 20))] == [(FrameType.ACK, 100)]


def test_a_repetition_is_acknowledged_again(server):
    give(server, data(0, 50, FrameFlag.WANT_ACK))
    server.transmit(1 << 20)
    give(server, data(0, 50))
    assert [frame[4] for frame in split_frames(server.transmit(1 << 20))] == [50]


# ---- peers that break the protocol

@pytest.mark.parametrize(("frames", "code"), [
    ([data(WINDOW, 0, FrameFlag.FIN) + data(0, 1)[:20]], CloseCode.FRAME_ERROR),
    ([encode_frame(FrameType.DATA, stream=1, seq=1, payload=bytes(WINDOW))], CloseCode.LIMIT_ERROR),
    ([encode_frame(FrameType.DATA, stream=1, seq=(1 << 64) - 1, payload=b"xx")], CloseCode.LIMIT_ERROR),
    ([data(20, 0, FrameFlag.FIN), data(10, 20)], CloseCode.OFFSET_ERROR),
    ([data(20, 0, FrameFlag.FIN), data(10, 0, FrameFlag.FIN)], CloseCode.OFFSET_ERROR),
    ([data(20, 10), data(10, 5, FrameFlag.FIN)], CloseCode.OFFSET_ERROR),
    ([data(0, 20), data(0, 10, FrameFlag.FIN)], CloseCode.OFFSET_ERROR),
    ([data(0, 20, FrameFlag.FIN), data(0, 30)], CloseCode.OFFSET_ERROR),
    ([data(0, 20, FrameFlag.FIN), data(20, 0, FrameFlag.FIN), data(0, 30, FrameFlag.FIN)], CloseCode.OFFSET_ERROR),
    ([encode_frame(FrameType.ACK, stream=1, ack=1)], CloseCode.OFFSET_ERROR),
    ([encode_frame(FrameType.OPEN, stream=3)], CloseCode.STATE_ERROR),
    ([encode_frame(FrameType.RESET, stream=1)], CloseCode.STATE_ERROR),
    ([encode_frame(FrameType.HEARTBEAT, payload=bytes(16))], CloseCode.STATE_ERROR),
    ([b"\x00" * 40], CloseCode.FRAME_ERROR),
])
def test_what_ends_the_session(server, frames, code):
    events = []
    for frame in frames:
        assert code_of(events) is None, "too early"
        events += give(server, frame)
    assert code_of(events) == code


def test_gaps_that_are_never_filled_cost_bounded_memory():
    """A byte here and there: the number of gaps is bounded, what fills the first one is always taken."""
    server = opened()
    lent = pool_bytes()[0]
    refused = [give_parcel(server, data(seq, 1), 3000, take_all)[1] for seq in range(2, WINDOW, 2)]
    assert refused.index(True) == MOST_GAPS and all(refused[MOST_GAPS:])
    assert pool_bytes()[0] - lent <= WINDOW
    result = got(server, give(server, data(0, 2 * MOST_GAPS)))
    assert result == TEXT[:2 * MOST_GAPS + 1]


def test_gaps_of_many_streams_stay_within_the_budget():
    """Early bytes count with the gaps before them, for that is the storage they need."""
    server = opened(make_config(session_budget_bytes=65536))
    lent = pool_bytes()[0]
    for stream in range(2, 101):
        server.receive(encode_frame(FrameType.OPEN, stream=stream), 2000, take_all)
    taken = 0
    for stream in range(1, 101):
        taken += not give_parcel(server, data(WINDOW - 1, 1, stream=stream), 3000, take_all)[1]
    assert 4 <= taken <= 4 + 100 * 4096 // WINDOW
    assert pool_bytes()[0] - lent <= 2 * (65536 + 100 * 4096)
    assert server.session.streams.early_held <= 65536 + 100 * 4096


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=300)
def test_any_bytes_as_a_parcel(parcel):
    server = opened()
    events, _refused = give_parcel(server, parcel, 3000, take_all)
    assert code_of(events) in (None, CloseCode.FRAME_ERROR, CloseCode.STATE_ERROR, CloseCode.OFFSET_ERROR,
                               CloseCode.LIMIT_ERROR)
