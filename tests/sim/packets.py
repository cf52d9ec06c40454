"""Carriers of packets in the world of the simulation: the datagram engine over a bad path, the session's frames as
parcels. To the ends they look like the carriers of `net.py`.
"""

import random

from mproxy.transport._connection import ConnectionEventKind
from mproxy.transport._states import ConnectionState
from tests.drivers._pyconnection import PyConnection, PyListener
from tests.drivers._pyparcels import PyParcels

from mproxy.transport._packet import EndCode
from mproxy.transport.datagram_config import DatagramConfig
from tests.sim.path import Direction

NEVER = 2**63 - 1
CONFIG = DatagramConfig(max_window_bytes=65536)


class Way:
    """One direction as the handshake sees it: ordered bytes. It ends when the session's frames take over."""

    def __init__(self, writer, reader_of):
        self._writer = writer        # an Engine
        self._reader_of = reader_of  # () -> the Engine that reads, once there is one
        self.sink = None
        self.reader = None           # an End; nothing is delivered while its process is stopped
        self.on_room = None
        self.closed = False
        self.ended = False
        self.total = 0

    def write(self, data):
        """Send bytes of the handshake."""
        if not self.ended:
            self._writer().send(data)

    def room(self):
        """Nobody pushes: the engine asks for frames."""
        return 0

    def end(self):
        """No more is written."""
        self.ended = True


class Engine:
    """One end's connection, its timer, and either the handshake's bytes or the session's frames."""

    def __init__(self, carrier, name, inward):
        self.carrier = carrier
        self.clock = carrier.clock
        self.name = name
        self.inward = inward
        self.connection = None
        self.parcels = None
        self.unsent = b""
        self.address = name.encode()
        self.wake_at = NEVER
        self.over = False
        self.refused = None  # addresses that may have challenges only; None: nobody judges
        self.pumping = False
        self.to_pump = False

    def send(self, data):
        """Queue bytes of the handshake."""
        self.unsent += data
        self.pump()

    def use(self, end):
        """The session of `end` was attached: its frames go over this connection from now on."""
        assert not self.unsent, "the handshake is over, and not all of it was sent"
        session = end.ps.session
        self.parcels = PyParcels(session, self.connection.connection, end._takes,
                                 lambda events: self._events(end, events))
        self.carrier.world.packet_carriers += 1
        self.pump()

    def _events(self, end, events):
        end.heard_at = self.clock.now
        end.late = False
        end.handle(events)
        end.packets_came = True

    def take(self, packet, source):
        """A packet arrived."""
        if self.over or self._stopped(self.take, packet, source):
            return
        self.pumping = True
        self.connection.receive(packet, source, self.clock.now)
        if self.refused is not None:
            self._judge()
        self.pumping = False
        self.pump()

    def judge(self, refused):
        """Judge the peer's addresses from now on."""
        self.refused = refused
        self.connection.judge_addresses()

    def _judge(self):
        if (ConnectionEventKind.ADDRESS_SEEN,) in self.connection.events() and (
                self.connection.candidate not in self.refused):
            self.connection.trust()

    def _stopped(self, call, *arguments):
        """The process is stopped: whatever it is comes later."""
        end = self.inward.reader
        if end is None or not end.frozen():
            return False
        self.clock.at(end.frozen_until, call, *arguments)
        return True

    def pump(self):
        """Let the engine do what it can, and see to it that its next deadline is met."""
        if self.over or self.connection is None:
            return
        if self.pumping:
            self.to_pump = True
            return
        self.pumping = self.to_pump = True
        while self.to_pump and not self.over:
            self.to_pump = False
            self._turn()
        self.pumping = False

    def _turn(self):
        now, connection = self.clock.now, self.connection
        if connection.deadline <= now:
            connection.handle_timeout(now)
        if self.unsent:
            self.unsent = self.unsent[connection.write(self.unsent):]
        self._read(now)
        end = self.inward.reader
        if getattr(end, "packets_came", False):
            end.packets_came = False
            self.clock.at(now, end.pump)
        while not self.over and (run := connection.transmit(now)):
            for packet in run[1]:
                self.carrier.forward(self, run[0], packet)
        connection.events()
        if self.parcels is not None and self.parcels.error is not None:
            raise self.parcels.error
        if self.over:
            return
        if connection.state == ConnectionState.CLOSED or connection.state == ConnectionState.DRAINING:
            self._ended()
            return
        deadline = max(connection.deadline, now + 1)
        if deadline < self.wake_at or self.wake_at <= now:
            self.wake_at = deadline
            if deadline < NEVER:
                self.clock.at(deadline, self._wake, deadline)

    def _read(self, now):
        if self.parcels is not None:
            self.parcels.read_ordered(now)
        elif self.inward.sink is not None and not self.inward.closed:
            data = self.connection.read(1 << 20, now)
            if data:
                self.inward.total += len(data)
                self.inward.sink(data)

    def _wake(self, deadline):
        if deadline == self.wake_at and not self._stopped(self._wake, deadline):
            self.wake_at = NEVER
            self.pump()

    def _ended(self):
        """The connection is over, by itself or by the peer."""
        self.over = True
        if self.parcels is not None:
            self.parcels.end()
        if not self.inward.closed:
            self.inward.closed = True
            self.inward.sink(None)

    def abort(self):
        """This side is done with it; the peer is told, by a packet that may get lost."""
        if self.over:
            return
        self.over = True
        if self.parcels is not None:
            self.parcels.end()
        if self.connection is not None and self.carrier.random.random() < 0.7:
            self.clock.at(self.clock.now, self._say_so)

    def _say_so(self):
        self.connection.abort(int(EndCode.ABORTED), b"", self.clock.now)
        while run := self.connection.transmit(self.clock.now):
            for packet in run[1]:
                self.carrier.forward(self, run[0], packet)


class PacketCarrier:
    """Two engines and the path between. `up` and `down` are Ways."""

    def __init__(self, world, seed, up, down):
        self.world = world
        self.clock = world.clock
        self.random = random.Random(seed)
        self.dead = False
        self.up = Way(lambda: self.client, lambda: self.server)
        self.down = Way(lambda: self.server, lambda: self.client)
        self.client = Engine(self, "client", self.down)
        self.server = Engine(self, "server", self.up)
        self.paths = {"client": Direction(self.clock, up, random.Random(self.random.random())),
                      "server": Direction(self.clock, down, random.Random(self.random.random()))}
        self.paths["client"].sink = self._to_server
        self.paths["client"].where = lambda: self.client.address
        self.paths["server"].sink = lambda packet: self.client.take(packet, b"server")
        self.listener = PyListener(CONFIG, self.random.randbytes(16))
        self.client.connection = PyConnection(CONFIG, self.random.randbytes(32))
        self.client.connection.connect(b"server", self.clock.now)
        self.client.pump()

    def forward(self, engine, address, packet):
        """A packet enters the path; one to an address that the peer has left is lost."""
        if engine is self.client or address == self.client.address:
            self.paths[engine.name].send(packet)

    def _to_server(self, packet):
        source = self.paths["client"].source
        if self.server.connection is not None:
            if int.from_bytes(packet[4:12], "big") == self.server.connection.local_id:
                self.server.take(packet, source)
            return
        found = self.listener.receive(packet, source, self.clock.now, self.random.randbytes(32))
        if isinstance(found, bytes):
            self.paths["server"].send(found)
        elif found is not None:
            self.server.connection = found
            self.server.pump()

    # ---- as of net.Carrier

    def attached(self, end, outward):
        """The session of `end` goes on over it."""
        self.engine_of(outward).use(end)

    def pump(self, end, outward):
        """The session may have something to send."""
        self.engine_of(outward).pump()
        end.ps.session.streams.stalled = bool(end.ps.session.wants_transmit())

    def storage(self):
        """Bytes of ring storage that its connections hold."""
        looks = [engine.connection.look() for engine in (self.client, self.server) if engine.connection is not None]
        return sum(look["out_capacity"] + look["in_capacity"] for look in looks)

    def engine_of(self, outward):
        """The engine that writes to this Way."""
        return self.client if outward is self.up else self.server

    def close(self, reader, writer):
        """One side closes it."""
        reader.closed = True
        writer.ended = True
        self.engine_of(writer).abort()

    def cut(self, *_keep):
        """Both sides lose it at once."""
        self.dead = True
        for engine in (self.client, self.server):
            if engine.connection is not None and not engine.over:
                engine.abort()
                engine._ended() if engine.inward.sink else None

    def black_hole(self):
        """Lose everything from now on; nobody is told."""
        self.dead = True
        for path in self.paths.values():
            path.silent = True

    def hold(self, delay):
        """Let nothing through for `delay` microseconds: it is lost."""
        for path in self.paths.values():
            path.silent = True
        self.clock.after(delay, self._let_through)

    def _let_through(self):
        for path in self.paths.values():
            path.silent = self.dead

    def lose_under_way(self, name):
        """Lose the packets of one end that are under way."""
        self.paths[name].lose_under_way()

    def rebind(self):
        """The client's packets come from another address, as after a change of a NAT's mind."""
        self.client.address = b"client%d" % self.random.randrange(1000)
