"""Set-up of a connection; its packets: _setup.pxd, _listener.pxd."""

cimport cython

from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from mproxy._wire cimport get16, get32, get64, put64
from mproxy.ground._clock cimport NEVER
from mproxy.transport._channel cimport Channel, Transmit
from mproxy.transport._listener cimport (
    ACK_CONTROL_BYTES, ROUTING_SHIFT, OptionFlag, get_options, make_prologue, put_options,
)
from mproxy.transport._mtu cimport mtu_init
from mproxy.transport._packet cimport (
    BASE_PACKET_BYTES, CRC_BYTES, DATAGRAM_VERSION, MAX_HANDSHAKE_BYTES, PACKET_HEADER_BYTES, ControlType, PacketType,
    crc32c,
)
from mproxy.transport._rtt cimport MAX_RTO_US, rtt_sample, rtt_timeout
from mproxy.transport._states cimport ConnectionState


cdef bint keep(uint8_t **place, const uint8_t *message, uint32_t length) noexcept nogil:
    """Have a copy of a message there; False when there is no memory: then it is as if it had not come."""
    cdef uint8_t *copy = <uint8_t *>realloc(place[0], length + 1)
    if copy == NULL:
        return False
    memcpy(copy, message, length)
    place[0] = copy
    return True


@cython.final
cdef class SetUp:
    """From nothing to keys. `config` is a DatagramConfig, `entropy` 16 random bytes that nobody else knows."""

    def __init__(self, Channel channel, config, bytes entropy):
        cdef const uint8_t *random = entropy
        self.channel = channel
        channel.local_id = get64(random)
        self.first_out = <uint64_t>get32(random + 8) + 1
        self.sealed = config.sealed
        self.retries = config.retries
        self.options.version = DATAGRAM_VERSION
        self.options.flags = (OptionFlag.SEALED | OptionFlag.VEILED | OptionFlag.ROUTED if config.sealed else 0) | (
            OptionFlag.GO_BACK if config.recovery == "gbn" else 0)
        self.options.packet_bytes = config.max_packet_bytes
        self.options.ack_delay_us = config.ack_delay_us
        self.options.credit = channel.inp.limit
        self.repeat_at = NEVER

    def __dealloc__(self):
        free(self.handshake)
        free(self.heard)

    cdef void dial(self) noexcept:
        """Become the active side: the first SYN is due."""
        self.active = True
        self.due = True

    cdef void accept(self, const Accepted *accepted) noexcept:
        """Become the passive side for a client that has shown its cookie; `agree` follows."""
        self.channel.local_id = accepted.server_id
        self.channel.remote_id = accepted.client_id
        self.options.flags = accepted.flags
        self.first_out = accepted.server_number
        self.first_in = accepted.client_number
        memcpy(self.prologue_bytes, accepted.prologue, PROLOGUE_BYTES)
        put_options(self.peer_options, &accepted.options)
        if self.sealed:
            self.heard_bytes = accepted.handshake_bytes
            self.handshake_event = keep(&self.heard, accepted.handshake, accepted.handshake_bytes)
        else:
            self.confirmed = True
            self.channel.ping_due = True

    cdef int agree(self, int64_t now) noexcept:
        """Both sides' options and numbers are known: begin with them. -1: no memory."""
        cdef Channel channel = self.channel
        cdef Options theirs
        get_options(self.peer_options, &theirs)
        self.prologue_length = PROLOGUE_BYTES
        self.veiled = self.options.flags & theirs.flags & OptionFlag.VEILED
        self.routing_bits = (theirs.flags if self.active else self.options.flags) >> ROUTING_SHIFT & 7
        channel.peer_delay_us = min(theirs.ack_delay_us, 1000000)
        channel.out.limit = theirs.credit
        mtu_init(&channel.mtu, BASE_PACKET_BYTES, min(self.options.packet_bytes, theirs.packet_bytes), now)
        return channel.begin(self.first_out, self.first_in,
                             (self.options.flags if self.active else theirs.flags) & OptionFlag.GO_BACK, now)

    cdef int send_handshake(self, const uint8_t *data, uint32_t length) noexcept:
        """Send the next handshake message; it is repeated until the peer goes on. -1: too long, or no memory."""
        if length > MAX_HANDSHAKE_BYTES or not keep(&self.handshake, data, length):
            return -1
        self.handshake_bytes = length
        self.handshake_index = self.handshake_index + 2 if self.handshake_index > 0 else (1 if self.active else 2)
        self.due = True
        self.tries = 0
        return 0

    cdef void secure(self, const Seal *sending, const Seal *receiving) noexcept:
        """The keys are known: everything is sealed from now on."""
        self.channel.sending = sending[0]
        self.channel.receiving = receiving[0]
        self.secured = True
        self.channel.ping_due = True  # this shows the peer that we have them

    cdef void confirm(self) noexcept:
        """The peer's packet shows that our last set-up packet arrived."""
        self.confirmed = True
        self.due = False
        free(self.handshake)
        self.handshake = NULL
        self.handshake_bytes = 0
        if not self.handshake_event:
            free(self.heard)
            self.heard = NULL
            self.heard_bytes = 0
        self.repeat_at = NEVER

    cdef bint repeat(self) noexcept:
        """No answer in time; false when there were enough tries."""
        self.repeat_at = NEVER
        self.due = True
        return self.retries == 0 or self.tries <= self.retries

    # ---- in

    cdef SetUpNews take(self, ConnectionState state, const uint8_t *packet, uint32_t length, int64_t now) noexcept:
        """Take a packet that is not DATA."""
        cdef uint32_t control_bytes
        if not self.is_intact(packet, length):
            self.channel.corrupt += 1
            return SetUpNews.NO_NEWS
        control_bytes = get16(packet + 2)
        if packet[0] == PacketType.SYN_ACK and state == ConnectionState.SYN_SENT:
            return self.take_syn_ack(packet, control_bytes, now)
        if packet[0] == PacketType.HANDSHAKE:
            return self.take_handshake(state, packet, control_bytes)
        if packet[0] == PacketType.ACK and not self.active:
            if state == ConnectionState.OPEN:
                self.channel.ping_due = True  # the client has not heard from us yet
            self.due = self.handshake_index > 0 and not self.confirmed
        return SetUpNews.NO_NEWS

    cdef bint is_intact(self, const uint8_t *packet, uint32_t length) noexcept:
        """Check checksum and length of a set-up packet."""
        return <uint32_t>(PACKET_HEADER_BYTES + get16(packet + 2) + CRC_BYTES) == length and \
            crc32c(0, packet, length - CRC_BYTES) == get32(packet + length - CRC_BYTES)

    cdef SetUpNews take_syn_ack(self, const uint8_t *packet, uint32_t control_bytes, int64_t now) noexcept:
        """Active side: the peer is there and offers its options."""
        cdef Channel channel = self.channel
        cdef const uint8_t *control = packet + PACKET_HEADER_BYTES
        cdef uint8_t ours[OPTIONS_BYTES]
        cdef Options theirs
        if control_bytes < OPTIONS_BYTES + sizeof(self.cookie):
            return SetUpNews.NO_NEWS
        get_options(control, &theirs)
        if theirs.version != DATAGRAM_VERSION:
            self.mismatch = "the other side speaks another version of the protocol"
            return SetUpNews.IMPOSSIBLE
        if (theirs.flags ^ self.options.flags) & OptionFlag.SEALED:
            self.mismatch = "the other side wants a key" if theirs.flags & OptionFlag.SEALED else \
                "the other side has no key"
            return SetUpNews.IMPOSSIBLE
        if theirs.packet_bytes < BASE_PACKET_BYTES:
            return SetUpNews.NO_NEWS
        channel.remote_id = get64(packet + 20)
        self.first_in = get64(packet + 12)
        memcpy(self.peer_options, control, OPTIONS_BYTES)
        memcpy(self.cookie, control + OPTIONS_BYTES, sizeof(self.cookie))
        put_options(ours, &self.options)
        make_prologue(self.prologue_bytes, channel.local_id, channel.remote_id, self.first_out, self.first_in, ours,
                      control)
        if self.tries == 1:
            rtt_sample(&channel.recovery.rtt, now - self.sent_at, 0, now)
            channel.congestion.on_round_trip(now - self.sent_at)
        self.tries = 0
        self.repeat_at = NEVER
        if self.sealed:
            self.heard_bytes = 0
            self.handshake_event = True
        else:
            self.due = True
        return SetUpNews.AGREED

    cdef SetUpNews take_handshake(self, ConnectionState state, const uint8_t *packet, uint32_t control_bytes) noexcept:
        """A handshake message, or with number 0 the peer's refusal of ours."""
        cdef uint64_t index = get64(packet + 12)
        cdef const uint8_t *control = packet + PACKET_HEADER_BYTES
        if not self.sealed or control_bytes > MAX_HANDSHAKE_BYTES or state == ConnectionState.SYN_SENT:
            return SetUpNews.NO_NEWS
        if state == ConnectionState.SECURING:
            if index == 0 and control_bytes >= 3 and control[2] <= control_bytes - 3:
                return SetUpNews.REFUSED
            if index == <uint64_t>self.handshake_index + 1 and keep(&self.heard, control, control_bytes):
                self.heard_bytes = control_bytes
                self.handshake_event = True
                self.repeat_at = NEVER
                return SetUpNews.HEARD
            if index < <uint64_t>self.handshake_index:
                self.due = True
        elif state == ConnectionState.OPEN:
            self.channel.ping_due = True  # the peer has not seen us use the keys yet
            self.due = not self.confirmed and self.handshake_index > 0
        return SetUpNews.NO_NEWS

    # ---- out

    cdef int packet(self, ConnectionState state, Transmit *out, int64_t now) noexcept:
        """Write the SYN, ACK or HANDSHAKE that the set-up waits on."""
        cdef Channel channel = self.channel
        cdef uint8_t *control = out.data + PACKET_HEADER_BYTES
        self.due = False
        if state == ConnectionState.SYN_SENT:
            memset(control, ControlType.PADDING, BASE_PACKET_BYTES)
            put_options(control, &self.options)
            put64(control + OPTIONS_BYTES, self.tag)
            channel.build_clear(out, PacketType.SYN, self.first_out,
                                BASE_PACKET_BYTES - PACKET_HEADER_BYTES - CRC_BYTES)
        elif self.active and self.handshake_index <= 1:
            put_options(control, &self.options)
            memcpy(control + OPTIONS_BYTES, self.peer_options, OPTIONS_BYTES)
            memcpy(control + 2 * OPTIONS_BYTES, self.cookie, sizeof(self.cookie))
            if self.handshake_bytes > 0:  # without keys there is no message
                memcpy(control + ACK_CONTROL_BYTES, self.handshake, self.handshake_bytes)
            channel.build_clear(out, PacketType.ACK, self.first_out, ACK_CONTROL_BYTES + self.handshake_bytes)
        elif self.handshake_index > 0:
            memcpy(control, self.handshake, self.handshake_bytes)
            channel.build_clear(out, PacketType.HANDSHAKE, self.handshake_index, self.handshake_bytes)
        else:
            return 0
        self.sent_at = now
        if channel.recovery.rtt.smoothed > 0:
            self.repeat_at = now + rtt_timeout(&channel.recovery.rtt, 0, self.tries)
        else:
            self.repeat_at = now + min(FIRST_SETUP_US << min(max(self.tries - 1, 0), 4), MAX_RTO_US)
        self.tries += 1
        return 1
