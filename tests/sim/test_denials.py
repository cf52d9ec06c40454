"""A process that died had connections; whoever is there now says so to their peers, who prove it by dialling."""

import pytest
from mproxy.transport._connection import Denial
from tests.drivers._pyconnection import PyListener

from mproxy.transport._packet import checksum
from mproxy.transport.datagram_config import DatagramConfig
from tests.sim.test_ids import SEALED, at_work, move, settle

SECOND = 1_000_000
DATA, UNKNOWN = 5, 6
MOST_AT_ONCE = 257  # of transport/_listener.pxd, and the one that is due




def last_data(world):
    packets = []
    carried = world.send

    def watch(peer, address, packet):
        if peer is world.client and packet[0] == DATA:
            packets.append(packet)
        carried(peer, address, packet)

    world.send = watch
    settle(world, 100_000)
    world.send = carried
    return packets[-1]


def successor(config=SEALED):
    """The listener of another process at the same address."""
    return PyListener(config, b"another" + bytes(9))


def denial(packet, now=SECOND, listener=None):
    return (listener or successor()).receive(packet, b"client", now, bytes(32))


def test_a_successor_says_that_it_does_not_know_the_connection():
    world, _seen = at_work()
    packet = last_data(world)
    answer = denial(packet)
    assert answer[0] == UNKNOWN and answer[20:28] == packet[4:12] and answer[4:12] == bytes(8)
    assert len(answer) == 32 < len(packet)
    assert world.client.connection.denied(answer, b"server") == Denial.DENIED


def test_what_is_no_denial_of_this_connection():
    """Goal: from elsewhere, of another id, damaged, or cut: nothing follows from it."""
    world, _seen = at_work()
    answer = denial(last_data(world))
    client = world.client.connection
    another = bytearray(answer[:-4])
    another[27] ^= 1
    assert client.denied(bytes(another) + checksum(bytes(another)).to_bytes(4, "big"), b"server") == Denial.NONE
    assert client.denied(answer, b"elsewhere") == Denial.NONE
    assert client.denied(answer[:-1] + bytes([answer[-1] ^ 1]), b"server") == Denial.NONE
    assert client.denied(answer + bytes(4), b"server") == Denial.NONE
    assert world.server.connection.denied(answer, b"client") == Denial.NONE, "only whoever has dialled can dial again"


def test_a_denial_of_the_id_of_a_former_path():
    """What was under way when the network changed may be answered by anybody; what is sent now has another id."""
    world, _seen = at_work()
    answer = denial(last_data(world))
    move(world, b"another network")
    assert world.client.connection.denied(answer, b"server") == Denial.NONE


def test_a_connection_goes_on_whatever_is_said_of_it():
    """Goal: a denial alone ends nothing."""
    world, _seen = at_work(size=1_000_000)
    answer = denial(last_data(world))
    for _ in range(20):
        world.client.take(answer, b"server")
        settle(world, 5_000)
    world.run().check()


def test_who_takes_over_asks_all():
    """Goal: without an id it is a question, and from elsewhere nothing."""
    world, _seen = at_work()
    body = bytes([UNKNOWN]) + bytes(27)
    question = body + checksum(body).to_bytes(4, "big")
    client = world.client.connection
    assert client.denied(question, b"server") == Denial.ASKED
    assert client.denied(question, b"elsewhere") == Denial.NONE
    assert world.server.connection.denied(question, b"client") == Denial.NONE


def test_nothing_answers_a_denial():
    """Two that answer each other would never end."""
    world, _seen = at_work()
    answer = denial(last_data(world))
    assert denial(answer) is None
    assert denial(answer + bytes(100)) is None


@pytest.mark.parametrize("length", [32, 43])
def test_less_than_a_sealed_packet_is_not_answered(length):
    assert denial(bytes([DATA]) + bytes(length - 1)) is None


def test_without_keys_there_is_nobody_to_be_told():
    assert denial(bytes([DATA]) + bytes(99), listener=successor(DatagramConfig())) is None


def test_answers_are_bounded():
    """Goal: a flood of packets for connections that never were gets a thousand answers a second, each smaller than what
    it answers."""
    listener, packet = successor(), bytes([DATA]) + bytes(99)
    assert sum(denial(packet, SECOND, listener) is not None for _ in range(5_000)) == MOST_AT_ONCE
    assert sum(denial(packet, 2 * SECOND, listener) is not None for _ in range(5_000)) == MOST_AT_ONCE
    answered = sum(denial(packet, 3 * SECOND + 100 * i, listener) is not None for i in range(10_000))
    assert 1_000 <= answered <= 1_000 + MOST_AT_ONCE
