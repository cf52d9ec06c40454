"""Ids that change with the path: what a watcher sees, and what somebody on the path can do about it."""

import itertools
import random

import pytest

from mproxy.transport.datagram_config import DatagramConfig
from tests.sim.path import Faults, World

SEALED = DatagramConfig(sealed=True)
AHEAD, KNOWN = 8, 11  # of transport/_ids.pxd


def at_work(seed=1, size=4_000_000, *, config=SEALED, server_config=None):
    """A world in the middle of a transfer both ways, and {address of the client: ids seen in packets of that path}."""
    pick = random.Random(seed)
    world = World(seed, Faults(delay=20_000, rate=2.5e6), config=config, server_config=server_config,
                  data=pick.randbytes(size), answer=pick.randbytes(size))
    seen = {}
    carried = world.send

    def watch(peer, address, packet):
        network = world.client.address if peer is world.client else address
        if packet[0] == 5:  # DATA: the set-up is in the clear anyway
            seen.setdefault(network, set()).add(packet[4:12])
        carried(peer, address, packet)

    world.send = watch
    world.start().run(lambda: world.server and len(world.server.received) > 200_000)
    return world, seen


def move(world, address, *, tells=True):
    """The client's network is another one."""
    world.client.address = address
    if tells:
        world.client.connection.probe(world.clock.now)
        world.client.pump()


def settle(world, microseconds=300_000):
    end = world.clock.now + microseconds
    while world.clock.now < end and world.clock.step():
        pass


def test_no_id_is_seen_in_two_networks():
    """Goal: with each of twelve changes of network, more than there are ids ahead, each direction has a new id; none is
    ever used in two networks, whatever was under way."""
    world, seen = at_work()
    for number in range(12):
        move(world, b"network %d" % number)
        settle(world, 150_000)
    world.run().check()
    networks = [ids for name, ids in seen.items() if name.startswith((b"network", b"client"))]
    assert len(networks) == 13
    for one, other in itertools.combinations(networks, 2):
        assert not one & other
    assert all(len(ids) == 2 for ids in networks[1:]), "one each way"
    assert len(world.server.connection.ids.window()) == KNOWN


def test_a_change_that_nobody_noticed_changes_no_id():
    world, seen = at_work()
    move(world, b"elsewhere", tells=False)
    world.run().check()
    assert world.server.moves == 1 and seen[b"elsewhere"] == seen[b"client"]


def test_ids_are_not_used_up():
    """Goal: a hundred changes of network of which the peer hears nothing; then the connection goes on."""
    world, _seen = at_work()
    world.up.silent = world.down.silent = True
    for number in range(100):
        move(world, b"network %d" % number)
        settle(world, 5_000)
    client = world.client.connection.ids
    assert client.turn == client.heard + AHEAD
    world.up.silent = world.down.silent = False
    move(world, b"network 100")
    world.run().check()
    assert client.turn == client.heard == world.server.connection.ids.turn == AHEAD


def test_both_ends_move():
    """Goal: both ends take the next id at the same moment, and agree again."""
    world, _seen = at_work()
    world.server.connection.probe(world.clock.now)
    move(world, b"elsewhere")
    world.server.pump()
    world.run().check()
    assert world.client.connection.ids.turn == world.server.connection.ids.turn == 1


@pytest.mark.parametrize("replayed", [False, True])
def test_packets_sent_on_from_elsewhere_change_no_id(replayed):
    """Goal: somebody sends copies of packets from his address, before they arrive or again; ids stay, and nothing of
    the session goes there but what a new address may get."""
    world, seen = at_work()
    copies = []
    take = world.server.take

    def taken(packet, source):
        copies.append(packet)
        for copy in copies[-20:-1] if replayed else [packet]:
            take(copy, b"attacker")
        take(packet, source)

    world.server.take = taken
    world.run().check()
    assert world.server.connection.ids.turn == 0 and world.server.connection.look()["peer"] == b"client"
    assert seen.get(b"attacker", set()) <= seen[b"client"]


def test_without_keys_one_id_stays():
    """Goal: where nothing is sealed there is nothing to hide."""
    world, seen = at_work(config=DatagramConfig())
    move(world, b"elsewhere")
    world.run().check()
    assert seen[b"elsewhere"] == seen[b"client"]
