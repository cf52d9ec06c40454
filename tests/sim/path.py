"""A datagram path in virtual time: two directions, each with loss, duplication, reordering, corruption, delay, a
rate, a queue and a largest packet; and the two ends of a connection on it. One seed determines everything.
"""

import random
from dataclasses import dataclass, replace
from functools import partial

from mproxy.transport._connection import ConnectionEventKind
from mproxy.transport._states import ConnectionState
from tests.drivers._pyconnection import PyConnection, PyListener

from mproxy.transport.datagram_config import DatagramConfig
from tests.sim.net import Clock

NEVER = 2**63 - 1
CHUNK = 16_384         # bytes that an application writes at once
OVERHEAD = 28          # IP and UDP headers, as a link counts them


@dataclass
class Faults:
    """What one direction does to packets. Shares are of 1, times microseconds, rates bytes per second (0: no limit)."""

    delay: int = 10_000
    jitter: int = 0            # up to so much more, in order
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0       # so many are held back for up to `reorder_by`
    reorder_by: int = 5_000
    corrupt: float = 0.0
    rate: float = 0.0
    queue_bytes: int = 100_000
    mtu: int = 65_535          # larger packets vanish


class Direction:
    """One way. `sink(packet)` gets what arrives; `source` is then what `where()` said when it was sent."""

    def __init__(self, clock, faults, pick):
        self.clock = clock
        self.faults = faults
        self.random = pick
        self.sink = None
        self.where = lambda: None
        self.source = None
        self.silent = False
        self.lost_until = -1     # what entered before is lost on its way
        self.busy_until = 0
        self.last_at = 0
        self.sent = self.dropped = self.overflows = self.delivered_bytes = 0

    def send(self, packet):
        """A packet enters the path."""
        faults, pick, now = self.faults, self.random, self.clock.now
        self.sent += 1
        if self.silent or len(packet) > faults.mtu or pick.random() < faults.loss:
            self.dropped += 1
            return
        at = now
        if faults.rate:
            at = max(now, self.busy_until)
            if (at - now) * faults.rate / 1e6 > faults.queue_bytes:
                self.overflows += 1
                return
            at += (len(packet) + OVERHEAD) * 1e6 / faults.rate
            self.busy_until = at
        at += faults.delay + (pick.random() * faults.jitter if faults.jitter else 0)
        if pick.random() < faults.reorder:
            at += pick.random() * faults.reorder_by
        else:
            self.last_at = at = max(at, self.last_at)
        if pick.random() < faults.corrupt:
            packet = self._damage(packet)
        self.clock.at(int(at), self._arrive, packet, now, self.where())
        if pick.random() < faults.duplicate:
            self.clock.at(int(at + pick.random() * 10_000), self._arrive, packet, now, self.where())

    def lose_under_way(self):
        """Lose what is on its way now."""
        self.lost_until = self.clock.now

    def _arrive(self, packet, sent_at, source):
        if not self.silent and sent_at > self.lost_until:
            self.delivered_bytes += len(packet)
            self.source = source
            self.sink(packet)

    def _damage(self, packet):
        damaged = bytearray(packet)
        for _ in range(self.random.randrange(1, 4)):
            damaged[self.random.randrange(len(damaged))] ^= 1 << self.random.randrange(8)
        return bytes(damaged[:self.random.choice((len(damaged), len(damaged), self.random.randrange(1, 60)))])


class Peer:
    """One end: sends `data`, expects some, reads as it pleases. `address` is where its packets come from."""

    def __init__(self, world, address, data, connection=None):
        self.world = world
        self.address = address
        self.connection = connection
        self.to_send = data
        self.written = 0
        self.received = bytearray()
        self.read_most = 1 << 20
        self.read_pause = 0
        self.paused = False
        self.ended = None
        self.ended_at = None
        self.complete_at = None
        self.established = False
        self.moves = 0
        self.wake_at = NEVER
        self.sent_packets = 0
        self.last_packet = None

    def pump(self):
        """Let the application and the engine do what they can, and see to it that the next deadline is met."""
        now, connection = self.world.clock.now, self.connection
        if connection.state == ConnectionState.CLOSED and self.ended:
            return
        for _ in range(3):  # an ack may bring a deadline that has passed already
            if connection.deadline <= now:
                connection.handle_timeout(now)
            self._application(now)
            while run := connection.transmit(now):
                address, packets = run
                for packet in packets:
                    self.sent_packets += 1
                    self.world.send(self, address, packet)
                self._application(now)
            self._events()
        deadline = connection.deadline
        assert deadline > now, f"wants to be woken in the past: {self.world}"
        if deadline < self.wake_at or self.wake_at <= now:
            self.wake_at = deadline
            if deadline != NEVER:
                self.world.clock.at(max(deadline, now + 1), self._wake, deadline)

    def _wake(self, deadline):
        if deadline == self.wake_at:
            self.wake_at = NEVER
            self.pump()

    def _application(self, now):
        if self.to_send is not None and self.written < len(self.to_send):
            self.written += self.connection.write(self.to_send[self.written:self.written + CHUNK])
        if self.to_send is not None and self.written == len(self.to_send):
            self.connection.finish()
            self.to_send = None
        if not self.paused:
            read = self.connection.read(self.read_most, now)
            self.received += read
            if read and self.read_pause:  # what arrives later wakes it, so it need not look again and again
                self.paused = True
                self.world.clock.after(self.read_pause, self._resume)
        if self.complete_at is None and self.connection.connection.read_ended:
            self.complete_at = now

    def _resume(self):
        self.paused = False
        self.pump()

    def _events(self):
        for event in self.connection.events():
            if event[0] == ConnectionEventKind.ENDED:
                assert self.ended is None, "ended twice"
                self.ended = event[1:]
                self.ended_at = self.world.clock.now
            elif event[0] == ConnectionEventKind.HANDSHAKE_DATA:
                self.world.on_handshake(self, event[1])
            elif event[0] == ConnectionEventKind.ESTABLISHED:
                self.established = True
            elif event[0] == ConnectionEventKind.ADDRESS_CHANGED:
                self.moves += 1

    def take(self, packet, source):
        """A packet arrived from `source`."""
        self.last_packet = packet
        self.connection.receive(packet, source, self.world.clock.now)
        self.pump()


class BusyPeer(Peer):
    """One end on a host that lets it run only now and then, `gap` microseconds apart on average."""

    def __init__(self, gap, *arguments):
        super().__init__(*arguments)
        self.gap = gap
        self.inbox = []
        self.waits = False

    def pump(self):
        """Wait for a turn."""
        if not self.waits:
            self.waits = True
            self.world.clock.after(1 + int(self.world.random.expovariate(1 / self.gap)), self._turn)

    def _turn(self):
        self.waits = False
        inbox, self.inbox = self.inbox, []
        for packet, source in inbox:
            self.connection.receive(packet, source, self.world.clock.now)
        super().pump()

    def take(self, packet, source):
        """A packet arrived, and waits in the socket."""
        self.inbox.append((packet, source))
        self.pump()


class World:
    """A client and a listener with the path between; the server's end appears with the first good ACK."""

    def __init__(self, seed, up=None, down=None, *, config=None, server_config=None, data=b"", answer=b"", number=None,
                 busy=0):
        """`busy`: both hosts are, and let an end run only every so many microseconds, on average."""
        self.seed = seed
        self.random = random.Random(seed)
        self.clock = Clock()
        self.up = Direction(self.clock, up or Faults(), random.Random(self.random.random()))
        self.down = Direction(self.clock, down or replace(self.up.faults), random.Random(self.random.random()))
        self.config = config or DatagramConfig()
        self.server_config = server_config or self.config
        self.peer = partial(BusyPeer, busy) if busy else Peer
        self.client = self.peer(self, b"client", data, PyConnection(self.config, self.random.randbytes(32)))
        if number is not None:
            self.client.connection.begin_at(number)
        self.listener = PyListener(self.server_config, self.random.randbytes(16))
        self.server = None
        self.server_address = b"server"
        self.answer = answer
        self.data = data
        self.up.sink = self._to_server
        self.up.where = lambda: self.client.address
        self.down.sink = self._to_client
        self.stray = 0
        self.messages = 2

    # ---- packets between

    def send(self, peer, address, packet):
        """A peer's packet enters the path; one to an address where nobody is (any more) is lost."""
        if peer is self.client:
            if address == self.server_address:
                self.up.send(packet)
            else:
                self.stray += 1
        elif address == self.client.address:
            self.down.send(packet)
        else:
            self.stray += 1

    def on_handshake(self, peer, message):
        """A handshake message came (empty: send the first): `messages` go to and fro, the last two bring keys."""
        number = len(message) + 1
        if number <= self.messages:
            peer.connection.send_handshake(b"m" * number)
        if number >= self.messages:
            secrets = b"u" * 16, b"d" * 16
            peer.connection.secure(*(secrets if peer is self.client else reversed(secrets)))

    def _to_server(self, packet):
        source = self.up.source
        if self.server is not None:
            if self.server.connection.knows(int.from_bytes(packet[4:12], "big")):
                self.server.take(packet, source)
            return
        found = self.listener.receive(packet, source, self.clock.now, self.random.randbytes(32))
        if isinstance(found, bytes):
            if len(packet) >= len(found):
                self.down.send(found)
        elif found is not None:
            self.server = self.peer(self, self.server_address, self.answer, found)
            self.server.pump()

    def _to_client(self, packet):
        self.client.take(packet, self.server_address)

    # ---- running

    def start(self):
        """Dial."""
        self.client.connection.connect(self.server_address, self.clock.now)
        self.client.pump()
        return self

    def run(self, until=None, limit=600_000_000):
        """Go on until `until()`, by default until both ends are over, or for `limit` microseconds of virtual time."""
        until = until or self.over
        end = self.clock.now + limit
        while not until():
            assert self.clock.now <= end, f"seed {self.seed}: not over after {limit / 1e6} s: {self}"
            assert self.clock.step(), f"seed {self.seed}: nothing happens any more: {self}"
        return self

    def over(self):
        """Both ends are closed."""
        return (self.client.connection.state == ConnectionState.CLOSED
                and (self.server is None or self.server.connection.state == ConnectionState.CLOSED))

    def check(self):
        """Each byte once and in order, both ends ended well."""
        assert self.server is not None, str(self)
        assert bytes(self.server.received) == self.data, f"seed {self.seed}: the stream up differs: {self}"
        assert bytes(self.client.received) == self.answer, f"seed {self.seed}: the stream down differs: {self}"
        assert self.client.ended and self.client.ended[0] == 0, f"seed {self.seed}: {self.client.ended}"
        assert self.server.ended and self.server.ended[0] == 0, f"seed {self.seed}: {self.server.ended}"
        return self

    def __str__(self):
        text = f"seed {self.seed} at {self.clock.now / 1e6:.3f} s\n  client {self.client.connection.look()}"
        text += f" {self.client.connection.state!r} {self.client.ended}"
        if self.server:
            text += f"\n  server {self.server.connection.look()} {self.server.connection.state!r} {self.server.ended}"
        return text
