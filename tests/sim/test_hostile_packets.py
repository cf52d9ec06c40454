"""A session over packets, and somebody on the path who copies them, sends them again and pretends to be elsewhere."""

from mproxy._session import CarrierState
from tests.sim.apps import Plan
from tests.sim.test_packets import finish, lab

ATTACKER = b"attacker"
CHALLENGE_BYTES = 41


class Tap:
    """Sees every packet of the client; `sends(tap, packet)` decides what reaches the server and from where. What the
    server sends to ATTACKER goes nowhere, and is counted."""

    def __init__(self, world, sends):
        self.carrier = world.client.carrier
        self.seen = []          # copies of what the client sent
        self.from_attacker = self.to_attacker = 0
        self.data_to_attacker = 0  # in packets larger than a challenge
        self._sends = sends
        self._forward = self.carrier.forward
        self.carrier.paths["client"].sink = self._on_packet
        self.carrier.forward = self._on_answer

    def _on_packet(self, packet):
        self.seen.append(bytes(packet))
        self._sends(self, bytearray(packet))

    def deliver(self, packet, source=None):
        """Give the server a packet, from its own source or another one."""
        self.from_attacker += len(packet) if source else 0
        self.carrier.server.take(bytes(packet), source or self.carrier.client.address)

    def _on_answer(self, engine, address, packet):
        if address == ATTACKER:
            self.to_attacker += len(packet)
            self.data_to_attacker += len(packet) if len(packet) > CHALLENGE_BYTES else 0
        else:
            self._forward(engine, address, packet)


def at_work(seed=4):
    """A world in which both sides send for a while."""
    world = lab(seed)
    app = world.client.open(Plan(200_000, chunk=1000, pause=5_000), Plan(200_000, chunk=1000, pause=5_000))
    world.run(until=world.clock.now + 300_000)
    assert 0 < app.peer.received < 200_000
    return world


def over(world):
    """Everything has arrived, on the carrier of the beginning, which still goes to the client."""
    finish(world)
    assert world.client.ps.session.state == CarrierState.ACTIVE
    assert world.packet_carriers == 2, "one, with two ends"


def test_packets_that_overtake_themselves_from_elsewhere_move_nothing():
    """Goal: whoever sends our packets on from his address, faster than the path does, gets a challenge, which he cannot
    answer, and at most three times what he sent; after some such addresses nothing but challenges."""
    world = at_work()

    def sends(tap, packet):
        tap.deliver(packet, ATTACKER)
        tap.deliver(packet)

    tap = Tap(world, sends)
    over(world)
    assert 0 < tap.to_attacker <= 3 * tap.from_attacker
    assert tap.data_to_attacker <= 4 * 12_000
    assert world.client.carrier.server.connection.look()["peer"] == b"client"


def test_where_addresses_are_judged_a_refused_one_gets_challenges_only():
    """Goal: no byte of a session goes to an address from which the key may not come, not even until the challenge is
    answered."""
    world = at_work()
    world.client.carrier.server.judge({ATTACKER})

    def sends(tap, packet):
        tap.deliver(packet, ATTACKER)
        tap.deliver(packet)

    tap = Tap(world, sends)
    over(world)
    assert tap.to_attacker > 0 and tap.data_to_attacker == 0


def test_packets_that_are_sent_again_move_nothing():
    """Goal: old packets, answers to challenges among them, count for nothing, wherever they come from."""
    world = at_work(5)

    def sends(tap, packet):
        tap.deliver(packet)
        for old in tap.seen[-40:]:
            tap.deliver(old, ATTACKER)

    tap = Tap(world, sends)
    world.client.carrier.rebind()
    over(world)
    assert tap.from_attacker > 0 and tap.to_attacker == 0


def test_changed_packets_count_for_nothing():
    """Goal: every packet comes with each of its first 60 bytes changed in turn, before it comes as it is."""
    world = at_work(6)

    def sends(tap, packet):
        at = len(tap.seen) % min(60, len(packet))
        if at not in range(4, 12):  # the id: it would not be the server's packet
            changed = bytearray(packet)
            changed[at] ^= 1 << len(tap.seen) % 8
            tap.deliver(changed, ATTACKER)
        tap.deliver(packet)

    tap = Tap(world, sends)
    over(world)
    assert tap.to_attacker == 0
