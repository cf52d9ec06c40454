"""The engine as Python code drives it: packets and addresses are bytes, time is an int. And what it costs without a
network between."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from mproxy._ring cimport iovec
from mproxy.transport._channel cimport Channel, Transmit
from mproxy.transport._connection cimport Connection, ConnectionEvent, ConnectionEventKind
from mproxy.transport._listener cimport Listener, ListenResult, OptionFlag, Reply, Routing
from mproxy.transport._ids cimport ConnectionIds
from mproxy.transport._packet cimport PeerAddress, Seal, crc_seal
from mproxy.transport._states cimport ConnectionState


cdef enum:
    BUFFER_BYTES = 65536


cdef void put_address(PeerAddress *address, bytes text) noexcept:
    address.length = <uint8_t>min(len(text), 28)
    memset(address.bytes, 0, 28)
    memcpy(address.bytes, <const char *>text, address.length)


cdef bytes get_address(const PeerAddress *address):
    return (<const char *>address.bytes)[:address.length]


cdef class PyConnection:
    """Wrap a Connection. Events are tuples whose first item is a ConnectionEventKind."""

    cdef readonly Connection connection  # the one driven
    cdef uint8_t *buffer                 # BUFFER_BYTES: where runs are written and packets opened

    def __cinit__(self, config, bytes entropy):
        self.connection = Connection(config, entropy=entropy)
        self.buffer = <uint8_t *>malloc(BUFFER_BYTES)
        if self.buffer == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.buffer)

    def begin_at(self, uint64_t number):
        """Take `number` for the set-up: the first packet is the one behind it."""
        self.connection.setup.first_out = number

    def connect(self, bytes address, int64_t now):
        """Be the active side."""
        cdef PeerAddress to
        put_address(&to, address)
        self.connection.connect(&to, now)

    def receive(self, bytes packet, bytes source, int64_t now):
        """Take a packet; returns a Taken."""
        cdef PeerAddress address
        put_address(&address, source)
        memcpy(self.buffer, <const char *>packet, min(len(packet), BUFFER_BYTES))
        return self.connection.receive(self.buffer, <uint32_t>len(packet), &address, now)

    def denied(self, bytes packet, bytes source):
        """What an UNKNOWN from that address means: a Denial."""
        cdef PeerAddress address
        put_address(&address, source)
        return self.connection.denied(packet, <uint32_t>len(packet), &address)

    def transmit(self, int64_t now, uint32_t most=64):
        """The next run: (address, packets), None when there is nothing to send now."""
        cdef Transmit out
        cdef uint32_t at = 0, size
        out.data = self.buffer
        out.room = BUFFER_BYTES
        out.most = most
        if self.connection.poll_transmit(&out, now) == 0:
            return None
        packets = []
        while at < out.length:
            size = min(out.segment_bytes, out.length - at)
            packets.append((<const char *>self.buffer)[at:at + size])
            at += size
        assert len(packets) == <object>out.count
        return get_address(out.to), packets

    def events(self):
        """What happened: (HANDSHAKE_DATA, bytes), (ESTABLISHED,), (ADDRESS_CHANGED,),
        (ADDRESS_SEEN,), (ENDED, code, reason, local)."""
        cdef ConnectionEvent event
        found = []
        while True:
            self.connection.poll_event(&event)
            if event.kind == ConnectionEventKind.NOTHING:
                return found
            if event.kind == ConnectionEventKind.HANDSHAKE_DATA:
                found.append((event.kind, (<const char *>event.data)[:event.length]))
            elif event.kind == ConnectionEventKind.ENDED:
                found.append((event.kind, event.code, (<const char *>event.data)[:event.length], bool(event.local)))
            else:
                found.append((event.kind,))

    def write(self, bytes data):
        """Write as much of `data` as there is room for; returns how much."""
        cdef iovec parts[2]
        cdef const char *at = data
        cdef uint32_t done = 0, left
        cdef int i, n
        while done < len(data):
            left = <uint32_t>len(data) - done
            n = self.connection.write_space(left, parts)
            if n == 0:
                break
            for i in range(n):
                memcpy(parts[i].iov_base, at + done, parts[i].iov_len)
                done += <uint32_t>parts[i].iov_len
                self.connection.wrote(<uint32_t>parts[i].iov_len)
        return done

    def read(self, uint32_t most, int64_t now):
        """Take up to `most` bytes that arrived in order."""
        cdef iovec parts[2]
        cdef int i, n = self.connection.read_view(most, parts)
        data = b"".join([(<const char *>parts[i].iov_base)[:parts[i].iov_len] for i in range(n)])
        if data:
            self.connection.consume(<uint32_t>len(data), now)
        elif self.connection.state == ConnectionState.OPEN:
            self.connection.consume(0, now)
        return data

    def finish(self):
        """Write no more."""
        self.connection.finish()

    def abort(self, int code, bytes reason, int64_t now):
        """Give up."""
        self.connection.abort(code, reason, now)

    def judge_addresses(self):
        """Ask by ADDRESS_SEEN before data goes to a new address."""
        self.connection.path.judged = True

    @property
    def candidate(self):
        """Where the peer seems to have moved."""
        return get_address(&self.connection.path.candidate)

    def trust(self):
        """Data may go there."""
        self.connection.path.trusted = True

    def probe(self, int64_t now):
        """The path may have changed."""
        self.connection.probe(now)

    def ask(self, int64_t now):
        """The peer is in doubt."""
        self.connection.ask(now)

    def too_big(self, uint32_t packet_bytes, int64_t now):
        """The host refuses packets of this size."""
        self.connection.packet_too_big(packet_bytes, now)

    def handle_timeout(self, int64_t now):
        """The deadline is reached."""
        self.connection.handle_timeout(now)

    def send_handshake(self, bytes message):
        """Send the next handshake message; False: too long."""
        return self.connection.send_handshake(message, <uint32_t>len(message)) == 0

    def secure(self, out_secret=None, in_secret=None):
        """Go on as if keys were known: the checksum stands for them, so that a handshake can be played without. With 16
        bytes for each direction ids change with the path."""
        cdef Seal seal
        crc_seal(&seal)
        self.connection.secure(&seal, &seal)
        if out_secret is not None and self.connection.setup.veiled:
            self.connection.path.change_ids(<bytes>in_secret, <bytes>out_secret, self.connection.setup.routing_bits,
                                            not self.connection.setup.active)

    def show_tag(self, uint64_t tag):
        """Before `connect`: dial with it."""
        self.connection.setup.tag = tag

    def forget_routing(self):
        """Before `connect`: as one that does not know of a server's workers."""
        self.connection.setup.options.flags &= ~OptionFlag.ROUTED

    def knows(self, uint64_t id):
        """Whether packets to us may have this id."""
        cdef ConnectionIds ids = self.connection.path.ids
        return id in ids.window() if ids.changing else id == self.connection.channel.local_id

    @property
    def ids(self):
        """Its ConnectionIds."""
        return self.connection.path.ids

    @property
    def deadline(self):
        """When `handle_timeout` is due."""
        return self.connection.deadline()

    @property
    def local_id(self):
        """Destination id of packets to it."""
        return self.connection.channel.local_id

    @property
    def state(self):
        """A ConnectionState."""
        return self.connection.state

    def timers(self):
        """Every time at which something is due, for assertions."""
        cdef Connection one = self.connection
        cdef Channel c = one.channel
        return {
            "setup": one.setup.repeat_at, "path": one.path.ask_at, "keepalive": one.keepalive_at,
            "idle": one.idle_at, "ack": c.acks.due_at, "pace": c.pace_at, "loss": c.recovery.loss_at,
            "timeout": c.recovery.timeout_at(c.peer_delay_us), "close": one.close_at, "drain": one.drain_at,
        }

    def look(self):
        """Numbers for assertions and experiments."""
        cdef Channel c = self.connection.channel
        return {
            "in_flight": c.recovery.in_flight, "waiting": c.recovery.waiting, "window": c.congestion.window,
            "rate": c.congestion.rate, "smoothed_rtt": c.recovery.rtt.smoothed, "minimum_rtt": c.recovery.rtt.minimum,
            "packet_bytes": c.mtu.current, "lost_packets": c.recovery.lost_packets,
            "sent_packets": c.recovery.sent_packets,
            "timeouts": c.recovery.timeouts, "tries": c.recovery.tries, "acks_sent": c.acks_sent,
            "out_packets": c.out_packets, "out_bytes": c.out_bytes, "in_packets": c.in_packets,
            "corrupt": c.corrupt, "repeated": c.repeated, "discarded": c.discarded,
            "acked": c.out.acked_to, "sent": c.out.sent, "written": c.out.ring.tail, "limit": c.out.limit,
            "resent": c.out.resent, "arrived": c.inp.arrived, "consumed": c.inp.ring.head, "in_window": c.inp.window,
            "out_capacity": c.out.ring.capacity, "in_capacity": c.inp.ring.capacity,
            "entries": c.recovery.sent.mask + 1,
            "next_number": c.recovery.sent.next, "peer": get_address(&self.connection.path.peer),
            "starved": bool(c.starved),
        }


cdef class PyListener:
    """Wrap a Listener."""

    cdef readonly Listener listener  # the one driven
    cdef object config               # DatagramConfig of the connections it makes

    def __cinit__(self, config, bytes secret, Routing routing=None):
        self.config = config
        self.listener = Listener(config, secret, routing)

    def receive(self, bytes packet, bytes source, int64_t now, bytes entropy):
        """Take a packet for no connection: bytes to be sent back, a new PyConnection, or None."""
        cdef PeerAddress address
        cdef Reply reply
        cdef PyConnection made
        cdef int result
        put_address(&address, source)
        result = self.listener.receive(packet, <uint32_t>len(packet), &address, now, &reply)
        if result == ListenResult.ANSWER:
            return (<char *>reply.answer)[:reply.answer_bytes]
        if result == ListenResult.ACCEPT:
            made = PyConnection(self.config, entropy)
            made.connection.accept(&reply.accepted, now)
            return made
        return None


def exchange(PyConnection one, PyConnection other, uint64_t total, int64_t now, int64_t step):
    """Send `total` bytes from one to the other over a perfect path whose time goes on by `step` a turn.

    Returns (packets sent by one, packets sent by the other). No Python on the way: this measures the engine alone.
    """
    cdef PeerAddress here, there
    cdef uint64_t written = 0, taken = 0
    cdef iovec parts[2]
    cdef uint32_t room
    cdef int i, n
    put_address(&here, b"here")
    put_address(&there, b"there")
    while taken < total:
        n = one.connection.write_space(1 << 20, parts)
        for i in range(n):
            room = <uint32_t>min(parts[i].iov_len, total - written)
            one.connection.wrote(room)
            written += room
        carry(one, other.connection, &here, now)
        n = other.connection.read_view(1 << 30, parts)
        room = 0
        for i in range(n):
            room += <uint32_t>parts[i].iov_len
        if room > 0:
            other.connection.consume(room, now)
            taken += room
        now += step
        carry(other, one.connection, &there, now)
        if one.connection.deadline() <= now:
            one.connection.handle_timeout(now)
        if other.connection.deadline() <= now:
            other.connection.handle_timeout(now)
    return one.connection.channel.out_packets, other.connection.channel.out_packets


cdef void carry(PyConnection sender, Connection receiver, const PeerAddress *source, int64_t now) noexcept:
    cdef Transmit out
    out.data = sender.buffer
    out.room = BUFFER_BYTES
    out.most = 64
    while sender.connection.poll_transmit(&out, now) > 0:
        receiver.receive_run(out.data, out.length, out.segment_bytes, source, now)
