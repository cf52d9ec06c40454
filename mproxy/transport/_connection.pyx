"""The state machine of one connection. Everything that changes its state lives here; call order: _connection.pxd.

Theory. The set-up makes sure of both addresses and of the numbers that both sides begin with, before the passive side
keeps anything (_listener). From then on each side keeps every byte until an ack names it, sends it again when a packet
counts as lost, and asks again at every timeout; so as long as the path lets through one packet in so many tries,
everything arrives (docs/datagram.md has the argument in steps). The end is the difficult part: the last ack may be
lost, and nobody acknowledges an ack. So whoever knows that both streams are complete says so (CLOSE), stays for
three timeouts, and says it again whenever it is asked.
"""

cimport cython

from libc.string cimport memcpy, strlen

from mproxy._ring cimport iovec, ring_space, ring_view
from mproxy._wire cimport get16, get64, put16
from mproxy.ground._clock cimport NEVER
from mproxy.transport._acks cimport acks_sent, acks_write
from mproxy.transport._channel cimport Channel, Taken, Transmit
from mproxy.transport._inflow cimport Inflow, inflow_consume, inflow_done, inflow_should_tell
from mproxy.transport._mtu cimport mtu_too_big
from mproxy.transport._outflow cimport outflow_acked, outflow_blocked, outflow_done, outflow_end, outflow_room
from mproxy.transport._packet cimport (
    PACKET_HEADER_BYTES, ControlType, EndCode, PacketType, PeerAddress, packet_type, same_address,
)
from mproxy.transport._path cimport Path
from mproxy.transport._rtt cimport FIRST_RTO_US
from mproxy.transport._setup cimport SetUp, SetUpNews
from mproxy.transport._states cimport ConnectionCause, ConnectionState, state_after


cdef enum:
    CLOSE_ACK_BYTES = 512  # of the ack that goes with CLOSE


@cython.final
cdef class Connection:
    """One end. `config` is a DatagramConfig, `entropy` 32 random bytes that nobody else knows."""

    def __init__(self, config, *, bytes entropy):
        if len(entropy) != 32:
            raise ValueError("a connection takes 32 random bytes")
        self.state = ConnectionState.NEW
        self.channel = Channel(config)
        self.path = Path(self.channel, config, entropy[:16])
        self.setup = SetUp(self.channel, config, entropy[16:])
        self.keepalive_us = config.keepalive_us
        self.idle_us = config.idle_us
        self.keepalive_at = self.idle_at = self.close_at = self.drain_at = NEVER

    cdef void move(self, ConnectionCause cause) noexcept:
        """Go to the next state."""
        cdef int after = state_after(self.state, cause)
        assert after >= 0
        self.state = <ConnectionState>after

    # ---- commands

    cdef void connect(self, const PeerAddress *to, int64_t now) noexcept:
        """Be the active side."""
        self.path.peer = to[0]
        self.setup.dial()
        self.move(ConnectionCause.DIAL)
        self.heard_now(now)

    cdef void accept(self, const Accepted *accepted, int64_t now) noexcept:
        """Become the passive side for a client that has shown its cookie."""
        self.path.peer = accepted.address
        self.setup.accept(accepted)
        self.move(ConnectionCause.ACCEPT)
        self.agree(now)

    cdef int send_handshake(self, const uint8_t *data, uint32_t length) noexcept:
        """Send the next handshake message; it is repeated until the peer goes on. -1: too long, or no memory."""
        return self.setup.send_handshake(data, length)

    cdef void secure(self, const Seal *sending, const Seal *receiving) noexcept:
        """The keys are known: everything is sealed from now on."""
        if self.state == ConnectionState.SECURING and not self.setup.secured:
            self.setup.secure(sending, receiving)
            self.move(ConnectionCause.KEYS)

    cdef int write_space(self, uint32_t most, iovec *out) noexcept:
        """Describe where the application's next bytes go, at most `most`; returns the number of segments (0..2)."""
        if self.state >= ConnectionState.DRAINING or outflow_room(&self.channel.out) == 0:
            return 0
        return ring_space(&self.channel.out.ring, most, out)

    cdef void wrote(self, uint32_t length) noexcept:
        """`length` bytes were written there."""
        self.channel.out.ring.tail += length

    cpdef void finish(self) noexcept:
        """The application writes no more: a FIN follows its last byte."""
        self.channel.out.finished = True

    cdef int read_view(self, uint32_t most, iovec *out) noexcept:
        """Describe the bytes that arrived in order and were not consumed, at most `most`; returns the segments."""
        cdef const Inflow *inp = &self.channel.inp
        return ring_view(&inp.ring, inp.ring.head, <uint32_t>min(inp.arrived - inp.ring.head, <uint64_t>most), out)

    cdef void consume(self, uint32_t length, int64_t now) noexcept:
        """The application has taken the first `length` bytes of the view."""
        cdef Inflow *inp = &self.channel.inp
        inflow_consume(inp, length)
        if inflow_should_tell(inp):
            if inp.told - inp.arrived < inp.window // 4:
                self.channel.credit_due = True  # the sender may be waiting for nothing else
            else:
                self.channel.acks.due = True
        self.check_done(now)

    cpdef void probe(self, int64_t now) noexcept:
        """The path may have changed: send a packet, so that the peer sees our address, and hear whether it lives."""
        if self.state == ConnectionState.OPEN:
            self.path.may_have_moved()
            self.channel.ping_due = True  # and what has been heard, for the peer
            self.channel.hurry(now)
        elif self.setup.repeat_at != NEVER:
            self.setup.due = True

    cpdef void ask(self, int64_t now) noexcept:
        """The peer is in doubt: do not wait for the timeout, which is doubled each time, to send a packet again."""
        if self.state != ConnectionState.OPEN:
            return
        if self.channel.recovery.waiting > 0:
            self.channel.repeat_oldest(now)
            self.channel.time_out(now)
        else:
            self.channel.ping_due = True

    cdef void expect(self, int64_t keepalive_us, int64_t idle_us, int64_t now) noexcept:
        """Ask for a sign of life, and give the peer up, after that much silence from now on."""
        self.keepalive_us = keepalive_us
        self.idle_us = idle_us
        if self.state == ConnectionState.OPEN:
            self.keepalive_at = now + keepalive_us
            self.idle_at = now + idle_us

    cpdef void abort(self, int code, bytes reason, int64_t now) noexcept:
        """Give up; the peer is told the EndCode and the reason (UTF-8, cut at MAX_END_REASON_BYTES)."""
        self.end(code, reason, now)

    # ---- packets in

    cdef int receive(self, uint8_t *packet, uint32_t length, const PeerAddress *source, int64_t now) noexcept:
        """Take a packet whose `packet_id` is one of ours; returns a Taken."""
        cdef int kind = packet_type(packet, length)
        cdef Taken result
        if kind == 0 or self.state == ConnectionState.CLOSED or self.state == ConnectionState.NEW:
            return Taken.CORRUPT
        if kind != PacketType.DATA:
            self.take_setup(packet, length, now)
            return Taken.ACCEPTED
        if self.state == ConnectionState.SYN_SENT or self.setup.sealed and not self.setup.secured:
            return Taken.CORRUPT  # too early: the keys are still under way, and it will be sent again
        result = self.channel.take(packet, length, now)
        if self.channel.challenged:
            self.path.take_challenge(source, self.channel.challenge)
        if self.channel.responded:
            self.path.take_response(self.channel.response, now)
        if self.channel.close != NULL:
            self.take_close(self.channel.close)
        if result == Taken.ACCEPTED:
            self.heard_from(source, length, now)
        elif result == Taken.WRONG and self.state == ConnectionState.OPEN:
            self.end(EndCode.BAD_PACKET, "the other side broke the protocol", now)
        elif result == Taken.REPEATED and self.state == ConnectionState.DRAINING:
            self.close_due = True
        return result

    cdef void receive_run(
            self, uint8_t *p, uint32_t length, uint32_t each, const PeerAddress *at, int64_t now) noexcept:
        """Take consecutive packets of `each` bytes, the last one perhaps shorter."""
        while length > each > 0:
            self.receive(p, each, at, now)
            p += each
            length -= each
        self.receive(p, length, at, now)

    cdef Denial denied(self, const uint8_t *packet, uint32_t length, const PeerAddress *source) noexcept:
        """What an UNKNOWN means: nothing if it is not from where our packets go."""
        cdef uint64_t id = get64(packet + 20)
        if self.state != ConnectionState.OPEN or not self.setup.active or not same_address(source, &self.path.peer) or (
                not self.setup.is_intact(packet, length)):
            return Denial.NONE
        if id == 0:
            return Denial.ASKED
        return Denial.DENIED if id == self.channel.remote_id else Denial.NONE

    cdef void take_setup(self, const uint8_t *packet, uint32_t length, int64_t now) noexcept:
        """A packet that is not DATA."""
        cdef SetUpNews news = self.setup.take(self.state, packet, length, now)
        if news == SetUpNews.AGREED:
            self.move(ConnectionCause.ANSWER)
            self.agree(now)
        elif news == SetUpNews.HEARD:
            self.heard_now(now)
        elif news == SetUpNews.REFUSED:
            self.take_close(packet + PACKET_HEADER_BYTES)
        elif news == SetUpNews.IMPOSSIBLE:
            self.end(EndCode.VERSION, self.setup.mismatch, now)

    cdef void agree(self, int64_t now) noexcept:
        """Both sides' options and numbers are known."""
        self.heard_now(now)
        if self.setup.agree(now) < 0:
            self.end(EndCode.NO_MEMORY, "out of memory", now)
        elif not self.setup.sealed:
            self.move(ConnectionCause.KEYS)

    cdef void heard_now(self, int64_t now) noexcept:
        """The peer gave a sign of life."""
        self.received_at = now
        self.idle_at = now + self.idle_us
        self.keepalive_at = now + self.keepalive_us

    cdef void heard_from(self, const PeerAddress *source, uint32_t length, int64_t now) noexcept:
        """An authentic, new DATA packet came."""
        cdef bint woken = not self.channel.answered and self.channel.recovery.tries > (
            0 if now - self.received_at > self.channel.timeout_us(1) else 1)
        self.heard_now(now)
        if not self.setup.confirmed:
            self.setup.confirm()
        if not self.was_established:
            self.was_established = self.established_event = True
        if self.state == ConnectionState.DRAINING:
            self.close_due = self.close_due or self.channel.eliciting
            if self.channel.peer_done and self.end_code == EndCode.DONE:
                self.move(ConnectionCause.PEER_END)  # both know: nobody needs an answer any more
            return
        if woken:
            self.channel.woken(now)
        self.path.note_source(source, length)
        if self.channel.recovery.failed:
            self.end(EndCode.NO_MEMORY, "out of memory", now)
        self.check_done(now)

    # ---- the end

    cdef void take_close(self, const uint8_t *message) noexcept:
        """The peer gives up; `message` is that of CLOSE."""
        cdef int code = get16(message)
        if self.state == ConnectionState.CLOSED:
            return
        if self.state == ConnectionState.DRAINING:
            self.move(ConnectionCause.PEER_END)
            return
        self.end_code = code if code > 0 else EndCode.ABORTED
        self.end_reason_bytes = min(message[2], <uint32_t>MAX_END_REASON_BYTES)
        memcpy(self.end_reason, message + 3, self.end_reason_bytes)
        self.end_local = False
        self.ended_event = True
        self.move(ConnectionCause.PEER_END)

    cdef void check_done(self, int64_t now) noexcept:
        """Both streams arrived completely: say so, and stay to say it again."""
        if self.state == ConnectionState.OPEN and outflow_done(&self.channel.out) and inflow_done(&self.channel.inp):
            self.end_code = EndCode.DONE
            self.end_local = self.ended_event = True
            self.move(ConnectionCause.FINISHED)
            self.start_draining(now)

    cdef void end(self, int code, const char *reason, int64_t now) noexcept:
        """Give up for `reason`."""
        if self.state == ConnectionState.CLOSED or self.state == ConnectionState.DRAINING:
            return
        self.end_code = code
        self.end_reason_bytes = <uint32_t>min(strlen(reason), <size_t>MAX_END_REASON_BYTES)
        memcpy(self.end_reason, reason, self.end_reason_bytes)
        self.end_local = self.ended_event = True
        self.move(ConnectionCause.GIVE_UP)
        if self.state == ConnectionState.DRAINING:
            self.start_draining(now)

    cdef void start_draining(self, int64_t now) noexcept:
        """Tell the peer, and stay as long as it may take to ask again: its timeout may be longer than ours."""
        self.close_due = True
        self.closes = 0
        self.close_at = now + self.channel.timeout_us(0)
        self.drain_at = now + DRAIN_TIMEOUTS * max(self.channel.timeout_us(0), <int64_t>FIRST_RTO_US)
        self.setup.repeat_at = self.keepalive_at = self.idle_at = self.path.ask_at = NEVER

    cdef void fall_silent(self, int code, const char *reason, int64_t now) noexcept:
        """Nobody answers. When only the ack of our FIN is missing, nothing is: the peer has ended and gone."""
        cdef Channel channel = self.channel
        if self.state == ConnectionState.SYN_SENT:
            self.end(EndCode.TIMED_OUT, "the other side does not answer", now)
        elif self.state == ConnectionState.OPEN and outflow_end(&channel.out) - channel.out.acked_to == 1 \
                and channel.out.finished and inflow_done(&channel.inp):
            outflow_acked(&channel.out, channel.out.acked_to, outflow_end(&channel.out))
            self.check_done(now)
        else:
            self.end(code, reason, now)

    # ---- time

    cpdef int64_t deadline(self) noexcept:
        """When `handle_timeout` is to be called; NEVER (2**63 - 1) when nothing is to be waited for."""
        cdef int64_t at
        if self.state == ConnectionState.CLOSED:
            return NEVER
        if self.state == ConnectionState.DRAINING:
            return min(self.drain_at, self.close_at)
        at = min(min(self.setup.repeat_at, self.path.ask_at), min(self.keepalive_at, self.idle_at))
        return min(at, self.channel.wake_at()) if self.state == ConnectionState.OPEN else at

    cpdef void handle_timeout(self, int64_t now) noexcept:
        """Do what is due; `poll_transmit` has the packets that follow from it."""
        if self.state == ConnectionState.DRAINING:
            if now >= self.drain_at:
                self.move(ConnectionCause.QUIET)
            elif now >= self.close_at:
                self.close_due = True
                self.closes += 1
                self.close_at = now + self.channel.timeout_us(self.closes)
            return
        if self.state == ConnectionState.CLOSED:
            return
        if now >= self.idle_at and self.cut_off_at > 0:
            self.idle_at += now - self.cut_off_at  # the peer may still be there: this host could not have heard it
            self.cut_off_at = now
        if now >= self.idle_at:
            self.fall_silent(EndCode.IDLE, "nothing heard from the other side for too long", now)
            return
        if now >= self.setup.repeat_at and not self.setup.repeat():
            self.end(EndCode.TIMED_OUT, "the other side does not answer", now)
        if now >= self.path.ask_at:
            self.path.ask_again(now)
        if now >= self.keepalive_at:
            self.keepalive_at = now + self.keepalive_us
            if self.channel.recovery.waiting == 0:
                self.channel.ping_due = True  # whoever waits for an ack asks anyway
        if self.state == ConnectionState.OPEN:
            self.open_timeouts(now)

    cdef void open_timeouts(self, int64_t now) noexcept:
        cdef Channel channel = self.channel
        if now >= channel.acks.due_at:
            channel.acks.due = True
        if now >= channel.recovery.loss_at:
            channel.lose(now)
        elif channel.recovery.loss_at == NEVER and now >= channel.recovery.timeout_at(channel.peer_delay_us):
            if 0 < self.setup.retries <= channel.recovery.tries:
                self.fall_silent(EndCode.TIMED_OUT, "the other side does not answer any more", now)
            else:
                channel.time_out(now)

    cpdef void sent_off(self, bint left, int64_t now) noexcept:
        """Packets have left this host, or it has no route for them: then silence says nothing about the peer."""
        if left:
            if self.cut_off_at > 0 and self.idle_at != NEVER:
                self.idle_at += now - self.cut_off_at
            self.cut_off_at = 0
        elif self.cut_off_at == 0 and self.setup.active and self.state == ConnectionState.OPEN:
            self.cut_off_at = now

    cpdef void excuse(self, int64_t late_us, int64_t now) noexcept:
        """This process was stopped for that long: what the peer said meanwhile has not been read yet."""
        if self.idle_at != NEVER:
            self.idle_at += late_us
        self.probe(now)

    cpdef void packet_too_big(self, uint32_t packet_bytes, int64_t now) noexcept:
        """The host refuses packets of that size (EMSGSIZE)."""
        mtu_too_big(&self.channel.mtu, packet_bytes, now)
        self.channel.congestion.on_packet_size(self.channel.mtu.current)

    # ---- packets out

    cdef int poll_transmit(self, Transmit *out, int64_t now) noexcept:
        """Write the next run of packets to out.data; returns how many, 0: nothing now."""
        cdef Channel channel = self.channel
        cdef int count
        out.length = out.count = 0
        out.to = self.path.where()
        if self.state == ConnectionState.CLOSED or self.state == ConnectionState.NEW:
            return 0
        if self.setup.due and self.setup.packet(self.state, out, now):
            return 1
        if self.close_due and self.close_packet(out, now):
            return 1
        if self.state != ConnectionState.OPEN:
            return 0
        if (self.path.challenge_due or self.path.response_due) and self.path.packet(out, now):
            return 1
        if self.path.show_due and self.path.show_address(out, now):
            return 1
        count = self.path.trial(out, now)
        if count > 0:
            return count
        out.to = self.path.where()
        count = channel.fill(out, now)
        if count == 0 and outflow_blocked(&channel.out) and channel.recovery.waiting == 0 \
                and self.asked_limit != channel.out.limit:
            self.asked_limit = channel.out.limit
            channel.ping_due = True  # the credit may be in an ack that was lost
            count = channel.fill(out, now)
        return count

    cdef int close_packet(self, Transmit *out, int64_t now) noexcept:
        """CLOSE, with an ack of everything before; a refusal in the clear while there are no keys."""
        cdef Channel channel = self.channel
        cdef uint8_t *control = out.data + PACKET_HEADER_BYTES
        cdef uint32_t length = 0
        self.close_due = False
        if self.setup.sealed and not self.setup.secured:
            put16(control, self.end_code)
            control[2] = self.end_reason_bytes
            memcpy(control + 3, self.end_reason, self.end_reason_bytes)
            return channel.build_clear(out, PacketType.HANDSHAKE, 0, 3 + self.end_reason_bytes)
        length = acks_write(&channel.acks, control, CLOSE_ACK_BYTES, channel.inp.limit, channel.expected(), now)
        acks_sent(&channel.acks)
        control[length] = ControlType.CLOSE
        put16(control + length + 1, self.end_code)
        control[length + 3] = self.end_reason_bytes
        memcpy(control + length + 4, self.end_reason, self.end_reason_bytes)
        channel.build_bare(out, length + 4 + self.end_reason_bytes, 0, now)
        if channel.peer_done:
            self.move(ConnectionCause.PEER_END)  # both sides know now; if this packet is lost, the peer ends by itself
        return out.count

    # ---- events and getters

    cdef void poll_event(self, ConnectionEvent *event) noexcept:
        """Say what happened, one thing a call, NOTHING at the end."""
        event.kind = ConnectionEventKind.NOTHING
        event.length = 0
        if self.end_told:
            return  # packets still arrive, but for the program it is over
        if self.setup.handshake_event:
            self.setup.handshake_event = False
            event.kind = ConnectionEventKind.HANDSHAKE_DATA
            event.data = self.setup.heard
            event.length = self.setup.heard_bytes
        elif self.established_event:
            self.established_event = False
            event.kind = ConnectionEventKind.ESTABLISHED
        elif self.path.address_event:
            self.path.address_event = False
            event.kind = ConnectionEventKind.ADDRESS_CHANGED
        elif self.path.seen_event:
            self.path.seen_event = False
            event.kind = ConnectionEventKind.ADDRESS_SEEN
        elif self.path.asked_event:
            self.path.asked_event = False
            event.kind = ConnectionEventKind.ADDRESS_ASKED
        elif self.ended_event:
            self.ended_event = False
            self.end_told = True
            event.kind = ConnectionEventKind.ENDED
            event.code = self.end_code
            event.local = self.end_local
            event.data = self.end_reason
            event.length = self.end_reason_bytes

    @property
    def prologue(self):
        """What both sides have agreed on, for the handshake to authenticate; empty before the SYN-ACK."""
        return (<char *>self.setup.prologue_bytes)[:self.setup.prologue_length]

    @property
    def read_ended(self):
        """The application has taken everything and the peer's FIN came behind it."""
        return bool(inflow_done(&self.channel.inp))

    @property
    def write_ended(self):
        """Everything written and the FIN are acknowledged."""
        return bool(outflow_done(&self.channel.out))
