"""The peer's address; rules: _path.pxd."""

cimport cython

from libc.string cimport memcpy, memset

from mproxy._wire cimport put64
from mproxy.ground._clock cimport NEVER
from mproxy.ground._siphash cimport siphash24
from mproxy.transport._acks cimport acks_sent, acks_write
from mproxy.transport._channel cimport Channel, Transmit
from mproxy.transport._mtu cimport mtu_init
from mproxy.transport._packet cimport BASE_PACKET_BYTES, PACKET_HEADER_BYTES, ControlType, PeerAddress, same_address
from mproxy.transport._rtt cimport rtt_init


cdef enum:
    SHOW_ACK_BYTES = 512   # of the ack in a packet that shows our address
    ANSWERED_FLAG = 0x200  # flags of a packet that wants an ack but is not sent again when lost


@cython.final
cdef class Path:
    """Addresses of one connection. `config` is a DatagramConfig, `entropy` 16 random bytes that nobody else knows."""

    def __init__(self, Channel channel, config, bytes entropy):
        self.channel = channel
        self.ids = ConnectionIds()
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

    cdef void change_ids(self, const uint8_t *local_key, const uint8_t *remote_key, int kept_bits, bint ours) noexcept:
        """Have another id on each path from now on (_ids); the first bits of those in packets to us (`ours`), or to the
        peer, stay."""
        self.ids.keep_first(kept_bits, ours)
        self.ids.begin(self.channel.local_id, self.channel.remote_id, local_key, remote_key)

    cdef void address_as(self, uint64_t turn) noexcept:
        """Have the next packets carry the id of that number."""
        if self.ids.changing:
            self.channel.remote_id = self.ids.remote(turn)

    cdef void may_have_moved(self) noexcept:
        """This host's network has changed: the peer is to see where we are, and watchers not that it is us."""
        self.show_due = True
        if self.channel.in_packets > 0:  # before that it may not have the keys, and know no other id
            self.ids.advance()
            self.address_as(self.ids.turn)

    cdef void note_source(self, const PeerAddress *source, uint32_t length) noexcept:
        """The authentic new packet that the channel took last came from `source`."""
        if not self.channel.newest:
            return
        if self.ids.note(self.channel.came_to, self.fixed_path or same_address(source, &self.peer)):
            self.address_as(self.ids.turn)
        if self.fixed_path:
            return
        if not same_address(source, &self.peer):
            self.follow(source, length)
        elif self.candidate.length > 0:
            self.forget_candidate()

    cdef void follow(self, const PeerAddress *source, uint32_t length) noexcept:
        """The newest packet came from another address: find out whether the peer is really there."""
        if self.candidate.length == 0 or not same_address(source, &self.candidate):
            self.candidate = source[0]
            self.trusted, self.seen_event = not self.judged, self.judged
            self.candidate_in = self.candidate_out = 0
            self.challenge = self.draw()
            self.challenge_due = True
            self.tries = 0
            self.trial_from = self.channel.recovery.sent.next
            self.trial_next = self.channel.recovery.sent.base
        self.candidate_in += length

    cdef void forget_candidate(self) noexcept:
        """The peer is where it was before."""
        if self.candidate.length > 0:
            self.unproven += 1
        self.candidate.length = 0
        self.challenge_due = self.seen_event = False
        self.ask_at = NEVER

    cdef void take_challenge(self, const PeerAddress *source, uint64_t challenge) noexcept:
        """The peer asks from `source` whether we are where it sent that."""
        self.response = challenge
        self.response_to = source[0]
        self.response_due = self.asked_event = True

    cdef void take_response(self, uint64_t answer, int64_t now) noexcept:
        """An answer to a challenge: if it is right the peer is at `candidate`, on a path yet unknown."""
        cdef Channel channel = self.channel
        if self.candidate.length == 0 or self.tries == 0 or answer != self.challenge:
            return
        self.peer = self.candidate
        self.forget_candidate()
        self.unproven = 0
        if self.ids.proven():
            self.address_as(self.ids.turn)
        self.address_event = True
        channel.leave_path(self.trial_from, now)
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

    cdef uint32_t trial_room(self) noexcept:
        """How many bytes of data may go to the new address before it has answered; 0: none."""
        cdef uint64_t most = min(AMPLIFICATION * self.candidate_in, <uint64_t>TRIAL_BYTES)
        if self.candidate.length == 0 or not self.trusted or self.challenge_due or self.answer_to.length > 0 \
                or self.unproven >= MOST_UNPROVEN or most < self.candidate_out + LEAST_TRIAL:
            return 0
        return <uint32_t>(most - self.candidate_out)

    cdef int trial(self, Transmit *out, int64_t now) noexcept:
        """Write packets of data to the new address; returns how many."""
        cdef uint32_t room = out.room, most = self.trial_room()
        cdef int count
        if most == 0:
            return 0
        self.trial_next = self.channel.say_again(self.trial_next, self.trial_from, most, now)
        out.room = min(room, most)
        self.channel.on_trial = True
        self.address_as(self.ids.trial_turn)
        count = self.channel.fill(out, now)
        self.address_as(self.ids.turn)
        self.channel.on_trial = False
        out.room = room
        out.to = &self.candidate
        self.candidate_out += out.length
        return count

    cdef int show_address(self, Transmit *out, int64_t now) noexcept:
        """Write a packet for the peer to see our address: a large one, for which it may answer with data at once, and
        what has come until now, so that it knows which."""
        cdef Channel channel = self.channel
        cdef uint32_t control_bytes = BASE_PACKET_BYTES - PACKET_HEADER_BYTES - channel.sending.trailer_bytes
        cdef uint8_t *control = out.data + PACKET_HEADER_BYTES
        cdef uint32_t length = acks_write(&channel.acks, control, SHOW_ACK_BYTES, channel.inp.limit,
                                          channel.expected(), now)
        acks_sent(&channel.acks)
        self.show_due = False
        control[length] = ControlType.PING
        memset(control + length + 1, ControlType.PADDING, control_bytes - length - 1)
        return channel.build_bare(out, control_bytes, ANSWERED_FLAG, now)

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
        self.address_as(self.ids.trial_turn)
        self.channel.build_bare(out, 9, ANSWERED_FLAG, now)
        self.address_as(self.ids.turn)
        return out.count
