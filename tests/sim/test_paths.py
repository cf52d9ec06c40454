"""Connections over paths in virtual time: rates, fairness, silence, address changes, ends, and malicious peers."""

import itertools
import random

import pytest
from mproxy.transport._connection import ConnectionEventKind
from mproxy.transport._states import ConnectionState
from tests.drivers._datagram import pack_header, pack_varint, unpack_header
from tests.drivers._pyconnection import PyConnection, PyListener

from mproxy.transport._packet import (
    ControlType,
    EndCode,
    PacketFlag,
    PacketType,
    checksum,
)
from mproxy.transport.datagram_config import DatagramConfig
from tests.sim.path import Direction, Faults, World

SECOND = 1_000_000
FAST = 12.5e6  # bytes per second: 100 Mbit/s


def send(size, up, down=None, seed=1, **settings):
    """Send `size` bytes; returns (Mbit/s, the world), everything checked."""
    world = World(seed, up, down or Faults(loss=up.loss), data=random.Random(seed).randbytes(size), **settings).start()
    begin = world.clock.now
    world.run().check()
    return size * 8 / (world.server.complete_at - begin), world


# ---- keys

@pytest.mark.parametrize("messages", [2, 3, 4])
@pytest.mark.parametrize("loss", [0, 0.3])
def test_handshake_is_repeated_until_both_have_keys(messages, loss):
    for seed in range(10):
        faults = Faults(loss=loss, duplicate=loss / 2, reorder=loss, corrupt=loss / 10)
        world = World(seed, faults, data=b"up" * 3000, answer=b"down" * 2000, config=DatagramConfig(sealed=True))
        world.messages = messages
        world.start().run().check()


# ---- rates

@pytest.mark.parametrize(("loss", "share"), [(0, 0.82), (0.01, 0.82), (0.05, 0.8), (0.1, 0.8), (0.2, 0.6), (0.3, 0.5)])
def test_rate_follows_the_path_and_not_its_losses(loss, share):
    rates = [send(12_000_000, Faults(rate=FAST, loss=loss, queue_bytes=250_000), seed=seed)[0] for seed in (1, 2, 3)]
    assert sorted(rates)[1] >= share * 100 * (1 - loss), rates


@pytest.mark.parametrize("congestion", ["cubic", "bbr"])
def test_long_path_is_filled(congestion):
    """At 300 Mbit/s and 200 ms, credit and window must grow to 7.5 MB."""
    rate, world = send(60_000_000, Faults(rate=37.5e6, delay=100_000, queue_bytes=4_000_000),
                       config=DatagramConfig(congestion=congestion))
    assert rate >= 100, "most of so short a transfer is its start"
    assert world.server.connection.look()["in_window"] >= 8 << 20


def test_a_busy_host_costs_a_part_of_the_rate():
    """Goal: who has its turn late sends what it should have sent meanwhile. A fifth of the rate would be measured, then
    sent, and so on, down to a few packets a turn."""
    rates = [send(10_000_000, Faults(rate=FAST, delay=50_000, queue_bytes=1_250_000), seed=seed, busy=20_000)[0]
             for seed in (1, 2, 3)]
    assert sorted(rates)[1] >= 10, rates


def share_a_bottleneck(controls, seconds, queue_bytes, rate=FAST):
    """Flows of different controllers through one queue; returns bytes of each in the last half, and drops of all."""
    worlds = [World(i, Faults(rate=rate, queue_bytes=queue_bytes), Faults(), data=bytes(int(rate * seconds)),
                    config=DatagramConfig(congestion=control)) for i, control in enumerate(controls)]
    first = worlds[0]

    def enter(world, packet):
        world.up.busy_until = first.up.busy_until
        Direction.send(world.up, packet)
        first.up.busy_until = world.up.busy_until

    for world in worlds:
        world.clock = world.up.clock = world.down.clock = first.clock
        if world is not first:
            world.up.send = lambda packet, world=world: enter(world, packet)
        world.start()
    half = [0] * len(worlds)
    for part in (1, 2):
        while first.clock.now < SECOND * (1 + seconds * part / 2):
            first.clock.step()
        half = [len(world.server.received) - before for world, before in zip(worlds, half, strict=True)]
    return half, sum(world.up.overflows for world in worlds), sum(world.up.sent for world in worlds)


@pytest.mark.parametrize("queue_bytes", [60_000, 250_000])
def test_two_flows_share_a_bottleneck(queue_bytes):
    """They share it fairly and fill it, and neither gains by making the other lose packets."""
    shares, dropped, sent = share_a_bottleneck(["bbr", "bbr"], 6, queue_bytes)
    assert min(shares) >= 0.6 * max(shares)
    assert sum(shares) >= 0.8 * FAST * 3, "each gives way to the other, in a short queue below what the path holds"
    assert dropped <= 0.15 * sent


@pytest.mark.parametrize(("paths", "ours"), [(0.25, 0.25), (1, 0.25), (4, 0.02)])
def test_flow_beside_cubic_leaves_it_its_share(paths, ours):
    """Whether the queue holds a part of what the path holds, or several times that, which CUBIC fills."""
    rate = FAST / 4
    shares, dropped, sent = share_a_bottleneck(["bbr", "cubic"], 16, int(paths * rate * 0.02), rate)
    assert shares[1] >= 0.3 * sum(shares)
    assert shares[0] >= ours * sum(shares)
    assert sum(shares) >= 0.85 * rate * 8
    assert dropped <= 0.1 * sent


# ---- Go-Back-N

def test_go_back_n_resends_the_window_for_one_loss():
    """The receiver keeps nothing out of order: one lost packet costs a window, three duplicate acks find it."""
    config = DatagramConfig(recovery="gbn", congestion="fixed", window=20, max_packet_bytes=1200)
    world = World(1, Faults(), data=bytes(range(256)) * 400, config=config)
    carried, lost = world.up.send, []

    def lose_one(packet):
        if unpack_header(packet)[5] == 5 * 1168 and not lost and packet[0] == PacketType.DATA:
            lost.append(packet)
        else:
            carried(packet)

    world.up.send = lose_one
    world.start().run().check()
    client, server = world.client.connection.look(), world.server.connection.look()
    assert lost and client["timeouts"] == 0, "found by duplicates, not by time"
    assert 15 <= server["discarded"] <= 20, "what was in flight behind the lost packet"
    assert client["resent"] >= 15 * 1168


def test_go_back_n_answers_a_corrupt_packet_with_a_duplicate_ack():
    config = DatagramConfig(recovery="gbn", congestion="fixed", window=8, max_packet_bytes=1200)
    world = World(1, Faults(corrupt=0.05), Faults(), data=random.Random(1).randbytes(200_000), config=config)
    world.start().run().check()
    assert world.server.connection.look()["corrupt"] > 3


# ---- silence, addresses, the end

def test_silence_and_return():
    world = World(1, Faults(), data=random.Random(1).randbytes(3_000_000)).start()
    world.run(lambda: world.server and len(world.server.received) > 300_000)
    world.up.silent = world.down.silent = True
    world.clock.after(15 * SECOND, lambda: setattr(world.up, "silent", False))
    world.clock.after(15 * SECOND, lambda: setattr(world.down, "silent", False))
    begin = world.clock.now
    world.run().check()
    assert world.server.complete_at - begin < 20 * SECOND, "the path is back for five seconds and nobody noticed"


def test_silence_for_ever_ends_with_a_reason_on_both_sides():
    world = World(1, Faults(), data=bytes(3_000_000)).start()
    world.run(lambda: world.server and len(world.server.received) > 300_000)
    world.up.silent = world.down.silent = True
    begin = world.clock.now
    world.run(limit=120 * SECOND)
    for end in (world.client, world.server):
        assert end.ended[:2] == (EndCode.IDLE, b"nothing heard from the other side for too long")
        assert 58 * SECOND < end.ended_at - begin < 62 * SECOND


def test_silence_is_borne_for_the_idle_time_whatever_the_number_of_tries():
    config = DatagramConfig(idle_us=300 * SECOND)
    world = World(1, Faults(), data=random.Random(1).randbytes(3_000_000), config=config).start()
    world.run(lambda: world.server and len(world.server.received) > 300_000)
    world.up.silent = world.down.silent = True
    world.clock.after(290 * SECOND, lambda: setattr(world.up, "silent", False))
    world.clock.after(290 * SECOND, lambda: setattr(world.down, "silent", False))
    begin = world.clock.now
    world.run().check()
    assert world.server.complete_at - begin < 295 * SECOND


def test_retries_that_are_given_end_it_sooner():
    world = World(1, Faults(), data=bytes(3_000_000), config=DatagramConfig(retries=5)).start()
    world.run(lambda: world.server and len(world.server.received) > 300_000)
    world.up.silent = world.down.silent = True
    begin = world.clock.now
    world.run(lambda: world.client.ended)
    assert world.client.ended[:2] == (EndCode.TIMED_OUT, b"the other side does not answer any more")
    assert world.client.ended_at - begin < 20 * SECOND


def in_mid_transfer():
    """A world with an open connection; returns it, its client's engine and the time."""
    world = World(1, Faults(), data=bytes(3_000_000)).start()
    world.run(lambda: world.server and len(world.server.received) > 300_000)
    return world, world.client.connection, world.clock.now


def test_time_in_which_the_process_was_stopped_is_not_silence():
    _world, client, now = in_mid_transfer()
    now += 75 * SECOND
    client.connection.excuse(73 * SECOND, now)
    client.handle_timeout(now)
    assert client.state == ConnectionState.OPEN
    assert list(iter(lambda: client.transmit(now), None)), "it asks at once"
    assert client.connection.deadline() > now
    client.handle_timeout(now + 61 * SECOND)
    assert client.state == ConnectionState.DRAINING, "silence from then on counts"


def test_time_without_a_route_is_not_silence_for_the_active_side():
    world, client, now = in_mid_transfer()
    client.connection.sent_off(False, now)
    for minute in range(1, 10):
        client.handle_timeout(now + minute * 60 * SECOND)
        assert client.state == ConnectionState.OPEN
        client.connection.sent_off(False, now + minute * 60 * SECOND)
    now += 10 * 60 * SECOND
    client.connection.sent_off(True, now)
    client.handle_timeout(now + 30 * SECOND)
    assert client.state == ConnectionState.OPEN
    client.handle_timeout(now + 61 * SECOND)
    assert client.state == ConnectionState.DRAINING
    server = world.server.connection
    server.connection.sent_off(False, now)
    server.handle_timeout(now + 61 * SECOND)
    assert server.state == ConnectionState.DRAINING, "a sender that went away must not keep its place"


def test_a_change_of_the_network_repeats_the_first_packet_at_once():
    world = World(1, Faults(), data=b"x")
    world.up.silent = True
    world.start().run(lambda: world.up.sent == 4)
    world.client.connection.probe(world.clock.now)
    assert world.client.connection.transmit(world.clock.now) is not None


def test_nobody_there():
    world = World(1, Faults(loss=1.0), data=b"x", config=DatagramConfig(retries=5)).start()
    world.run(lambda: world.client.ended)
    assert world.client.ended[:2] == (EndCode.TIMED_OUT, b"the other side does not answer")
    assert world.up.sent == 6


@pytest.mark.parametrize("who", ["client", "server"])
@pytest.mark.parametrize("tells", [True, False])
def test_address_changes_in_mid_transfer(who, tells):
    """The sender of data is found by its packets, the receiver by its pings; the new address is challenged first."""
    world = World(2, Faults(rate=FAST), data=random.Random(2).randbytes(4_000_000)).start()
    world.run(lambda: world.server and len(world.server.received) > 1_000_000)
    mover, other = (world.client, world.server) if who == "client" else (world.server, world.client)
    mover.address += b"'"
    if who == "server":
        world.server_address = mover.address
    if tells:
        mover.connection.probe(world.clock.now)
        mover.pump()
    begin = world.clock.now
    world.run().check()
    assert other.moves == 1 and other.connection.look()["peer"] == mover.address
    assert world.server.complete_at - begin < (2 if tells else 6) * SECOND


@pytest.mark.parametrize("times", [1, 2, 4])
@pytest.mark.parametrize("both", [True, False])
def test_lost_fins(times, both):
    """The first packets with a FIN are lost, one way or both ways, and so are the first CLOSE packets."""
    world = World(3, Faults(), data=b"up" * 5000, answer=b"down" * 3000)
    for direction in (world.up, world.down) if both else (world.up,):
        left = itertools.count()

        def carry(packet, send=direction.send, left=left):
            last = packet[0] == PacketType.DATA and (packet[1] & PacketFlag.FIN or packet[28] == ControlType.CLOSE)
            if not last or next(left) >= times:
                send(packet)

        direction.send = carry
    world.start().run().check()


def test_every_goodbye_lost():
    """Nothing gets through after the client's last ack: both ends finish, and neither claims what it cannot know."""
    world = World(4, Faults(), data=b"x" * 50_000).start()
    world.run(lambda: world.client.ended)
    world.up.silent = world.down.silent = True
    world.run(limit=120 * SECOND)
    assert bytes(world.server.received) == world.data
    assert world.server.ended[0] == EndCode.DONE, "only the ack of its FIN was missing"


def test_answers_go_where_they_were_told():
    """--ack-to: everything from the passive side goes to one address, and the active side follows nobody."""
    world = World(5, Faults(loss=0.05), data=random.Random(5).randbytes(300_000),
                  config=DatagramConfig(fixed_path=True),
                  server_config=DatagramConfig(answer_to=b"elsewhere", fixed_path=True))
    seen, carried = set(), world.send

    def note(peer, address, packet):
        if peer is world.server:
            seen.add(address)
            address = world.client.address
        carried(peer, address, packet)

    world.send = note
    world._to_client = lambda packet: world.client.take(packet, b"from elsewhere")
    world.down.sink = world._to_client
    world.start().run().check()
    assert seen == {b"elsewhere"}
    assert world.client.connection.look()["peer"] == world.server_address


def test_path_that_takes_smaller_packets_all_of_a_sudden():
    world = World(6, Faults(rate=FAST), data=random.Random(6).randbytes(4_000_000)).start()
    world.run(lambda: world.server and len(world.server.received) > 1_000_000)
    assert world.client.connection.look()["packet_bytes"] == 1472
    world.up.faults.mtu = 1300
    world.run().check()
    assert world.client.connection.look()["packet_bytes"] <= 1300


@pytest.mark.parametrize("window", [32, 64, 200])
def test_sizes_that_the_host_refuses_are_not_taken_for_proved(window):
    """The ack of a small probe comes together with the loss of larger ones that never left the host."""
    world = World(8, Faults(delay=1000), data=random.Random(8).randbytes(3_000_000),
                  config=DatagramConfig(congestion="fixed", window=window, max_packet_bytes=8972),
                  server_config=DatagramConfig(max_packet_bytes=8972))
    carried, sizes = world.send, set()

    def refuse(peer, address, packet):
        sizes.add(peer.connection.look()["packet_bytes"])
        if len(packet) > 1472:
            peer.connection.too_big(len(packet), world.clock.now)
        else:
            carried(peer, address, packet)

    world.send = refuse
    world.start().run().check()
    assert sizes == {1200, 1472}, window


# ---- peers that mean harm

def dialled(number=1000, **settings):
    """A world whose connection is open, and a function that forges a DATA packet to the server (without keys)."""
    world = World(7, Faults(delay=100), data=b"", config=DatagramConfig(**settings), number=number)
    world.client.to_send = None
    world.start().run(lambda: world.server and world.client.established and world.server.established)
    numbers = itertools.count(number + 5000)

    def forge(control=b"", data=b"", offset=0, flags=0, number=None):
        server_id = world.server.connection.local_id
        packet = pack_header(PacketType.DATA, flags, len(control), server_id, number or next(numbers), offset)
        packet += control + data
        return packet + checksum(packet).to_bytes(4, "big")

    return world, forge


def ack_of(low, high, credit=1 << 20):
    head = bytes([ControlType.ACK_RANGES]) + high.to_bytes(8, "big") + bytes(4) + credit.to_bytes(8, "big") + b"\0"
    return head + pack_varint(high - low)


HARM = {
    "ack of what was never sent": lambda last: {"control": ack_of(last, last + 10)},
    "ack from before the beginning": lambda last: {"control": ack_of(0, last)},
    "ack cut off": lambda last: {"control": ack_of(last, last)[:12]},
    "data beyond the credit": lambda _last: {"data": b"x", "offset": 1 << 40},
    "offset that wraps": lambda _last: {"data": b"x" * 100, "offset": (1 << 64) - 50},
    "unknown message": lambda _last: {"control": b"\x77"},
    "goodbye to streams that are open": lambda _last: {"control": bytes([ControlType.CLOSE, 0, 0, 0])},
}
GIVES_UP = bytes([ControlType.CLOSE, 0, EndCode.ABORTED, 0])


@pytest.mark.parametrize("harm", HARM)
def test_authentic_nonsense_ends_the_connection(harm):
    world, forge = dialled()
    last = world.server.connection.look()["next_number"] - 1
    world.server.take(forge(**HARM[harm](last)), world.client.address)
    assert world.server.ended and world.server.ended[0] == EndCode.BAD_PACKET


def test_giving_up_twice_is_giving_up(recwarn):
    """Several CLOSE in one packet; an exception in the engine would show as an unraisable one."""
    world, forge = dialled()
    world.server.take(forge(control=GIVES_UP * 3), world.client.address)
    assert world.server.ended[0] == EndCode.ABORTED
    assert not recwarn.list
    world, forge = dialled()
    world.server.connection.abort(EndCode.ABORTED, b"", world.clock.now)
    world.server.take(forge(control=GIVES_UP * 3), world.client.address)
    assert world.server.connection.state == ConnectionState.CLOSED
    assert not recwarn.list


@pytest.mark.parametrize("size", [1, 5_000, 60_000])
def test_an_end_that_comes_before_everything_else(size):
    """The FIN comes first, then the bytes before it, backwards: memory is used only for what has come."""
    data = random.Random(size).randbytes(size)
    world, forge = dialled()
    server, address = world.server.connection, world.client.address
    if size > 5_000:
        server.receive(forge(data=data[:1], offset=0), address, world.clock.now)  # storage for little
    server.receive(forge(offset=size, flags=PacketFlag.FIN), address, world.clock.now)
    for at in range(size - size % 1000, -1, -1000):
        server.receive(forge(data=data[at:at + 1000], offset=at), address, world.clock.now)
    assert server.read(size + 1, world.clock.now) == data
    assert server.look()["in_capacity"] <= 65536


def test_second_end_of_a_stream_ends_the_connection():
    world, forge = dialled()
    world.server.take(forge(data=b"c", offset=2, flags=PacketFlag.FIN), world.client.address)
    world.server.take(forge(data=b"d", offset=3), world.client.address)
    assert world.server.ended[0] == EndCode.BAD_PACKET


def test_acks_in_advance_are_found_out():
    """A peer acknowledges everything to be sent to faster; skipped numbers expose it (RFC 9000 section 21.4)."""
    world = World(8, Faults(delay=1000), data=bytes(4_000_000)).start()
    world.run(lambda: world.server and world.server.established)
    first = world.client.connection.look()["next_number"] - 1
    client, numbers = world.client.connection, itertools.count(1 << 40)

    def acknowledge_everything(_packet):
        high = client.look()["next_number"] - 1
        control = ack_of(min(first, high), high, 1 << 40)
        packet = pack_header(PacketType.DATA, 0, len(control), client.local_id, next(numbers), 0) + control
        world.down.send(packet + checksum(packet).to_bytes(4, "big"))

    world.up.sink = acknowledge_everything
    world.run(lambda: world.client.ended, limit=60 * SECOND)
    assert world.client.ended[0] == EndCode.BAD_PACKET


def test_tiny_packets_with_holes_cost_a_bounded_memory():
    world, forge = dialled(max_window_bytes=64 << 10)
    for i in range(20_000):
        world.server.take(forge(data=b"x", offset=1 + 2 * i % 60_000), world.client.address)
    look = world.server.connection.look()
    assert look["in_capacity"] <= 64 << 10
    assert look["arrived"] == 0 and world.server.ended is None


def test_packets_sent_again_are_taken_once():
    world = World(9, Faults(), data=random.Random(9).randbytes(300_000))
    kept, carried = [], world.up.send

    def keep(packet):
        kept.append(packet)
        carried(packet)
        carried(kept[world.random.randrange(len(kept))])

    world.up.send = keep
    world.start().run().check()
    assert world.server.connection.look()["repeated"] > 100
    for packet in kept:
        world._to_server(packet)
    assert world.server.connection.state == ConnectionState.CLOSED and world.listener.listener.accepted == 1


def test_another_address_gets_no_more_than_three_times_what_came_from_it():
    world, forge = dialled()
    to_victim, carried = [], world.send

    def note(peer, address, packet):
        if address == b"victim":
            to_victim.append(len(packet))
        else:
            carried(peer, address, packet)

    world.send = note
    forged = forge(control=bytes([ControlType.PING]))
    world.server.take(forged, b"victim")
    world.clock.after(30 * SECOND, lambda: None)
    end = world.clock.now + 30 * SECOND
    while world.clock.now < end and world.clock.step():
        pass
    assert 0 < sum(to_victim) <= 3 * len(forged)
    assert world.server.connection.look()["peer"] == world.client.address


# ---- the listener

def knock(seed=1, now=SECOND, config=None):
    """A client, a listener, the SYN, the SYN-ACK."""
    config = config or DatagramConfig()
    client = PyConnection(config, random.Random(seed).randbytes(32))
    listener = PyListener(config, random.Random(seed + 1).randbytes(16))
    client.connect(b"server", now)
    syn = client.transmit(now)[1][0]
    return client, listener, syn, listener.receive(syn, b"client", now, bytes(32))


def shown(client, answer, now=SECOND):
    """The client's ACK."""
    client.receive(answer, b"server", now)
    return client.transmit(now)[1][0]


def test_flood_of_syns_leaves_nothing_behind():
    _client, listener, syn, _answer = knock()
    for i in range(20_000):
        answer = listener.receive(syn, i.to_bytes(16, "big"), SECOND + i, bytes(32))
        assert len(answer) <= len(syn) // 10
    assert listener.listener.syns == 20_001 and listener.listener.accepted == 0


def test_short_syn_gets_no_answer():
    """Otherwise a small packet with a forged address would send its owner a larger one."""
    _client, listener, syn, _answer = knock()
    short = syn[:2] + (100).to_bytes(2, "big") + syn[4:128]
    assert listener.receive(short + checksum(short).to_bytes(4, "big"), b"client", SECOND, bytes(32)) is None


def test_cookie_is_for_one_client_one_time_and_a_minute():
    client, listener, _syn, answer = knock()
    ack = shown(client, answer)
    assert listener.receive(ack, b"another", SECOND, bytes(32)) is None
    assert listener.receive(ack, b"client", 70 * SECOND, bytes(32)) is None
    assert isinstance(listener.receive(ack, b"client", 2 * SECOND, bytes(32)), PyConnection)
    assert listener.receive(ack, b"client", 3 * SECOND, bytes(32)) is None, "used"
    assert (listener.listener.accepted, listener.listener.refused) == (1, 3)


@pytest.mark.parametrize("at", [4, 12, 20, 28, 30, 46, 50, 66, 72])
def test_changed_ack_is_refused(at):
    """Id, number, options, time and cookie depend on each other, even if the checksum is corrected."""
    client, listener, _syn, answer = knock()
    ack = bytearray(shown(client, answer))
    ack[at] ^= 1
    ack[-4:] = checksum(bytes(ack[:-4])).to_bytes(4, "big")
    found = listener.receive(bytes(ack), b"client", SECOND, bytes(32))
    assert found is None or at in (46, 50), "46..63 is what the client believes of our options; ours count"


def test_sides_without_a_common_way_of_sealing_say_so():
    client, _listener, syn, _answer = knock()
    listener = PyListener(DatagramConfig(sealed=True), bytes(16))
    client.receive(listener.receive(syn, b"client", SECOND, bytes(32)), b"server", SECOND)
    assert client.events() == [(ConnectionEventKind.ENDED, EndCode.VERSION, b"the other side wants a key", True)]
    assert client.state == ConnectionState.CLOSED


def test_nothing_is_told_after_the_end():
    """A connection that was given up ignores the first packet of its peer while it drains."""
    client, listener, _syn, answer = knock()
    server = listener.receive(shown(client, answer), b"client", SECOND, bytes(32))
    server.abort(EndCode.ABORTED, b"no", SECOND)
    assert [event[0] for event in server.events()] == [ConnectionEventKind.ENDED]
    client.write(b"hello")
    while run := client.transmit(SECOND):
        for packet in run[1]:
            server.receive(packet, b"client", SECOND)
    assert server.look()["in_packets"] > 0
    assert server.events() == []


def test_one_source_begins_so_many_connections_a_second_and_another_is_not_concerned():
    listener, numbers = PyListener(DatagramConfig(), bytes(16)), itertools.count(1)

    def dial(source, now):
        client = PyConnection(DatagramConfig(), random.Random(next(numbers)).randbytes(32))
        client.connect(b"there", now)
        (_, (syn,)) = client.transmit(now)
        client.receive(listener.receive(syn, source, now, bytes(32)), b"there", now)
        (_, packets) = client.transmit(now)
        return lambda now: listener.receive(packets[0], source, now, bytes(32)) is not None

    flood = [dial(b"flood", SECOND) for _ in range(1000)]
    taken = [ack(SECOND) for ack in flood]
    assert 250 < sum(taken) < 260
    assert dial(b"honest", SECOND)(SECOND)
    left = [ack for ack, was_taken in zip(flood, taken, strict=True) if not was_taken]
    assert 190 < sum(ack(2 * SECOND) for ack in left) < 210, "their cookies are good for later"
