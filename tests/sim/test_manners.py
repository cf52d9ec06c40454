"""How the default controller behaves towards others: what it keeps in the queue, what it does when it must give way.
And what becomes of packets of connections that are over."""

import random

import pytest
from tests.drivers._pyconnection import PyListener

from mproxy.transport.datagram_config import DatagramConfig
from tests.sim.path import Faults, World

SECOND = 1_000_000
FAST = 12.5e6  # bytes per second: 100 Mbit/s
HELD = FAST * 0.02  # bytes that the path holds in 20 ms


def watch(world, seconds):
    """Run for so long; returns what was in flight and in the queue, in bytes, every millisecond."""
    seen = []
    for _ in range(seconds * 1000):
        end = world.clock.now + 1000
        while world.clock.now < end and world.clock.step():
            pass
        queued = max(0, world.up.busy_until - world.clock.now) * FAST / SECOND
        seen.append((world.client.connection.look()["in_flight"], queued))
    return seen


@pytest.mark.parametrize("loss", [0, 0.01, 0.05])
def test_what_is_under_way_is_bounded(loss):
    """However long the queue may be: at most twice what the path holds is under way, and there is hardly any queue."""
    world = World(1, Faults(rate=FAST, loss=loss, queue_bytes=4_000_000), Faults(loss=loss), data=bytes(60_000_000))
    seen = watch(world.start(), 4)
    assert max(in_flight for in_flight, _queued in seen) <= 2.2 * HELD
    queues = sorted(queued for _in_flight, queued in seen[1000:])
    assert queues[len(queues) // 2] <= 0.15 * HELD
    assert len(world.server.received) >= 0.85 * (1 - loss) * FAST * 3.5


@pytest.mark.parametrize("share", [1, 0.5])
def test_start_does_not_overflow_a_queue(share):
    """With a queue as large as the path's capacity the start loses nothing; with half of that, little."""
    world = World(2, Faults(rate=FAST, queue_bytes=int(share * HELD)), Faults(), data=bytes(10_000_000)).start()
    world.run().check()
    assert world.up.overflows <= (0 if share == 1 else 0.03 * world.up.sent)


def test_path_that_becomes_narrow_is_not_flooded():
    """When a quarter of the rate is left, hardly anything is dropped after two seconds, and that quarter is used."""
    world = World(3, Faults(rate=FAST, queue_bytes=100_000), Faults(), data=bytes(60_000_000)).start()
    watch(world, 1)
    world.up.faults.rate = FAST / 4
    watch(world, 2)
    dropped, sent, received = world.up.overflows, world.up.sent, len(world.server.received)
    watch(world, 4)
    assert world.up.overflows - dropped <= 0.05 * (world.up.sent - sent)
    assert len(world.server.received) - received >= 0.85 * FAST / 4 * 4


@pytest.mark.parametrize("recovery", ["sack", "gbn"])
@pytest.mark.parametrize("before", [1, 40, 300])
def test_packet_numbers_pass_2_to_the_32(recovery, before):
    """Losses, repetitions and reordering while the numbers pass it: gaps must keep their size."""
    faults = Faults(loss=0.03, duplicate=0.05, reorder=0.05)
    world = World(4, faults, data=random.Random(4).randbytes(600_000), config=DatagramConfig(recovery=recovery),
                  number=2**32 - before)
    world.start().run().check()
    assert world.client.connection.look()["next_number"] > 2**32 + 100


def test_packets_of_an_old_connection_find_nobody():
    """Their id is unknown, so they get no answer and open no connection, not even the ACK that once opened one."""
    world = World(5, Faults(), data=b"x" * 100_000)
    kept, carried = [], world.up.send

    def keep(packet):
        kept.append(packet)
        carried(packet)

    world.up.send = keep
    world.start().run().check()
    answers = [world.listener.receive(packet, world.client.address, world.clock.now, bytes(32)) for packet in kept]
    assert not any(isinstance(answer, type(world.client.connection)) for answer in answers)
    assert sum(answer is not None for answer in answers) == 1, "the SYN, as of anybody"
    another = PyListener(DatagramConfig(), bytes(16))
    assert sum(another.receive(packet, b"client", world.clock.now, bytes(32)) is not None for packet in kept) == 1


def test_tiny_packets_without_end_cost_nothing_but_themselves():
    """One byte in each packet, in order: memory stays within one window, and acks are few."""
    world = World(6, Faults(), data=bytes(3000), config=DatagramConfig(max_window_bytes=64 << 10))
    write = world.client.connection.write
    world.client.connection = Slow(world.client.connection, write)
    world.start().run().check()
    server = world.server.connection.look()
    assert server["in_capacity"] <= 64 << 10
    assert server["in_packets"] > 500 and server["out_packets"] < server["in_packets"]


class Slow:
    """A PyConnection whose application writes a byte whenever it may."""

    def __init__(self, inner, write):
        self._inner, self._write = inner, write

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def write(self, data):
        """Only the first byte of `data`."""
        return self._write(data[:1])


class Zeros:
    """As many as anybody may want, without holding them."""

    def __len__(self):
        return 1 << 40

    def __getitem__(self, part):
        return bytes(part.stop - part.start)


class Counted:
    """What a peer has received, without holding it."""

    def __init__(self):
        self.count = 0

    def __iadd__(self, data):
        self.count += len(data)
        return self


def test_a_window_of_four_paths_fills_one_that_is_long_and_loses():
    """Aspera's published case, a fiftieth of its rate: 1 s of round trip, 5 % loss. What a lost packet holds up has to
    be held: with the window of what the path holds a third of it would be used."""
    rate = 2.5e6
    faults = Faults(rate=rate, delay=500_000, loss=0.05, queue_bytes=int(rate))
    world = World(1, faults, Faults(delay=500_000, loss=0.05), data=Zeros(),
                  config=DatagramConfig(max_window_bytes=int(4 * rate))).start()
    world.run(lambda: world.server is not None)
    received = world.server.received = Counted()
    world.run(lambda: world.clock.now >= 20 * SECOND)
    before = received.count
    world.run(lambda: world.clock.now >= 40 * SECOND)
    assert received.count - before >= 0.7 * rate * 20


@pytest.mark.parametrize(("most", "first"), [(256 << 10, 256 << 10), (16 << 20, 1 << 20), (512 << 20, 32 << 20)])
def test_what_is_offered_at_first_is_a_part_of_what_may_be(most, first):
    """Where packets are lost each doubling takes several round trips, so a large window begins with more of it. What
    the set-up says and what the channel takes are the same."""
    world = World(7, Faults(), data=b"x", config=DatagramConfig(max_window_bytes=most)).start()
    world.run(lambda: world.server is not None and world.client.established)
    assert world.client.connection.look()["limit"] == world.server.connection.look()["in_window"] == first
