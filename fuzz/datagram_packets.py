# Invariant: whatever packets come, in whatever order and at whatever time, a connection gives its application the bytes
# that the packets carried for those places, each once and in order, keeps its memory within the limits, sends nothing
# larger than a packet may be, and ends with a code or goes on; a listener keeps nothing of who has no cookie.
"""Both sides of a datagram connection, fed with packets whose checksum is right and whose inside is the fuzzer's."""

import os
import sys
import traceback

import atheris
from mproxy.transport._states import ConnectionState
from tests.drivers._datagram import pack_header
from tests.drivers._pyconnection import PyConnection, PyListener

from mproxy.transport._packet import ControlType, PacketFlag, PacketType, checksum
from mproxy.transport.datagram_config import DatagramConfig

WINDOW_BYTES = 64 << 10
STREAM = bytes(range(251)) * 600  # what the peer's stream is at each place
FLAGS = 5 * [0, PacketFlag.WANT_ACK, PacketFlag.WANT_CREDIT] + [PacketFlag.FIN, PacketFlag.FIN | PacketFlag.WANT_ACK]
ANYTHING = 7
KINDS = 4 * [ControlType.PADDING, ControlType.PING, ControlType.ACK_RANGES, ControlType.ACK_NEXT] + [
    ControlType.PATH_CHALLENGE, ControlType.PATH_RESPONSE, ControlType.CLOSE, ANYTHING]


def nobody_could_raise_it(unraisable):
    """An exception in the engine, which has no way to raise one."""
    traceback.print_exception(unraisable.exc_value)
    os.abort()


sys.unraisablehook = nobody_could_raise_it


class Pair:
    """A connection that was set up as it should be; then the fuzzer takes the peer's place."""

    def __init__(self, recovery, is_client):
        config = DatagramConfig(max_window_bytes=WINDOW_BYTES, recovery=recovery)
        self.now = 1_000_000
        self.listener = PyListener(config, bytes(16))
        client = PyConnection(config, bytes(range(32)))
        client.connect(b"server", self.now)
        answer = self.listener.receive(self.packets(client)[0], b"client", self.now, bytes(32))
        client.receive(answer, b"server", self.now)
        server = self.listener.receive(self.packets(client)[0], b"client", self.now, bytes(range(32, 64)))
        self.one, peer = (client, server) if is_client else (server, client)
        self.address = b"server" if is_client else b"client"
        self.number = peer.look()["next_number"]
        self.taken = 0
        self.ended = None
        self.one.write(bytes(20_000))

    def packets(self, one):
        """Everything it has to send now."""
        found = []
        while run := one.transmit(self.now):
            assert all(1 <= len(packet) <= 1472 for packet in run[1])
            found += run[1]
        return found

    def forge(self, control, data, offset, flags, number):
        """An authentic DATA packet."""
        to = self.one.local_id
        packet = pack_header(PacketType.DATA, flags, len(control), to, self.number + number, offset) + control + data
        return packet + checksum(packet).to_bytes(4, "big")

    def check(self):
        """What must hold at any moment."""
        data = self.one.read(1 << 20, self.now)
        assert data == STREAM[self.taken:self.taken + len(data)]
        self.taken += len(data)
        look = self.one.look()
        assert look["in_capacity"] <= WINDOW_BYTES and look["out_capacity"] <= WINDOW_BYTES
        assert look["entries"] <= 65536 and look["consumed"] == self.taken <= look["arrived"]
        assert look["acked"] <= look["sent"] <= look["written"] + 1
        for event in self.one.events():
            assert self.ended is None, "something happened after the end"
            if len(event) == 4:
                self.ended = event


def control_of(source, pair):
    """Control messages: some as they should be, with numbers near those that mean something; some of any bytes."""
    highest = pair.one.look()["next_number"] - 1 - source.ConsumeIntInRange(-1, 30)
    number = max(highest, 0).to_bytes(8, "big")
    credit = source.ConsumeIntInRange(0, 1 << 18).to_bytes(8, "big")
    kind = source.PickValueInList(KINDS)
    if kind == ControlType.ACK_RANGES:
        ranges = source.ConsumeIntInRange(0, 3)
        return bytes([kind]) + number + bytes(4) + credit + bytes([ranges]) + source.ConsumeBytes(1 + 2 * ranges)
    if kind == ControlType.ACK_NEXT:
        return bytes([kind]) + number + bytes(4) + credit + source.ConsumeIntInRange(0, 20_010).to_bytes(8, "big")
    if kind in (ControlType.PATH_CHALLENGE, ControlType.PATH_RESPONSE):
        return bytes([kind]) + source.ConsumeBytes(8)
    if kind == ControlType.CLOSE:
        return bytes([kind, 0, source.ConsumeIntInRange(0, 9), 0])
    if kind == ANYTHING:
        return source.ConsumeBytes(source.ConsumeIntInRange(0, 30))
    return bytes([kind]) * source.ConsumeIntInRange(1, 3)


def step(source, pair):
    """Something happens."""
    action = source.ConsumeIntInRange(0, 9)
    if action == 0:
        pair.now += source.ConsumeIntInRange(0, 3_000_000)
        if pair.one.deadline <= pair.now:
            pair.one.handle_timeout(pair.now)
    elif action == 1:
        packet = source.ConsumeBytes(source.ConsumeIntInRange(0, 100))
        pair.one.receive(packet, pair.address, pair.now)
        pair.listener.receive(packet, pair.address, pair.now, bytes(32))
        kind = source.PickValueInList([PacketType.SYN, PacketType.ACK, PacketType.SYN_ACK, PacketType.HANDSHAKE])
        body = packet.ljust(source.PickValueInList([60, 1168]), b"\0")
        whole = pack_header(kind, 0, len(body), pair.one.local_id, 5, 6) + body
        whole += checksum(whole).to_bytes(4, "big")
        answer = pair.listener.receive(whole, b"another", pair.now, bytes(32))
        assert answer is None or len(answer) <= 3 * len(whole)
        pair.one.receive(whole, pair.address, pair.now)
    elif action == 2:
        pair.packets(pair.one)
    else:
        offset, length = pair.taken + source.ConsumeIntInRange(-3000, 8000), source.ConsumeIntInRange(0, 1400)
        if action == 3 and source.ConsumeIntInRange(0, 9) == 0:
            offset = source.ConsumeIntInRange(0, (1 << 64) - 1)
        offset = max(offset, 0)
        control = control_of(source, pair) if source.ConsumeIntInRange(0, 3) == 0 else b""
        packet = pair.forge(control, STREAM[offset:offset + length], offset, source.PickValueInList(FLAGS),
                            source.ConsumeIntInRange(0, 300))
        address = b"elsewhere" if action == 4 else pair.address
        pair.one.receive(packet, address, pair.now)


def check(data):
    """Called with every input."""
    source = atheris.FuzzedDataProvider(data)
    pair = Pair(source.PickValueInList(["sack", "gbn"]), source.ConsumeBool())
    while source.remaining_bytes() > 0 and pair.one.state != ConnectionState.CLOSED:
        step(source, pair)
        pair.check()
    assert pair.listener.listener.accepted == 1
    pair.packets(pair.one)
