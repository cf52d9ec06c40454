"""Datagrams of a session: the rules of docs/protocol.md, without sockets and with a clock of the test's own."""

import random

import pytest
from mproxy._listening import answer_associate, ask_associate, end_associating

from mproxy._frames import encode_frame
from mproxy._session import CarrierState, EventKind
from mproxy._wire import (
    MAX_ASSOCIATIONS,
    MAX_DATAGRAM_BYTES,
    MAX_PIECE_BYTES,
    CloseCode,
    FrameFlag,
    FrameType,
)
from tests.unit.session_pair import BEAT_US, Pair, frames_of, lone, make_config, take_all

QUEUE_BYTES = 524288
WAIT_US = 1_000_000


def piece(flow=7, number=1, offset=0, whole=None, payload=b"", association=1):
    """One DATAGRAM frame."""
    whole = len(payload) if whole is None else whole
    return encode_frame(FrameType.DATAGRAM, stream=flow, seq=number << 32 | offset << 16 | whole, ack=association,
                        payload=payload)


def datagrams_of(events):
    return [event[1:] for event in events if event[0] == EventKind.DATAGRAM]


def outcome(one, data):
    """The code with which that data ends the session; None: it goes on."""
    for event in one.receive(data, 2000, take_all):
        if event[0] == EventKind.CLOSED:
            return event[1]
    return None


@pytest.fixture
def pair():
    both = Pair()
    both.attach()
    return both


# ---- what is asked

def test_asking_and_the_answers(pair):
    ask_associate(pair.client.session, 1, b"10.0.0.2:53")
    ask_associate(pair.client.session, MAX_ASSOCIATIONS, b"wg:51820")
    end_associating(pair.client.session)
    assert pair.up() == [(EventKind.ASSOCIATE, 1, b"10.0.0.2:53", False),
                         (EventKind.ASSOCIATE, MAX_ASSOCIATIONS, b"wg:51820", False),
                         (EventKind.ASSOCIATE, 0, b"", True)]
    answer_associate(pair.server.session, 1, True, b"10.0.0.2:53")
    answer_associate(pair.server.session, MAX_ASSOCIATIONS, False, b"not allowed")
    assert pair.down() == [(EventKind.ASSOCIATED, 1, b"10.0.0.2:53", True),
                           (EventKind.ASSOCIATED, MAX_ASSOCIATIONS, b"not allowed", False)]


@pytest.mark.parametrize("is_server, frame, code", [
    (True, encode_frame(FrameType.ASSOCIATED, seq=1, ack=1), CloseCode.STATE_ERROR),
    (False, encode_frame(FrameType.ASSOCIATE, seq=1, payload=b"a:1"), CloseCode.STATE_ERROR),
    (True, encode_frame(FrameType.ASSOCIATE, seq=MAX_ASSOCIATIONS + 1), CloseCode.LIMIT_ERROR),
    (True, encode_frame(FrameType.ASSOCIATE, seq=0, payload=b"a:1"), CloseCode.LIMIT_ERROR),
    (True, encode_frame(FrameType.ASSOCIATE, seq=1, flags=FrameFlag.END), CloseCode.LIMIT_ERROR),
    (True, encode_frame(FrameType.ASSOCIATE, seq=1, payload=b"x" * 301), CloseCode.FRAME_ERROR),
    (True, piece(flow=0, payload=b"x"), CloseCode.FRAME_ERROR),
    (True, piece(payload=b"x" * (MAX_PIECE_BYTES + 1)), CloseCode.FRAME_ERROR),
    (True, piece(payload=b"xyz", whole=2), CloseCode.FRAME_ERROR),
    (True, piece(payload=b"xyz", offset=1, whole=3), CloseCode.FRAME_ERROR),
    (True, piece(payload=b"x", whole=MAX_DATAGRAM_BYTES + 1), CloseCode.FRAME_ERROR),
    (True, piece(payload=b"", whole=5), CloseCode.FRAME_ERROR),
    (True, encode_frame(FrameType.DATAGRAM, stream=1, ack=1 << 16), CloseCode.FRAME_ERROR),
    (True, encode_frame(FrameType.DATAGRAM, stream=1, flags=FrameFlag.FIN), CloseCode.FRAME_ERROR),
])
def test_a_peer_that_breaks_the_rules(is_server, frame, code):
    assert outcome(lone(is_server=is_server), frame) == code


def test_before_the_end_of_the_list_there_are_none():
    assert outcome(lone(is_server=True, active=False), piece(payload=b"x")) == CloseCode.STATE_ERROR


# ---- both ways

@pytest.mark.parametrize("size", [0, 1, 1420, MAX_PIECE_BYTES, MAX_PIECE_BYTES + 1, 9000, MAX_DATAGRAM_BYTES])
def test_every_size_arrives_whole(pair, size):
    data = random.Random(size).randbytes(size)
    assert pair.client.put_datagram(5, 2, data, pair.now)
    assert pair.server.put_datagram(6, 3, data[::-1], pair.now)
    assert datagrams_of(pair.up()) == [(5, 2, data)]
    assert datagrams_of(pair.down()) == [(6, 3, data[::-1])]
    assert pair.client.datagrams == (1, 1, 0, 0)


def test_a_carrier_that_takes_little_at_a_time(pair):
    sent = [random.Random(n).randbytes(n * 37 % 3000) for n in range(50)]
    for number, data in enumerate(sent):
        pair.client.put_datagram(number + 1, 1, data, pair.now)
    events = []
    for most in [1, 7, 28, 29, 100, 1000] * 2000:
        events += pair.up(most=most)
        if len(events) == len(sent):
            break
    assert datagrams_of(events) == [(number + 1, 1, data) for number, data in enumerate(sent)]


@pytest.mark.parametrize("seed", range(5))
def test_pieces_in_any_order_and_twice(seed):
    one, randomly = lone(is_server=True), random.Random(seed)
    data = randomly.randbytes(10_000)
    pieces = [piece(number=9, offset=at, whole=len(data), payload=data[at:at + 1250]) for at in range(0, 10_000, 1250)]
    last = pieces.pop(randomly.randrange(len(pieces)))
    pieces *= 2
    randomly.shuffle(pieces)
    assert arrivals(one, pieces) == []
    assert datagrams_of(arrivals(one, [last])) == [(7, 1, data)]


def arrivals(one, frames):
    return one.receive(b"".join(frames), 2000, take_all)


def test_a_datagram_with_a_missing_piece_makes_way():
    one = lone(is_server=True)
    before = one.session.streams.storage_bytes
    for number in range(1, 200):
        assert arrivals(one, [piece(number=number, whole=60_000, payload=b"x" * 4000)]) == []
    assert one.session.streams.storage_bytes - before <= 4 * 65536
    data = b"y" * 6000
    assert datagrams_of(arrivals(one, [piece(number=777, whole=6000, payload=data[:4000]),
                                            piece(number=777, offset=4000, whole=6000, payload=data[4000:])])) == [
        (7, 1, data)]
    one.session.handle_timeout(2000 + BEAT_US)
    one.session.handle_timeout(2000 + 2 * BEAT_US)
    one.transmit(1 << 20)
    assert one.session.streams.storage_bytes == before, "what never came whole is forgotten"


def test_crumbs_do_not_grow_a_table():
    one = lone(is_server=True)
    for offset in range(0, 60_000, 2):
        assert arrivals(one, [piece(offset=offset, whole=60_000, payload=b"x")]) == []
    assert one.session.state == CarrierState.ACTIVE


# ---- what is dropped

def test_of_too_many_the_newest_win(pair):
    count = 2 * QUEUE_BYTES // 1424
    for number in range(count):
        pair.client.put_datagram(1, 1, number.to_bytes(4, "big") * 350, pair.now)
    assert pair.client.datagrams[3] <= QUEUE_BYTES
    got = [int.from_bytes(data[:4], "big") for _flow, _association, data in datagrams_of(pair.up(most=1 << 24))]
    while more := datagrams_of(pair.up(most=1 << 24)):
        got += [int.from_bytes(data[:4], "big") for _flow, _association, data in more]
    assert got == list(range(count - len(got), count)) and len(got) > QUEUE_BYTES // 1500
    assert pair.client.datagrams[2] == count - len(got)


def test_what_has_waited_too_long_is_not_sent(pair):
    pair.client.put_datagram(1, 1, b"old", pair.now)
    pair.client.put_datagram(1, 1, b"new", pair.now + WAIT_US + 1)
    assert datagrams_of(pair.up()) == [(1, 1, b"new")]


def test_large_ones_on_a_slow_carrier_come_whole(pair):
    """Though more come than it takes, and none is ever sent at once."""
    got = []
    for number in range(400):
        pair.client.put_datagram(1, 1, number.to_bytes(4, "big") * 16000, pair.now)
        pair.now += 10_000
        got += datagrams_of(pair.up(most=8000))
    numbers = [int.from_bytes(data[:4], "big") for _flow, _association, data in got]
    assert len(numbers) >= 40 and numbers == sorted(set(numbers))
    assert all(len(data) == 64_000 for _flow, _association, data in got)


def test_through_an_outage_only_what_is_fresh(pair):
    pair.client.put_datagram(1, 1, b"before", pair.now)
    pair.client.transmit(10)  # it has begun to leave
    pair.client.put_datagram(1, 1, b"waits", pair.now)
    pair.lose()
    pair.client.put_datagram(1, 1, b"meanwhile", pair.now + WAIT_US + 1)
    pair.now += 4 * WAIT_US
    pair.attach()
    assert datagrams_of(pair.up()) == [(1, 1, b"meanwhile")]
    pair.lose()
    pair.client.put_datagram(1, 1, b"long ago", pair.now)
    pair.now += 6 * WAIT_US
    pair.attach()
    assert datagrams_of(pair.up()) == []
    pair.lose()
    for one in (pair.client, pair.server):
        assert one.session.streams.storage_bytes == 0


def test_without_memory_for_long(pair):
    before = pair.client.session.streams.storage_bytes
    for _ in range(10_000):
        pair.client.put_datagram(1, 1, bytes(60_000), pair.now)
    assert pair.client.session.streams.storage_bytes - before <= 2 * QUEUE_BYTES


# ---- beside streams

def test_bulk_and_datagrams_share_the_carrier():
    """Neither waits for the other for long, whichever there is more of."""
    pair = Pair(make_config(window_bytes=1 << 22, session_budget_bytes=1 << 24))
    pair.attach()
    stream = pair.client.open()
    moved, got = 0, 0
    for _turn in range(200):
        pair.client.write(stream, bytes(1 << 18))
        for _ in range(60):
            pair.client.put_datagram(1, 1, bytes(1400), pair.now)
        pair.now += 1000
        for event in pair.up(most=100_000):
            moved += len(event[2]) if event[0] == EventKind.DATA else 0
            got += event[0] == EventKind.DATAGRAM
        pair.down()
    assert moved > 200 * 100_000 // 4 and got > 200 * 100_000 // 4 // 1428


def test_few_datagrams_overtake_bulk():
    pair = Pair(make_config(window_bytes=1 << 22, session_budget_bytes=1 << 24))
    pair.attach()
    pair.client.write(pair.client.open(), bytes(1 << 21))
    begun = pair.client.transmit(100)
    pair.client.put_datagram(1, 1, b"ping", pair.now)
    types = [frame[0] for frame in frames_of(begun + pair.client.transmit(100_000)) if frame[3] != 0 or frame[5] == b""]
    assert types.index(FrameType.DATAGRAM) == 1, "right behind the frame that had begun"


@pytest.mark.parametrize("small", [True, False])
def test_many_small_streams_and_a_flood(small):
    """Random loads: everything of the streams arrives, and the session never comes to a stop."""
    for seed in range(20):
        randomly = random.Random(seed)
        pair = Pair(make_config(window_bytes=1 << 20, session_budget_bytes=1 << 24))
        pair.attach()
        streams = [pair.client.open() for _ in range(randomly.randrange(1, 6))]
        written, arrived = dict.fromkeys(streams, 0), dict.fromkeys(streams, 0)
        for _ in range(300):
            stream = randomly.choice(streams)
            size = randomly.choice([1, 100, 20_000] if small else [200_000])
            written[stream] += pair.client.write(stream, bytes(size))
            for _ in range(randomly.randrange(30)):
                pair.client.put_datagram(1, 1, bytes(randomly.choice([0, 1, 1400, 9000])), pair.now)
            pair.now += randomly.randrange(5000)
            for event in pair.up(most=randomly.choice([1, 1000, 50_000, 300_000])):
                if event[0] == EventKind.DATA:
                    arrived[event[1]] += len(event[2])
            pair.down()
        for _ in range(1000):
            for event in pair.up():
                if event[0] == EventKind.DATA:
                    arrived[event[1]] += len(event[2])
            pair.down()
        assert arrived == written
        assert not pair.client.session.wants_transmit()


def test_datagrams_end_rest():
    pair = Pair(make_config(idle_heartbeat_us=30 * BEAT_US))
    pair.attach()
    for _ in range(15):
        pair.beat()
    assert pair.client.interval_us == 30 * BEAT_US
    pair.client.put_datagram(1, 1, b"x", pair.now)
    pair.pump()
    assert pair.client.wakes(pair.now) and pair.server.wakes(pair.now)
    assert pair.client.interval_us == BEAT_US
