"""Workers of one server: every packet of a connection names the one that has it, and nobody can choose one."""

import random

import pytest
from tests.drivers._pyconnection import PyListener

from mproxy.transport._listener import Routing
from mproxy.transport.datagram_config import DatagramConfig
from tests.sim.path import Faults, World
from tests.sim.test_ids import move, settle

SEALED = DatagramConfig(sealed=True)
DATA, SYN, ACK = 5, 1, 3
TAG_AT = 46  # in a SYN


class Crew(World):
    """A server with several workers: packets go where the kernel, or a worker, would send them."""

    def __init__(self, seed, workers, chosen, **more):
        super().__init__(seed, Faults(delay=20_000, rate=2.5e6), config=SEALED, **more)
        secret = self.random.randbytes(16)
        self.asked = []
        self.routings = [Routing(workers, secret) for _ in range(workers)]
        self.listeners = [PyListener(SEALED, secret, routing) for routing in self.routings]
        self.served_by = None
        self.packets = []
        for own, routing in enumerate(self.routings):
            routing.own = own

            def choose(tag, address):
                self.asked.append(tag)
                return chosen
            routing.choose = choose

    def worker_of(self, packet):
        bits = self.routings[0].bits
        return int.from_bytes(packet[4:12]) >> 64 - bits if bits and packet[0] != SYN else 0

    def _to_server(self, packet):
        self.packets.append(packet)
        worker = self.worker_of(packet)
        if worker >= len(self.listeners):
            return
        if self.server is None:
            self.listener = self.listeners[worker]
        super()._to_server(packet)
        if self.server is not None and self.served_by is None:
            self.served_by = worker


@pytest.mark.parametrize("workers, chosen", [(1, 0), (2, 0), (2, 1), (3, 2), (5, 4), (64, 63)])
def test_all_packets_name_the_worker_and_their_ids_still_change(workers, chosen):
    """Goal: from the ACK on, through five networks, each packet leads to the worker that was chosen at the SYN, though
    no id is seen in two networks."""
    pick = random.Random(workers)
    world = Crew(1, workers, chosen, data=pick.randbytes(2_000_000), answer=pick.randbytes(2_000_000))
    world.client.connection.show_tag(77)
    world.start().run(lambda: world.server and len(world.server.received) > 100_000)
    ids = [{packet[4:12] for packet in world.packets if packet[0] == DATA}]
    for number in range(5):
        del world.packets[:]
        move(world, b"network %d" % number)
        settle(world, 150_000)
        ids.append({packet[4:12] for packet in world.packets if packet[0] == DATA} - set().union(*ids))
        assert ids[-1], "each network has an id of its own"
    world.run().check()
    assert world.served_by == chosen and world.asked[0] == 77
    assert {world.worker_of(packet) for packet in world.packets} == {chosen}


def test_a_client_of_before_keeps_its_id():
    """Goal: one that does not know that the first bits stay is not offered ids that change, and is served."""
    pick = random.Random(1)
    world = Crew(1, 4, 3, data=pick.randbytes(1_000_000), answer=pick.randbytes(1_000_000))
    world.client.connection.forget_routing()
    world.start().run(lambda: world.server and len(world.server.received) > 100_000)
    move(world, b"elsewhere")
    world.run().check()
    assert world.served_by == 3
    assert len({packet[4:12] for packet in world.packets if packet[0] in (DATA, ACK)}) == 1


def shifted(crc):
    """A byte further."""
    for _bit in range(8):
        crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return crc


TABLE = [shifted(byte) for byte in range(256)]


def crc32c(data):
    """RFC 3720, appendix B.4."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def first_packets(world):
    """The SYN of a client, what a worker answers, and the client's ACK."""
    client, now = world.client.connection, world.clock.now
    client.connect(b"server", now)
    _address, (syn,) = client.transmit(now)
    answer = world.listeners[0].receive(syn, b"client", now, bytes(32))
    client.receive(answer, b"server", now)
    assert client.events()
    client.send_handshake(b"m")
    _address, (ack,) = client.transmit(now)
    return syn, answer, ack


def test_a_client_cannot_choose_a_worker():
    """Goal: an ACK counts for the worker that the SYN_ACK named, once, from there, and for no other worker."""
    world = Crew(1, 4, 2)
    _syn, answer, ack = first_packets(world)
    now = world.clock.now
    assert answer[20] >> 6 == ack[4] >> 6 == 2
    for other in (0, 1, 3):
        forged = bytearray(ack)
        forged[4] = forged[4] & 0x3F | other << 6
        forged[-4:] = crc32c(forged[:-4]).to_bytes(4)
        for listener in world.listeners:
            assert listener.receive(bytes(forged), b"client", now, bytes(32)) is None
    for number in (0, 1, 3):
        assert world.listeners[number].receive(ack, b"client", now, bytes(32)) is None
    assert world.listeners[2].receive(ack, b"another", now, bytes(32)) is None
    assert world.listeners[2].receive(ack, b"client", now, bytes(32)) is not None
    assert world.listeners[2].receive(ack, b"client", now, bytes(32)) is None, "a cookie is good for once"


def test_a_flood_of_first_packets_asks_seldom_who_is_to_have_them():
    """Goal: 100,000 SYNs in a second are answered, but for 3,100 at most it is looked up whose they are."""
    world = Crew(1, 4, 2)
    syn, _answer, _ack = first_packets(world)
    del world.asked[:]
    for number in range(100_000):
        answer = world.listeners[0].receive(syn, b"flood", world.clock.now + number * 10, bytes(32))
        assert len(answer) <= 62
    assert 2_900 < len(world.asked) < 3_100
    assert answer[20] >> 6 == 0, "the others stay here"


def test_in_a_flood_tags_lead_where_they_say():
    """Goal: of thousands that come back at once each reaches the worker that has its session, though nobody looks."""
    world = Crew(1, 4, 2)
    world.client.connection.show_tag(7)
    syn, _answer, _ack = first_packets(world)
    world.routings[0].guess = lambda tag: tag % 4
    answers = [world.listeners[0].receive(syn, b"flood", world.clock.now, bytes(32)) for _ in range(5_000)]
    assert len(world.asked) < 1_200
    assert (answers[0][20] >> 6, answers[-1][20] >> 6) == (2, 3)


def test_the_tag_in_the_first_packet_is_all_that_is_shown():
    world = Crew(1, 2, 1)
    world.client.connection.show_tag(0x0102030405060708)
    syn, _answer, _ack = first_packets(world)
    assert syn[TAG_AT:TAG_AT + 8] == bytes(range(1, 9)) and world.asked == [0x0102030405060708]
    assert len(syn) == 1200 and not any(syn[TAG_AT + 8:-4])
