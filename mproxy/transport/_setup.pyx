"""Set-up of a connection; its packets: _setup.pxd, _listener.pxd."""

from libc.string cimport memcpy, memset

from mproxy._wire cimport get16, get32, get64, put32
from mproxy.transport._acks cimport NEVER
from mproxy.transport._channel cimport Transmit
from mproxy.transport._listener cimport ACK_CONTROL_BYTES, OptionFlag, get_options, make_prologue, put_options
from mproxy.transport._mtu cimport mtu_init
from mproxy.transport._packet cimport (
    BASE_PACKET_BYTES, CRC_BYTES, DATAGRAM_VERSION, PACKET_HEADER_BYTES, ControlType, EndCode, Header, PacketType,
    crc32c, put_header,
)
from mproxy.transport._path cimport Path
from mproxy.transport._rtt cimport MAX_RTO_US, rtt_sample, rtt_timeout
from mproxy.transport._states cimport ConnectionCause, ConnectionState


cdef class SetUp(Path):
    """From nothing to keys. `config` is a DatagramConfig, `entropy` 32 random bytes that nobody else knows."""

    def __init__(self, config, *, bytes entropy):
        cdef const uint8_t *random
        super().__init__(config, entropy=entropy)
        random = entropy
        self.local_id = get64(random + 16)
        self.first_out = <uint64_t>get32(random + 24) + 1
        self.state = ConnectionState.NEW
        self.sealed = config.sealed
        self.retries = config.retries
        self.options.version = DATAGRAM_VERSION
        self.options.flags = (OptionFlag.SEALED if config.sealed else 0) | (
            OptionFlag.GO_BACK if config.recovery == "gbn" else 0)
        self.options.packet_bytes = config.max_packet_bytes
        self.options.ack_delay_us = config.ack_delay_us
        self.options.credit = self.inp.limit
        self.setup_at = NEVER

    cdef void move(self, ConnectionCause cause) noexcept:
        """Go to the next state."""

    cdef void heard_now(self, int64_t now) noexcept:
        """The peer gave a sign of life."""

    cdef void take_close(self, int code, const uint8_t *reason, uint32_t length) noexcept:
        """The peer gives up."""

    cdef void end(self, int code, const char *reason, bint local, int64_t now) noexcept:
        """Give up for `reason`."""

    cdef void connect(self, const PeerAddress *to, int64_t now) noexcept:
        """Become the active side: the first SYN is due."""
        self.active = True
        self.peer = to[0]
        self.move(ConnectionCause.DIAL)
        self.setup_due = True
        self.heard_now(now)

    cdef void accept(self, const Accepted *accepted, int64_t now) noexcept:
        """Become the passive side for a client that has shown its cookie."""
        self.peer = accepted.address
        self.local_id = accepted.server_id
        self.remote_id = accepted.client_id
        self.first_out = accepted.server_number
        self.first_in = accepted.client_number
        memcpy(self.prologue_bytes, accepted.prologue, PROLOGUE_BYTES)
        self.move(ConnectionCause.ACCEPT)
        put_options(self.peer_options, &accepted.options)
        self.answered_setup(now)
        if self.sealed:
            self.heard_bytes = accepted.handshake_bytes
            memcpy(self.heard, accepted.handshake, accepted.handshake_bytes)
            self.handshake_event = True
        else:
            self.confirmed = True
            self.ping_due = True

    cdef void answered_setup(self, int64_t now) noexcept:
        """Both sides' options and numbers are known."""
        cdef Options theirs
        get_options(self.peer_options, &theirs)
        self.prologue_length = PROLOGUE_BYTES
        self.heard_now(now)
        self.peer_delay_us = min(theirs.ack_delay_us, 1000000)
        self.out.limit = theirs.credit
        mtu_init(&self.mtu, BASE_PACKET_BYTES, min(self.options.packet_bytes, theirs.packet_bytes), now)
        if self.begin(self.first_out, self.first_in,
                      (self.options.flags if self.active else theirs.flags) & OptionFlag.GO_BACK, now) < 0:
            self.end(EndCode.NO_MEMORY, "no memory", True, now)
        elif not self.sealed:
            self.move(ConnectionCause.KEYS)

    cdef int send_handshake(self, const uint8_t *data, uint32_t length) noexcept:
        """Send the next handshake message; it is repeated until the peer goes on. -1: too long."""
        if length > MAX_HANDSHAKE_BYTES:
            return -1
        memcpy(self.handshake, data, length)
        self.handshake_bytes = length
        self.handshake_index = self.handshake_index + 2 if self.handshake_index > 0 else (1 if self.active else 2)
        self.setup_due = True
        self.setup_tries = 0
        return 0

    cdef void secure(self, const Seal *sending, const Seal *receiving, int64_t now) noexcept:
        """The keys are known: everything is sealed from now on."""
        if self.state != ConnectionState.SECURING or self.secured:
            return
        self.sending = sending[0]
        self.receiving = receiving[0]
        self.secured = True
        self.ping_due = True  # this shows the peer that we have them
        self.move(ConnectionCause.KEYS)

    cdef void confirm(self) noexcept:
        """The peer's packet shows that our last set-up packet arrived."""
        self.confirmed = True
        self.setup_due = False
        self.setup_at = NEVER

    cdef void repeat_setup(self, int64_t now) noexcept:
        """No answer in time."""
        self.setup_at = NEVER
        self.setup_due = True
        if 0 < self.retries < self.setup_tries:
            self.end(EndCode.TIMED_OUT, "the other side does not answer", True, now)

    # ---- in

    cdef void take_setup(self, const uint8_t *packet, uint32_t length, int64_t now) noexcept:
        """Take a packet that is not DATA."""
        cdef uint32_t control_bytes
        if not self.is_intact(packet, length):
            self.corrupt += 1
            return
        control_bytes = get16(packet + 2)
        if packet[0] == PacketType.SYN_ACK and self.state == ConnectionState.SYN_SENT:
            self.take_syn_ack(packet, control_bytes, now)
        elif packet[0] == PacketType.HANDSHAKE:
            self.take_handshake(packet, control_bytes, now)
        elif packet[0] == PacketType.ACK and not self.active:
            if self.state == ConnectionState.OPEN:
                self.ping_due = True  # the client has not heard from us yet
            self.setup_due = self.handshake_index > 0 and not self.confirmed

    cdef bint is_intact(self, const uint8_t *packet, uint32_t length) noexcept:
        """Check checksum and length of a set-up packet."""
        return <uint32_t>(PACKET_HEADER_BYTES + get16(packet + 2) + CRC_BYTES) == length and \
            crc32c(0, packet, length - CRC_BYTES) == get32(packet + length - CRC_BYTES)

    cdef void take_syn_ack(self, const uint8_t *packet, uint32_t control_bytes, int64_t now) noexcept:
        """Active side: the peer is there and offers its options."""
        cdef const uint8_t *control = packet + PACKET_HEADER_BYTES
        cdef uint8_t ours[OPTIONS_BYTES]
        cdef Options theirs
        if control_bytes < OPTIONS_BYTES + sizeof(self.cookie):
            return
        get_options(control, &theirs)
        if theirs.version != DATAGRAM_VERSION:
            self.end(EndCode.VERSION, "the other side speaks another version of the protocol", True, now)
            return
        if (theirs.flags ^ self.options.flags) & OptionFlag.SEALED:
            self.end(EndCode.VERSION, "the other side wants a key" if theirs.flags & OptionFlag.SEALED else
                     "the other side has no key", True, now)
            return
        if theirs.packet_bytes < BASE_PACKET_BYTES:
            return
        self.remote_id = get64(packet + 20)
        self.first_in = get64(packet + 12)
        memcpy(self.peer_options, control, OPTIONS_BYTES)
        memcpy(self.cookie, control + OPTIONS_BYTES, sizeof(self.cookie))
        put_options(ours, &self.options)
        make_prologue(self.prologue_bytes, self.local_id, self.remote_id, self.first_out, self.first_in, ours, control)
        if self.setup_tries == 1:
            rtt_sample(&self.recovery.rtt, now - self.setup_sent_at, 0, now)
            self.congestion.on_round_trip(now - self.setup_sent_at)
        self.setup_tries = 0
        self.setup_at = NEVER
        self.move(ConnectionCause.ANSWER)
        self.answered_setup(now)
        if self.sealed:
            self.heard_bytes = 0
            self.handshake_event = True
        else:
            self.setup_due = True

    cdef void take_handshake(self, const uint8_t *packet, uint32_t control_bytes, int64_t now) noexcept:
        """A handshake message, or with number 0 the peer's refusal of ours."""
        cdef uint64_t index = get64(packet + 12)
        cdef const uint8_t *control = packet + PACKET_HEADER_BYTES
        if not self.sealed or control_bytes > MAX_HANDSHAKE_BYTES or self.state == ConnectionState.SYN_SENT:
            return
        if self.state == ConnectionState.SECURING:
            if index == 0 and control_bytes >= 3 and control[2] <= control_bytes - 3:
                self.take_close(get16(control), control + 3, control[2])
            elif index == <uint64_t>self.handshake_index + 1:
                memcpy(self.heard, control, control_bytes)
                self.heard_bytes = control_bytes
                self.handshake_event = True
                self.setup_at = NEVER
                self.heard_now(now)
            elif index < <uint64_t>self.handshake_index:
                self.setup_due = True
        elif self.state == ConnectionState.OPEN:
            self.ping_due = True  # the peer has not seen us use the keys yet
            self.setup_due = not self.confirmed and self.handshake_index > 0

    # ---- out

    cdef int setup_packet(self, Transmit *out, int64_t now) noexcept:
        """Write the SYN, ACK or HANDSHAKE that the set-up waits on."""
        cdef uint8_t *control = out.data + PACKET_HEADER_BYTES
        self.setup_due = False
        if self.state == ConnectionState.SYN_SENT:
            memset(control, ControlType.PADDING, BASE_PACKET_BYTES)
            put_options(control, &self.options)
            self.seal_clear(out, PacketType.SYN, self.first_out, BASE_PACKET_BYTES - PACKET_HEADER_BYTES - CRC_BYTES)
        elif self.active and self.handshake_index <= 1:
            put_options(control, &self.options)
            memcpy(control + OPTIONS_BYTES, self.peer_options, OPTIONS_BYTES)
            memcpy(control + 2 * OPTIONS_BYTES, self.cookie, sizeof(self.cookie))
            memcpy(control + ACK_CONTROL_BYTES, self.handshake, self.handshake_bytes)
            self.seal_clear(out, PacketType.ACK, self.first_out, ACK_CONTROL_BYTES + self.handshake_bytes)
        elif self.handshake_index > 0:
            memcpy(control, self.handshake, self.handshake_bytes)
            self.seal_clear(out, PacketType.HANDSHAKE, self.handshake_index, self.handshake_bytes)
        else:
            return 0
        self.setup_sent_at = now
        if self.recovery.rtt.smoothed > 0:
            self.setup_at = now + rtt_timeout(&self.recovery.rtt, 0, self.setup_tries)
        else:
            self.setup_at = now + min(FIRST_SETUP_US << min(max(self.setup_tries - 1, 0), 4), MAX_RTO_US)
        self.setup_tries += 1
        return 1

    cdef int seal_clear(self, Transmit *out, int kind, uint64_t number, uint32_t control_bytes) noexcept:
        """Make a packet in the clear of the control part at out.data."""
        cdef uint32_t end = PACKET_HEADER_BYTES + control_bytes
        cdef Header header = Header(kind, 0, control_bytes, self.remote_id, number, self.local_id)
        put_header(out.data, &header)
        put32(out.data + end, crc32c(0, out.data, end))
        out.length = out.segment_bytes = end + CRC_BYTES
        out.count = 1
        self.out_packets += 1
        self.out_bytes += out.length
        return 1
