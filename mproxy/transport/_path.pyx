"""The peer's address; rules: _path.pxd."""

cimport cython

from libc.string cimport memcpy

from mproxy._wire cimport put64
from mproxy.ground._clock cimport NEVER
from mproxy.ground._siphash cimport siphash24
from mproxy.transport._channel cimport Channel, Transmit
from mproxy.transport._mtu cimport mtu_init
from mproxy.transport._packet cimport BASE_PACKET_BYTES, PACKET_HEADER_BYTES, ControlType, PeerAddress, same_address
from mproxy.transport._rtt cimport rtt_init


cdef enum:
    ANSWERED_FLAG = 0x200  # flags of a packet that wants an ack but is not sent again when lost


@cython.final
cdef class Path:
    """Addresses of one connection. `config` is a DatagramConfig, `entropy` 16 random bytes that nobody else knows."""

    def __init__(self, Channel channel, config, bytes entropy):
        self.channel = channel
        memcpy(self.entropy, <const char *>entropy, 16)
        self.fixed_path = config.fixed_path
        self.answer_to.length = <uint8_t>min(len(config.answer_to), 28)
        memcpy(self.answer_to.bytes, <const char *><bytes>config.answer_to, self.answer_to.length)
        self.ask_at = NEVER

    cdef const PeerAddress *where(self) noexcept:
        """Where packets go."""
        return &self.answer_to if self.answer_to.length > 0 else &self.peer

    cdef uint64_t draw(self) noexcept:
        """A number that nobody can guess."""
        self.drawn += 1
        return siphash24(self.entropy, &self.drawn, sizeof(self.drawn))

    cdef void note_source(self, const PeerAddress *source, uint32_t length) noexcept:
        """The authentic new packet that the channel took last came from `source`."""
        if not self.channel.newest or self.fixed_path:
            return
        if not same_address(source, &self.peer):
            self.follow(source, length)
        elif self.candidate.length > 0:
            self.forget_candidate()

    cdef void follow(self, const PeerAddress *source, uint32_t length) noexcept:
        """The newest packet came from another address: find out whether the peer is really there."""
        if self.candidate.length == 0 or not same_address(source, &self.candidate):
            self.candidate = source[0]
            self.candidate_in = self.candidate_out = 0
            self.challenge = self.draw()
            self.challenge_due = True
            self.tries = 0
        self.candidate_in += length

    cdef void forget_candidate(self) noexcept:
        """The peer is where it was before."""
        self.candidate.length = 0
        self.challenge_due = False
        self.ask_at = NEVER

    cdef void take_challenge(self, const PeerAddress *source, uint64_t challenge) noexcept:
        """The peer asks from `source` whether we are where it sent that."""
        self.response = challenge
        self.response_to = source[0]
        self.response_due = True

    cdef void take_response(self, uint64_t answer, int64_t now) noexcept:
        """An answer to a challenge: if it is right the peer is at `candidate`, on a path yet unknown."""
        cdef Channel channel = self.channel
        if self.candidate.length == 0 or self.tries == 0 or answer != self.challenge:
            return
        self.peer = self.candidate
        self.forget_candidate()
        self.address_event = True
        rtt_init(&channel.recovery.rtt)
        mtu_init(&channel.mtu, BASE_PACKET_BYTES, channel.mtu.ceiling, now)
        channel.congestion.on_packet_size(channel.mtu.current)
        channel.congestion.start_again(now)
        channel.recovery.tries = 0
        channel.probes = max(channel.probes, 1)

    cdef void ask_again(self, int64_t now) noexcept:
        """No answer came in time."""
        self.ask_at = NEVER
        self.challenge_due = self.tries < PATH_TRIES
        if not self.challenge_due:
            self.forget_candidate()

    cdef int packet(self, Transmit *out, int64_t now) noexcept:
        """Write a challenge to where the peer seems to be, or the answer to the peer's."""
        cdef uint8_t *control = out.data + PACKET_HEADER_BYTES
        cdef uint32_t length = PACKET_HEADER_BYTES + 9 + self.channel.sending.trailer_bytes
        if self.response_due:
            self.response_due = False
            control[0] = ControlType.PATH_RESPONSE
            put64(control + 1, self.response)
            if self.answer_to.length == 0:
                out.to = &self.response_to
            return self.channel.build_bare(out, 9, ANSWERED_FLAG, now)
        if self.candidate.length == 0 or self.candidate_out + length > AMPLIFICATION * self.candidate_in:
            return 0  # it stays due until more has come from there
        self.challenge_due = False
        control[0] = ControlType.PATH_CHALLENGE
        put64(control + 1, self.challenge)
        out.to = &self.candidate
        self.ask_at = now + self.channel.timeout_us(self.tries)
        self.tries += 1
        self.candidate_out += length
        return self.channel.build_bare(out, 9, ANSWERED_FLAG, now)
