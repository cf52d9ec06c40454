"""How often acks are sent: rarely when all is well, at once when the sender has to know."""

import random

import pytest
from tests.drivers._datagram import unpack_header

from mproxy.transport._packet import PacketType
from mproxy.transport.datagram_config import DatagramConfig
from tests.sim.path import Faults, World

FAST = 12.5e6  # bytes per second: 100 Mbit/s


@pytest.mark.parametrize("congestion", ["bbr", "cubic"])
def test_bulk_is_acknowledged_seldom(congestion):
    """An ack wakes both ends, so there is one for many packets."""
    config = DatagramConfig(congestion=congestion)
    world = World(1, Faults(rate=FAST, queue_bytes=250_000), Faults(), data=bytes(6_000_000), config=config)
    world.start().run().check()
    assert world.down.sent < world.up.sent / 15


def test_ack_that_is_not_due_goes_with_data():
    """With data in both directions, acks go in packets that are sent anyway, and so cost nothing."""
    config = DatagramConfig(max_packet_bytes=1200)
    faults = Faults(rate=FAST, queue_bytes=1_000_000)
    world = World(2, faults, data=bytes(3_000_000), answer=bytes(3_000_000), config=config)
    world.start().run().check()
    for look in (world.client.connection.look(), world.server.connection.look()):
        assert look["out_packets"] - look["sent_packets"] < look["sent_packets"] / 20, "packets that were acks only"


@pytest.mark.parametrize("delay", [10_000, 400_000])
def test_loss_is_repaired_in_a_round_trip(delay):
    """Three packets behind the gap bring an ack, however long an ack may wait and however many packets it may await."""
    config = DatagramConfig(congestion="fixed", window=256, max_packet_bytes=1200, ack_delay_us=delay)
    world = World(3, Faults(rate=FAST, queue_bytes=1_000_000), Faults(), data=random.Random(3).randbytes(1_000_000),
                  config=config)
    carried, times, offsets = world.up.send, [], []

    def lose_one(packet):
        offset = unpack_header(packet)[5]
        offsets.append(offset)
        if packet[0] == PacketType.DATA and len(offsets) > 300 and offset == offsets[300]:
            queue = max(0, world.up.busy_until - world.clock.now)
            times.append((world.clock.now, queue))
            if len(times) == 1:
                return
        carried(packet)

    world.up.send = lose_one
    world.start().run().check()
    (first, queue), (again, _) = times
    assert again - first < 20_000 + queue + 6 * 1228 / 12.5, "a round trip, and the time in which few packets come"


# ---- Go-Back-N

def test_a_number_left_out_while_the_table_is_full():
    """Goal: packets under way have a place each, also when the number of the next one is left out just then; otherwise
    a part of the stream is neither under way nor lost, and with the ring full of what follows all stands still.

    Which numbers are left out depends on the first one. After 5 and 634 it is the one for which a table of 256 has no
    place; the others are there for the case that the rule changes.
    """
    data, config = random.Random(1).randbytes(1_200_000), DatagramConfig(max_window_bytes=1 << 19)
    for number in (5, 634, *range(10, 640, 10)):
        world = World(7, Faults(rate=FAST, delay=25_000, queue_bytes=2_000_000), data=data, config=config,
                      number=number)
        world.start().run(limit=100_000_000).check()


def test_go_back_n_does_not_take_a_later_ack_for_that_of_a_large_probe():
    """An ack of everything below an offset says nothing of a packet without data that asked whether its size passes."""
    config = DatagramConfig(recovery="gbn", max_packet_bytes=9000)
    world = World(4, Faults(rate=FAST, delay=5_000, queue_bytes=125_000, mtu=1472), Faults(delay=5_000),
                  data=random.Random(4).randbytes(3_000_000), config=config)
    sizes, carried = [], world.up.send

    def note(packet):
        if packet[0] == PacketType.DATA and len(packet) - unpack_header(packet)[2] > 1472:
            sizes.append(len(packet))
        carried(packet)

    world.up.send = note
    world.start().run().check()
    look = world.client.connection.look()
    assert look["packet_bytes"] == 1472 and not sizes and look["timeouts"] == 0


def test_go_back_n_on_a_clean_path_settles_after_the_start():
    """What is sent again with the window is no loss of the path: counted as one it would be made up for, for ever."""
    config = DatagramConfig(recovery="gbn", congestion="bbr")
    world = World(5, Faults(rate=FAST, delay=5_000, queue_bytes=125_000), Faults(delay=5_000), data=bytes(8_000_000),
                  config=config).start()
    world.run(lambda: world.server and len(world.server.received) > 2_000_000)
    early, overflows = world.client.connection.look()["resent"], world.up.overflows
    world.run().check()
    assert world.up.overflows == overflows and world.client.connection.look()["resent"] == early
    assert early < 2_000_000


def test_a_late_ack_does_not_send_a_window_again():
    """Goal: with gbn an ack held up for 100 ms on a path of 10 ms is waited for."""
    config = DatagramConfig(recovery="gbn", congestion="fixed", window=50, max_packet_bytes=1200)
    world = World(7, Faults(rate=FAST, delay=5_000), Faults(delay=5_000), data=bytes(2_000_000), config=config).start()
    world.run(lambda: world.server and len(world.server.received) > 1_000_000)
    world.down.faults.delay = 105_000
    world.run().check()
    assert world.client.connection.look()["timeouts"] == 0


@pytest.mark.parametrize("corrupt", [0, 0.02])
def test_going_back_happens_once_in_a_round_trip(corrupt):
    """Goal: a receiver that takes packets in batches and answers each, and corrupt packets whose number nobody knows,
    do not make the sender go back again and again for the same loss."""
    config = DatagramConfig(recovery="gbn", congestion="fixed", window=200, max_packet_bytes=1200)
    world = World(8, Faults(rate=FAST, delay=10_000, queue_bytes=500_000, loss=0.01, corrupt=corrupt),
                  Faults(delay=10_000), data=bytes(3_000_000), config=config).start()
    world.run(lambda: world.server)
    server, batch = world.server, []

    def take(packet, source):
        server.connection.receive(packet, source, world.clock.now)
        if not batch:
            world.clock.after(2_000, lambda: (batch.clear(), server.pump()))
        batch.append(packet)

    server.take = take
    began = world.clock.now
    world.run().check()
    windows = (world.clock.now - began) / 20_000 * 200 * 1200
    assert world.client.connection.look()["resent"] < windows
