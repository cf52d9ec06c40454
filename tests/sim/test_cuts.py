"""The carrier is cut at every byte of a scripted exchange, in either direction, and no stream may be harmed.

The script has what a session knows: streams with and without a target, data both ways at once, a half-close answered
later, a reset from either side, a refused daemon, an application that vanishes, streams opened before and after.
"""

import pytest

from tests.sim.apps import Plan
from tests.sim.world import HOUR_US, World, small_config

SECOND_US = 1_000_000


def scripted(on_carrier=None, *, kept=0, dial_at=None, dies=None):
    """Play the script; `on_carrier(number, carrier, cut)` may arrange for cuts. Returns the world at its end.

    `dies`: "client" or "server", whose process then dies, too.
    """
    world = World(small_config(window_bytes=4096, session_budget_bytes=8192),
                  small_config(window_bytes=5000, session_budget_bytes=6000), latency=1000)

    def watch(carrier):
        def cut():
            if dies:
                getattr(world, dies).die(sending=True)
            carrier.cut(kept, kept)
        if on_carrier:
            on_carrier(len(world.carriers), carrier, cut)
    world.on_carrier = watch
    client, at = world.client, world.clock.after
    at(0, client.open, Plan(150), Plan(0, end_pause=20_000))                       # half-close, late end
    at(0, client.open, Plan(90, chunk=30, pause=900), Plan(210, chunk=70, pause=700))
    at(0, client.dial)
    if dial_at is not None:
        at(dial_at + 2001, client.dial)    # there is a session by then
    at(2500, client.open, Plan(100, reset_at=100), Plan(100, end_pause=HOUR_US))   # reset by the client
    at(3000, client.open, Plan(40, end_pause=HOUR_US), Plan(60, reset_at=80))      # reset by the server
    at(3500, client.open, Plan(30), Plan(0, refuse=True))
    at(4000, client.open, Plan(64, discard=True), Plan(50, end_pause=30_000))      # the application vanishes
    at(4000, client.open, Plan(50, end_pause=30_000), Plan(70, discard=True))
    at(9000, client.open, Plan(900, stall_at=0, stall_for=10_000), Plan(800, stall_at=1, stall_for=10_000))
    at(30_000, client.open, Plan(7), Plan(9))
    world.run(until=world.clock.now + 60_000)
    client.redial(1)
    world.finish(within_us=100 * SECOND_US)
    return world


def traffic():
    """Bytes of the undisturbed script, (up, down), without the heartbeats at its end."""
    world = scripted()
    assert len(world.carriers) == 1
    carrier = world.carriers[0]
    return carrier.up.total, carrier.down.total


UP_BYTES, DOWN_BYTES = traffic()


def cut_carriers(direction, *positions):
    """An `on_carrier` that cuts the first carriers when so many bytes were delivered in `direction`."""
    def on_carrier(number, carrier, cut):
        if number <= len(positions):
            pipe = getattr(carrier, direction)
            pipe.cut_after, pipe.on_cut = positions[number - 1], cut
    return on_carrier


@pytest.mark.long
@pytest.mark.parametrize("kept", [0, 1 << 20], ids=["rest lost", "other way delivered"])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_cut_at_every_byte(direction, kept):
    """A cut after every number of bytes; what goes the other way is lost, or arrives although nobody is left."""
    for position in range(UP_BYTES if direction == "up" else DOWN_BYTES):
        try:
            world = scripted(cut_carriers(direction, position), kept=kept)
        except Exception as error:
            raise AssertionError(f"cut {direction} after {position} bytes: {error}") from error
        assert len(world.carriers) >= 2


@pytest.mark.parametrize("who", ["client", "server"])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_the_process_dies_at_any_byte(direction, who):
    """Another process goes on with what is in the states and the rings."""
    revived = 0
    for position in range(0, UP_BYTES if direction == "up" else DOWN_BYTES, 3):
        try:
            revived += scripted(cut_carriers(direction, position), kept=1 << 20, dies=who).revived
        except Exception as error:
            raise AssertionError(f"{who} died after {position} bytes {direction}: {error}") from error
    assert revived > 100


@pytest.mark.parametrize("direction", ["up", "down"])
def test_second_carrier_cut_too(direction):
    """Both carriers are cut: the second within its resume."""
    for first in range(0, 2600, 173):
        for second in range(0, 700, 13):
            try:
                scripted(cut_carriers(direction, first, second))
            except Exception as error:
                raise AssertionError(f"cut {direction} after {first}, then after {second} bytes: {error}") from error


def test_superseded_at_every_moment():
    """A second carrier is dialled while the first one still works, at moments all over the script."""
    for moment in range(0, 40_000, 23):
        try:
            world = scripted(dial_at=moment)
        except Exception as error:
            raise AssertionError(f"superseded after {moment} us: {error}") from error
        assert len(world.carriers) == 2
