"""Set-up without state; layout and argument: _listener.pxd."""

from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from mproxy._wire cimport get16, get32, get64, put32, put64
from mproxy.ground._siphash cimport siphash24
from mproxy.transport._inflow cimport first_window
from mproxy.transport._packet cimport (
    BASE_PACKET_BYTES, CRC_BYTES, DATAGRAM_VERSION, MAX_HANDSHAKE_BYTES, MIN_PACKET_BYTES, PACKET_HEADER_BYTES, Header,
    PacketType, crc32c, get_header, packet_type, put_header,
)


cdef enum:
    DERIVED_BYTES = 86   # purpose 1, time 4, address 29, number 8, client id 8, options of both 36
    SECOND_US = 1000000
    PURPOSE_BITS = 2     # of the byte that has the worker, too

cdef enum Purpose:
    COOKIE = 1
    SERVER_ID = 2
    SERVER_NUMBER = 3


cdef void put_unknown(uint8_t *out, uint64_t id) noexcept nogil:
    """Write an UNKNOWN of MIN_PACKET_BYTES: no connection here has that id; 0: perhaps none of the receiver's is."""
    cdef Header header
    memset(&header, 0, sizeof(header))
    header.type = PacketType.UNKNOWN
    header.offset = id
    put_header(out, &header)
    put32(out + PACKET_HEADER_BYTES, crc32c(0, out, PACKET_HEADER_BYTES))


cdef void put_options(uint8_t *p, const Options *options) noexcept nogil:
    p[0] = options.version
    p[1] = options.flags
    put32(p + 2, options.packet_bytes)
    put32(p + 6, options.ack_delay_us)
    put64(p + 10, options.credit)


cdef void get_options(const uint8_t *p, Options *options) noexcept nogil:
    options.version = p[0]
    options.flags = p[1]
    options.packet_bytes = get32(p + 2)
    options.ack_delay_us = get32(p + 6)
    options.credit = get64(p + 10)


cdef void make_prologue(uint8_t *out, uint64_t client_id, uint64_t server_id, uint64_t client_number,
                        uint64_t server_number, const uint8_t *client, const uint8_t *server) noexcept nogil:
    """What both sides feed to their handshake: `client`, `server` are the options as they went over the wire."""
    put64(out, client_id)
    put64(out + 8, server_id)
    put64(out + 16, client_number)
    put64(out + 24, server_number)
    memcpy(out + 32, client, OPTIONS_BYTES)
    memcpy(out + 32 + OPTIONS_BYTES, server, OPTIONS_BYTES)


cdef class Routing:
    """For `workers` workers, of which this process is none yet. `secret`: 16 random bytes."""

    def __init__(self, int workers, bytes secret):
        if not 1 <= workers <= 1 << MOST_ROUTING_BITS:
            raise ValueError(f"{workers} workers: 1 to {1 << MOST_ROUTING_BITS}")
        self.workers, self.secret = workers, secret
        self.bits = (workers - 1).bit_length()

    cdef int worker_of(self, uint64_t id) noexcept:
        """To whom an id leads; it may be a worker that is not there."""
        return <int>(id >> (64 - self.bits)) if self.bits else 0

    cdef uint64_t lead(self, uint64_t id, int worker) noexcept:
        """The id with that worker in its first bits."""
        return (id & (<uint64_t>-1 >> self.bits)) | (<uint64_t>worker << (64 - self.bits)) if self.bits else id


cdef class Listener:
    """One for each listening socket. `config` is a DatagramConfig, `secret` 16 random bytes; `routing` has its own."""

    def __cinit__(self, config, bytes secret, Routing routing=None):
        if routing is not None:
            self.routing, secret = routing, routing.secret
        if len(secret) != 16:
            raise ValueError("the secret of a listener has 16 bytes")
        memcpy(self.secret, <const char *>secret, 16)
        self.options.version = DATAGRAM_VERSION
        self.options.flags = OptionFlag.SEALED | OptionFlag.VEILED if config.sealed else 0
        self.options.packet_bytes = config.max_packet_bytes
        self.options.ack_delay_us = config.ack_delay_us
        self.options.credit = first_window(config.max_window_bytes)
        self.used = <Used *>calloc(REMEMBERED, sizeof(Used))
        self.shares = <int64_t *>calloc(SHARES, sizeof(int64_t))
        if self.used == NULL or self.shares == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.used)
        free(self.shares)

    cdef int receive(self, const uint8_t *p, uint32_t length, const PeerAddress *at, int64_t now, Reply *out) noexcept:
        """Take a packet that belongs to no connection; returns a ListenResult."""
        cdef uint32_t control_bytes, end
        cdef int kind = packet_type(p, length)
        if kind == PacketType.DATA:
            return ListenResult.ANSWER if self.deny(p, length, now, out) else ListenResult.DROP
        if kind != PacketType.SYN and kind != PacketType.ACK:
            return ListenResult.DROP
        control_bytes = get16(p + 2)
        end = length - CRC_BYTES
        if crc32c(0, p, end) != get32(p + end):
            return ListenResult.DROP
        if kind == PacketType.SYN:
            if length < BASE_PACKET_BYTES or control_bytes < OPTIONS_BYTES:
                return ListenResult.DROP
            self.syns += 1
            out.answer_bytes = self.answer_syn(p, at, now, out.answer)
            return ListenResult.ANSWER
        if control_bytes < ACK_CONTROL_BYTES or PACKET_HEADER_BYTES + control_bytes != end:
            return ListenResult.DROP
        if not self.check_ack(p, at, now, &out.accepted):
            self.refused += 1
            return ListenResult.DROP
        self.accepted += 1
        return ListenResult.ACCEPT

    cdef bint deny(self, const uint8_t *packet, uint32_t length, int64_t now, Reply *out) noexcept:
        """Answer a packet whose connection has died with a process, so that its peer need not wait for silence. Nothing
        proves the answer but that it knows the id: it makes the peer look, not give up."""
        if not self.options.flags & OptionFlag.SEALED or length < DENIED_LEAST or (
                self.denied_at > now + DENIED_BURST * DENIED_EVERY_US):
            return False
        self.denied_at = max(self.denied_at, now) + DENIED_EVERY_US
        put_unknown(out.answer, get64(packet + 4))
        out.answer_bytes = MIN_PACKET_BYTES
        return True

    cdef uint64_t derive(self, int purpose, const uint8_t *packet, const PeerAddress *source, uint32_t time,
                         int worker) noexcept:
        """A secret 64-bit value for this client's set-up: of its address, id, number and options, of ours, of time, and
        of who is to have it."""
        cdef uint8_t data[DERIVED_BYTES]
        cdef Options offered = self.options
        offered.flags = self.flags_for(packet)
        memset(data, 0, sizeof(data))
        data[0] = <uint8_t>(purpose | worker << PURPOSE_BITS)
        put32(data + 1, time)
        data[5] = source.length
        memcpy(data + 6, source.bytes, source.length if source.length <= 28 else 28)
        memcpy(data + 34, packet + 12, 16)                                  # number, and id in the place of offset
        memcpy(data + 50, packet + PACKET_HEADER_BYTES, OPTIONS_BYTES)
        put_options(data + 50 + OPTIONS_BYTES, &offered)
        return siphash24(self.secret, data, DERIVED_BYTES)

    cdef uint64_t server_id(self, const uint8_t *packet, const PeerAddress *source, uint32_t time, int worker) noexcept:
        """Our id for this client's set-up."""
        cdef uint64_t made = self.derive(Purpose.SERVER_ID, packet, source, time, worker)
        return made if self.routing is None else self.routing.lead(made, worker)

    cdef uint8_t flags_for(self, const uint8_t *packet) noexcept:
        """What is offered to the client of a SYN, or of an ACK. Ids that change would lead nowhere if it did not know
        that their first bits must not."""
        if self.routing is None or self.routing.bits == 0:
            return self.options.flags
        if packet[PACKET_HEADER_BYTES + 1] & OptionFlag.ROUTED:
            return self.options.flags | <uint8_t>(self.routing.bits << ROUTING_SHIFT)
        return self.options.flags & ~OptionFlag.VEILED

    cdef int choose_worker(self, const uint8_t *packet, const PeerAddress *source, int64_t now) noexcept:
        """Who is to have the connection of a SYN. In a flood of them those without a tag stay here, and nobody makes
        sure of the tags of the others."""
        cdef uint64_t tag = 0
        if self.routing is None or self.routing.choose is None:
            return 0 if self.routing is None else self.routing.own
        if get16(packet + 2) >= OPTIONS_BYTES + 8:
            tag = get64(packet + PACKET_HEADER_BYTES + OPTIONS_BYTES)
        if self.routed_at > now + ROUTED_BURST * ROUTED_EVERY_US:
            return self.routing.guess(tag) if tag and self.routing.guess is not None else self.routing.own
        self.routed_at = max(self.routed_at, now) + ROUTED_EVERY_US
        return self.routing.choose(tag, (<const char *>source.bytes)[:28])

    cdef uint32_t answer_syn(
            self, const uint8_t *packet, const PeerAddress *source, int64_t now, uint8_t *out) noexcept:
        """Write the SYN-ACK; returns its length."""
        cdef uint32_t time = <uint32_t>(now // SECOND_US), end = PACKET_HEADER_BYTES + SYN_ACK_CONTROL_BYTES
        cdef int worker = self.choose_worker(packet, source, now)
        cdef Options offered = self.options
        cdef Header header
        offered.flags = self.flags_for(packet)
        header.type = PacketType.SYN_ACK
        header.flags = 0
        header.control_bytes = SYN_ACK_CONTROL_BYTES
        header.destination = get64(packet + 20)
        header.number = (self.derive(Purpose.SERVER_NUMBER, packet, source, time, worker) & 0xFFFFFFFF) + 1
        header.offset = self.server_id(packet, source, time, worker)
        put_header(out, &header)
        put_options(out + PACKET_HEADER_BYTES, &offered)
        put32(out + PACKET_HEADER_BYTES + 18, time)
        put64(out + PACKET_HEADER_BYTES + 22, self.derive(Purpose.COOKIE, packet, source, time, worker))
        put32(out + end, crc32c(0, out, end))
        return end + CRC_BYTES

    cdef bint check_ack(self, const uint8_t *packet, const PeerAddress *source, int64_t now, Accepted *out) noexcept:
        """Whether the ACK shows a cookie of ours for this very client, fresh and unused; fills `out`."""
        cdef const uint8_t *control = packet + PACKET_HEADER_BYTES
        cdef uint32_t time = get32(control + 36), control_bytes = get16(packet + 2)
        cdef uint8_t ours[OPTIONS_BYTES]
        cdef Header header
        cdef int64_t age = now // SECOND_US - time
        cdef int worker = self.routing.own if self.routing is not None else 0
        cdef Options offered = self.options
        offered.flags = out.flags = self.flags_for(packet)
        get_header(packet, &header)
        put_options(ours, &offered)
        if age < 0 or age > COOKIE_US // SECOND_US or control_bytes - ACK_CONTROL_BYTES > MAX_HANDSHAKE_BYTES:
            return False
        if get64(control + 40) != self.derive(Purpose.COOKIE, packet, source, time, worker):
            return False
        if header.destination != self.server_id(packet, source, time, worker):
            return False
        if not self.has_share(source, now):
            return False  # its cookie stays valid: an honest client asks again
        get_options(control, &out.options)
        if out.options.version != DATAGRAM_VERSION or (out.options.flags ^ self.options.flags) & OptionFlag.SEALED \
                or out.options.packet_bytes < BASE_PACKET_BYTES:
            return False
        out.address = source[0]
        out.client_id = header.offset
        out.server_id = header.destination
        out.client_number = header.number
        out.server_number = (self.derive(Purpose.SERVER_NUMBER, packet, source, time, worker) & 0xFFFFFFFF) + 1
        out.handshake = control + ACK_CONTROL_BYTES
        out.handshake_bytes = control_bytes - ACK_CONTROL_BYTES
        make_prologue(out.prologue, out.client_id, out.server_id, out.client_number, out.server_number, control, ours)
        return self.use(out.server_id, now)

    cdef bint has_share(self, const PeerAddress *source, int64_t now) noexcept:
        """Whether this source, which its cookie has proven to be real, may begin one more connection now: so one
        stranger takes a part of our time but not all of it. An IPv6 host may use any address of its /64.

        The generic cell rate algorithm (ITU-T I.371): `due` runs ahead of the clock by what was used in advance.
        """
        cdef uint8_t who[24]
        cdef int64_t *due
        memset(who, 0, sizeof(who))
        memcpy(who, &source.bytes[8 if source.length == 28 else 0], 16)
        if get64(who) != 0 or get32(who + 8) != 0xFFFF:
            memset(who + 8, 0, 8)
        due = &self.shares[siphash24(self.secret, who, 16) % SHARES]
        if due[0] > now + SHARE_BURST * SHARE_EVERY_US:
            return False
        due[0] = max(due[0], now) + SHARE_EVERY_US
        return True

    cdef bint use(self, uint64_t id, int64_t now) noexcept:
        """Remember an id while its cookie is valid; False when it is remembered already."""
        cdef Used *places = self.used + (id % (REMEMBERED // REMEMBERED_WAYS)) * REMEMBERED_WAYS
        cdef int i, oldest = 0
        for i in range(REMEMBERED_WAYS):
            if places[i].id == id and places[i].until > now:
                return False
            if places[i].until < places[oldest].until:
                oldest = i
        places[oldest].id = id
        places[oldest].until = now + COOKIE_US + SECOND_US
        return True
