"""Heartbeats at rest: how few they may be, and how soon there are more of them."""

import pytest

from mproxy._frames import encode_frame
from mproxy._wire import FrameFlag, FrameType
from tests.sim.apps import Plan
from tests.sim.world import HOUR_US, World, small_config

SECOND_US = 1_000_000
DAY_S = 86_400
INTERVAL_US = 25 * SECOND_US
# What a frame costs beside itself: a TLS record (22), TCP with timestamps (32) and IP (20); and an ack the other way.
RECORD_BYTES, ACK_BYTES = 74, 52


def resting(**values):
    """A world at rest, and the application that was the last to write."""
    world = World(small_config(heartbeat_us=SECOND_US, idle_heartbeat_us=INTERVAL_US, **values),
                  small_config(heartbeat_us=SECOND_US, **values), latency=30_000)
    world.client.dial()
    app = world.client.open(Plan(100, chunk=1, pause=HOUR_US), Plan(100, chunk=1, pause=HOUR_US))
    world.run(until=world.clock.now + 20 * SECOND_US)
    assert intervals(world) == (INTERVAL_US, INTERVAL_US)
    return world, app


def intervals(world):
    return world.client.ps.interval_us, world.server.ps.interval_us


def test_a_day_at_rest():
    """Goal: at most 4 MB a day with 25 s, headers and acks included, in both directions; and no carrier is doubted."""
    world, _app = resting()
    written = []
    for way in (world.client.carrier.up, world.client.carrier.down):
        write = way.write
        way.write = lambda data, write=write: (written.append(len(data)), write(data))
    world.run(until=world.clock.now + DAY_S * SECOND_US)
    total = sum(written) + len(written) * (RECORD_BYTES + ACK_BYTES)
    assert total <= 2_000_000, total
    assert len(world.carriers) == 1 and world.deaths == 0


@pytest.mark.parametrize("who", ["client", "server"])
def test_the_next_byte_ends_it(who):
    """Goal: whoever writes is quick at once, and the other side when the byte comes; ten seconds later rest begins
    again. The silence of before is no reason for doubt."""
    world, app = resting()
    world.run(until=world.clock.now + 24 * SECOND_US)
    (app if who == "client" else app.peer)._start()
    here, there = (world.client, world.server) if who == "client" else (world.server, world.client)
    assert here.ps.interval_us == SECOND_US
    world.run(until=world.clock.now + 100_000)
    assert there.ps.interval_us == SECOND_US
    assert not world.client.ps.session.suspect and not world.server.ps.session.suspect
    world.run(until=world.clock.now + 9 * SECOND_US)
    assert intervals(world) == (SECOND_US, SECOND_US)
    world.run(until=world.clock.now + 3 * SECOND_US)
    assert intervals(world) == (INTERVAL_US, INTERVAL_US)
    assert len(world.carriers) == 1


def test_a_black_hole_at_rest_is_noticed_by_who_needs_it():
    """Goal: a byte on a path that died meanwhile finds that out within three seconds, not 75."""
    world, app = resting()
    world.client.carrier.black_hole()
    world.run(until=world.clock.now + 5 * SECOND_US)
    app._start()
    pressed = world.clock.now
    assert world.run(most_us=10 * SECOND_US, done=lambda: len(world.carriers) == 2)
    assert world.clock.now - pressed <= 3 * SECOND_US


def test_a_black_hole_at_rest_is_noticed():
    """Goal: with nobody who needs it, within --misses intervals."""
    world, _app = resting()
    begun = world.clock.now
    world.client.carrier.black_hole()
    assert world.run(most_us=200 * SECOND_US, done=lambda: len(world.carriers) == 2)
    assert world.clock.now - begun <= 3 * INTERVAL_US + 2 * SECOND_US


def test_a_new_carrier_is_watched_closely():
    world, _app = resting()
    world.client.carrier.black_hole()
    assert world.run(most_us=200 * SECOND_US, done=lambda: world.attached == 2)
    assert intervals(world) == (SECOND_US, SECOND_US)


def test_bytes_on_their_way_keep_both_sides_awake():
    """Goal: the server has written when the client's word of rest comes: it does not rest, and neither does the client
    for long."""
    world, app = resting()
    app._start()
    world.run(until=world.clock.now + 10_500_000)
    app.peer._start()
    world.run(until=world.clock.now + 5 * SECOND_US)
    assert intervals(world) == (SECOND_US, SECOND_US)


def test_a_rest_of_an_absurd_length():
    """Goal: a hostile client gets an hour, as with --heartbeat; a server cannot put a client to rest."""
    world, _app = resting()
    world.run(until=world.clock.now + SECOND_US)
    word = encode_frame(FrameType.REST, flags=FrameFlag.IGNORABLE, seq=2**64 - 1)
    world.client.carrier.up.write(word)
    world.client.carrier.down.write(word)
    world.run(until=world.clock.now + SECOND_US)
    assert intervals(world) == (INTERVAL_US, HOUR_US)


def idle_world(**values):
    """A world without rest in which nothing has moved for longer than ten heartbeats, and its application."""
    world = World(small_config(heartbeat_us=SECOND_US), small_config(heartbeat_us=SECOND_US, **values), latency=30_000)
    world.client.dial()
    app = world.client.open(Plan(100, chunk=1, pause=HOUR_US), Plan(100, chunk=1, pause=HOUR_US))
    world.run(until=world.clock.now + 20 * SECOND_US)
    return world, app


def count_writes(way):
    written = []
    write = way.write
    way.write = lambda data: (written.append(len(data)), write(data))
    return written


def test_sproxy_only_answers_while_nothing_moves():
    """Goal: a session costs sproxy one frame a heartbeat: the echo. Nobody doubts the carrier, and sproxy's next byte
    makes it quick again."""
    world, app = idle_world()
    down, up = (count_writes(way) for way in (world.client.carrier.down, world.client.carrier.up))
    world.run(until=world.clock.now + 100 * SECOND_US)
    assert 98 <= len(down) <= 101 and 98 <= len(up) <= 101
    assert not world.client.ps.session.suspect and len(world.carriers) == 1
    down.clear()
    app.peer._start()
    world.run(until=world.clock.now + 5 * SECOND_US)
    assert len(down) >= 10, "its heartbeats, the echoes and a byte"


def test_a_path_that_dies_while_sproxy_only_answers():
    """Goal: it is found as soon as with heartbeats from both sides."""
    world, _app = idle_world()
    silent_at = world.clock.now
    world.client.carrier.black_hole()
    assert world.run(most_us=10 * SECOND_US, done=lambda: len(world.carriers) == 2)
    assert world.clock.now - silent_at <= 4 * SECOND_US


def test_an_sproxy_with_very_many_sessions_asks_for_rest():
    """Goal: what heartbeats cost sproxy does not grow with its sessions. The interval follows their number, nobody
    doubts the carrier, and the next byte ends it as any rest."""
    world, app = idle_world()
    for spread_s, expected_s in ((4, 4), (9, 9), (10, 9), (3600, 25), (6, 6), (0, 1), (15, 15)):
        world.server.ps.spread(spread_s * SECOND_US)
        world.run(until=world.clock.now + 90 * SECOND_US)
        assert intervals(world) == (expected_s * SECOND_US, expected_s * SECOND_US)
    assert not world.client.ps.session.suspect and len(world.carriers) == 1 and world.deaths == 0
    app.peer._start()
    world.run(until=world.clock.now + SECOND_US)
    assert intervals(world) == (SECOND_US, SECOND_US)
    world.run(until=world.clock.now + 40 * SECOND_US)
    assert intervals(world) == (15 * SECOND_US, 15 * SECOND_US)


def test_who_wants_to_rest_longer_than_sproxy_asks_for_does():
    world, _app = resting()
    world.server.ps.spread(5 * SECOND_US)
    world.run(until=world.clock.now + 200 * SECOND_US)
    assert intervals(world) == (INTERVAL_US, INTERVAL_US)


def test_a_path_that_dies_while_sproxy_has_asked_for_rest():
    """Goal: it is found after as many intervals as always; a byte on it is missed within two seconds."""
    world, app = idle_world()
    world.server.ps.spread(10 * SECOND_US)
    world.run(until=world.clock.now + 40 * SECOND_US)
    assert intervals(world) == (10 * SECOND_US, 10 * SECOND_US)
    silent_at = world.clock.now
    world.client.carrier.black_hole()
    app._start()
    assert world.run(most_us=60 * SECOND_US, done=lambda: len(world.carriers) == 2)
    assert world.clock.now - silent_at <= 4 * SECOND_US
    world.run(until=world.clock.now + SECOND_US)
    assert intervals(world) == (SECOND_US, SECOND_US)
