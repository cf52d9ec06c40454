"""When a carrier is suspect or dead, what happens then, and that nothing waits longer than necessary."""

import pytest

from mproxy.ground.config import SessionConfig
from tests.sim.apps import Plan
from tests.sim.ends import End
from tests.sim.world import HOUR_US, World, small_config

SECOND_US = 1_000_000


def beating(heartbeat_us=SECOND_US, misses=3, *, suspicious=True):
    """A world whose ends send heartbeats, with one stream that goes on for long, on a carrier.

    Not `suspicious`: the client waits until its carrier is dead before it dials.
    """
    config = small_config(heartbeat_us=heartbeat_us, misses=misses)
    world = World(config, config)
    if not suspicious:
        world.client.judge_carrier = lambda: End.judge_carrier(world.client)
    world.client.dial()
    world.client.open(Plan(100, chunk=1, pause=70_000), Plan(100, chunk=1, pause=90_000))
    world.run(until=world.clock.now + 2 * SECOND_US)
    return world


@pytest.mark.parametrize("misses", [2, 3, 5])
@pytest.mark.parametrize("heartbeat_us", [100_000, SECOND_US])
def test_black_hole_is_noticed_on_time_and_costs_nothing(heartbeat_us, misses):
    """`End.on_timer` asserts at every deadline that suspect and dead are true exactly when they should be."""
    world = beating(heartbeat_us, misses, suspicious=False)
    hole_at = world.clock.now
    world.client.carrier.black_hole()
    assert world.run(most_us=10 * SECOND_US, done=lambda: len(world.carriers) == 2)
    assert world.clock.now - hole_at <= misses * heartbeat_us + world.redial_pause()
    world.finish(within_us=20 * SECOND_US)
    assert world.deaths >= 1


def test_suspicion_dials_beside_and_the_first_that_works_wins():
    world = beating()
    hole_at = world.clock.now
    world.client.carrier.black_hole()
    assert world.run(most_us=10 * SECOND_US, done=lambda: world.attached == 2)
    assert world.client.carrier is world.carriers[1]
    assert world.clock.now - hole_at <= 2 * SECOND_US + 4 * world.latency
    assert world.deaths == 0
    world.finish(within_us=20 * SECOND_US)


def test_silent_applications_kill_no_carrier():
    config = small_config(heartbeat_us=SECOND_US, misses=2)
    world = World(config, config, latency=200_000)
    world.client.dial()
    world.client.open(Plan(10, end_pause=HOUR_US), Plan(10, end_pause=HOUR_US))
    world.run(until=world.clock.now + 600 * SECOND_US)
    assert (world.deaths, len(world.carriers)) == (0, 1)


def test_stalled_reader_kills_no_carrier_and_delays_no_other_stream():
    config = SessionConfig(heartbeat_us=SECOND_US, misses=2, window_bytes=16384, session_budget_bytes=65536)
    world = World(config, config, latency=10_000)
    world.client.dial()
    world.client.open(Plan(10), Plan(1 << 18, stall_at=0, stall_for=HOUR_US))
    stalled = world.client.open(Plan(1 << 18), Plan(10, stall_at=0, stall_for=HOUR_US))
    world.run(until=world.clock.now + 10 * SECOND_US)
    assert world.server.ps.session.streams.in_held >= 16384
    start = world.clock.now
    quick = world.client.open(Plan(1 << 18), Plan(1 << 18))
    assert world.run(most_us=HOUR_US // 4, done=lambda: quick.over)
    assert world.clock.now - start < 5 * SECOND_US
    assert (world.deaths, len(world.carriers)) == (0, 1)
    assert not stalled.over


@pytest.mark.parametrize("who", ["client", "server"])
def test_stopped_process_does_not_blame_the_carrier(who):
    """SIGSTOP for 2.5 s with 5 misses: the stopped side finds its carrier alive afterwards, and nothing is lost."""
    world = beating(misses=5, suspicious=False)
    getattr(world, who).freeze(2_500_000)
    world.run(until=world.clock.now + 4 * SECOND_US)
    assert (world.deaths, len(world.carriers)) == (0, 1)
    world.finish(within_us=20 * SECOND_US)


def test_heartbeats_read_all_at_once_leave_no_stream_behind():
    """A stopped peer answers only the newest of the heartbeats it finds: streams must still be forgotten."""
    world = beating(misses=1000, suspicious=False)
    world.server.freeze(10 * SECOND_US)
    world.run(until=world.clock.now + 12 * SECOND_US)
    world.finish(within_us=20 * SECOND_US)
    assert len(world.carriers) == 1


@pytest.mark.parametrize("client_window, server_window", [(4096, 4096), (4096, 65536), (65536, 4096), (9999, 5000)])
@pytest.mark.parametrize("budget", [65536, 70_000, 1 << 20])
def test_no_stall_waits_for_a_heartbeat(client_window, server_window, budget):
    """The next heartbeat is an hour away; every window, budget and pace of the application must do without."""
    for chunk in (100, 1000, 4095, 4096, 4097, 50_000):
        for pause in (0, 30_000):
            world = World(small_config(window_bytes=client_window, session_budget_bytes=budget),
                          small_config(window_bytes=server_window, session_budget_bytes=65536))
            world.client.dial()
            for end_pause in (0, 0, 20_000, 20_000, 50_000):    # behind a window that is just full
                world.client.open(*(Plan(61_440, chunk=chunk, pause=pause, end_pause=end_pause) for _ in range(2)))
            assert world.run(most_us=HOUR_US // 2, done=world.settled), world.report()


def test_both_rings_full_both_ways_at_the_cut():
    """Nobody reads, all buffers are full and the carrier dies: no byte is lost, and memory stays within its limits."""
    world = World(small_config(session_budget_bytes=40_000), small_config(session_budget_bytes=30_000))
    world.client.dial()
    for _ in range(10):
        world.client.open(Plan(100_000, stall_at=0, stall_for=HOUR_US), Plan(100_000, stall_at=0, stall_for=HOUR_US))
    world.run(until=world.clock.now + 10 * SECOND_US)
    for _ in range(5):
        for end in (world.client, world.server):
            assert end.ps.session.streams.in_held >= 30_000
            assert end.ps.session.streams.out_held >= 30_000
        world.check_memory()
        world.client.carrier.cut()
        world.run(until=world.clock.now + SECOND_US)
        world.check_memory()
    world.finish(within_us=100 * SECOND_US)
