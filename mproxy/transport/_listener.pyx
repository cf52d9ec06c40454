"""Set-up without state; layout and argument: _listener.pxd."""

from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from mproxy._wire cimport get16, get32, get64, put32, put64
from mproxy.ground._siphash cimport siphash24
from mproxy.transport._inflow cimport FIRST_WINDOW_BYTES
from mproxy.transport._packet cimport (
    BASE_PACKET_BYTES, CRC_BYTES, DATAGRAM_VERSION, MAX_HANDSHAKE_BYTES, PACKET_HEADER_BYTES, Header,
    PacketType, crc32c, get_header, packet_type, put_header,
)


cdef enum:
    DERIVED_BYTES = 86   # purpose 1, time 4, address 29, number 8, client id 8, options of both 36
    SECOND_US = 1000000

cdef enum Purpose:
    COOKIE = 1
    SERVER_ID = 2
    SERVER_NUMBER = 3


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


cdef class Listener:
    """One for each listening socket. `config` is a DatagramConfig, `secret` 16 random bytes."""

    def __cinit__(self, config, bytes secret):
        if len(secret) != 16:
            raise ValueError("the secret of a listener has 16 bytes")
        memcpy(self.secret, <const char *>secret, 16)
        self.options.version = DATAGRAM_VERSION
        self.options.flags = OptionFlag.SEALED | OptionFlag.VEILED if config.sealed else 0
        self.options.packet_bytes = config.max_packet_bytes
        self.options.ack_delay_us = config.ack_delay_us
        self.options.credit = min(FIRST_WINDOW_BYTES, config.max_window_bytes)
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

    cdef uint64_t derive(self, int purpose, const uint8_t *packet, const PeerAddress *source, uint32_t time) noexcept:
        """A secret 64-bit value for this client's set-up: of its address, id, number and options, of ours, of time."""
        cdef uint8_t data[DERIVED_BYTES]
        memset(data, 0, sizeof(data))
        data[0] = <uint8_t>purpose
        put32(data + 1, time)
        data[5] = source.length
        memcpy(data + 6, source.bytes, source.length if source.length <= 28 else 28)
        memcpy(data + 34, packet + 12, 16)                                  # number, and id in the place of offset
        memcpy(data + 50, packet + PACKET_HEADER_BYTES, OPTIONS_BYTES)
        put_options(data + 50 + OPTIONS_BYTES, &self.options)
        return siphash24(self.secret, data, DERIVED_BYTES)

    cdef uint32_t answer_syn(
            self, const uint8_t *packet, const PeerAddress *source, int64_t now, uint8_t *out) noexcept:
        """Write the SYN-ACK; returns its length."""
        cdef uint32_t time = <uint32_t>(now // SECOND_US), end = PACKET_HEADER_BYTES + SYN_ACK_CONTROL_BYTES
        cdef Header header
        header.type = PacketType.SYN_ACK
        header.flags = 0
        header.control_bytes = SYN_ACK_CONTROL_BYTES
        header.destination = get64(packet + 20)
        header.number = (self.derive(Purpose.SERVER_NUMBER, packet, source, time) & 0xFFFFFFFF) + 1
        header.offset = self.derive(Purpose.SERVER_ID, packet, source, time)
        put_header(out, &header)
        put_options(out + PACKET_HEADER_BYTES, &self.options)
        put32(out + PACKET_HEADER_BYTES + 18, time)
        put64(out + PACKET_HEADER_BYTES + 22, self.derive(Purpose.COOKIE, packet, source, time))
        put32(out + end, crc32c(0, out, end))
        return end + CRC_BYTES

    cdef bint check_ack(self, const uint8_t *packet, const PeerAddress *source, int64_t now, Accepted *out) noexcept:
        """Whether the ACK shows a cookie of ours for this very client, fresh and unused; fills `out`."""
        cdef const uint8_t *control = packet + PACKET_HEADER_BYTES
        cdef uint32_t time = get32(control + 36), control_bytes = get16(packet + 2)
        cdef uint8_t ours[OPTIONS_BYTES]
        cdef Header header
        cdef int64_t age = now // SECOND_US - time
        get_header(packet, &header)
        put_options(ours, &self.options)
        if age < 0 or age > COOKIE_US // SECOND_US or control_bytes - ACK_CONTROL_BYTES > MAX_HANDSHAKE_BYTES:
            return False
        if get64(control + 40) != self.derive(Purpose.COOKIE, packet, source, time):
            return False
        if header.destination != self.derive(Purpose.SERVER_ID, packet, source, time):
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
        out.server_number = (self.derive(Purpose.SERVER_NUMBER, packet, source, time) & 0xFFFFFFFF) + 1
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
