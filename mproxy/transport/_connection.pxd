"""One connection over datagrams: a reliable byte stream each way, without I/O and without a clock.

Kinds of method and their order:

* input:    `receive` for a packet (`receive_run` for the equal-sized ones of one GRO read), `handle_timeout` when
            `deadline` is reached, `packet_too_big` and `sent_off` for what a socket reports, `excuse` when the process
            was stopped. Then `poll_event` until it says NOTHING.
* commands: `connect` or `accept`, once, first; `send_handshake`, `secure`; `write_space` and `wrote`, `finish`;
            `read_view` and `consume`; `probe`, `abort`.
* output:   `poll_transmit` until it returns 0: after every input and command, at every deadline.
* getters:  everything else.

Times are microseconds of a monotonic clock; sizes are bytes. Packet memory belongs to the caller; `receive` opens
packets in place, so it changes it. Views of `read_view` and `write_space` hold until the next call.

Sealed connections (config.sealed): HANDSHAKE_DATA without data asks the active side for the first message (after the
SYN-ACK; `prologue` is known from then on). HANDSHAKE_DATA with data brings a message of the peer; it is answered by
`send_handshake` unless the pattern has no more, and, as soon as the keys are known, by `secure`; a message that is not
authentic is not answered. The engine repeats what is lost.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from mproxy._ring cimport iovec
from mproxy.transport._channel cimport Channel, Transmit
from mproxy.transport._listener cimport Accepted
from mproxy.transport._packet cimport PeerAddress, Seal
from mproxy.transport._path cimport Path
from mproxy.transport._setup cimport SetUp
from mproxy.transport._states cimport ConnectionCause, ConnectionState


cdef enum:
    MAX_END_REASON_BYTES = 200  # text that says why a connection ended
    DRAIN_TIMEOUTS = 3          # how long DRAINING lasts (RFC 9000 section 10.2); each is at least FIRST_RTO_US


cpdef enum Denial:
    NONE     # not about this connection
    ASKED    # whoever is at the peer's address knows none of the connections to here: a packet of ours brings certainty
    DENIED   # he does not know this one


cpdef enum ConnectionEventKind:
    NOTHING          # there are no more events
    HANDSHAKE_DATA   # `data`: a handshake message of the peer; without data: send the first one
    ESTABLISHED      # the peer has shown that it is there and has the keys; writing was possible before
    ADDRESS_CHANGED  # from now on the peer is at `peer`, as a challenge has shown
    ADDRESS_SEEN     # the peer may have moved to `path.candidate`: is that to be trusted? Told if `path.judged`
    ADDRESS_ASKED    # the peer has asked whether we are where it sees us: it had not seen us there before
    ENDED            # the end: `code` is an EndCode, 0 when both streams arrived; `data` says why


cdef struct ConnectionEvent:
    ConnectionEventKind kind  # what happened
    const uint8_t *data       # HANDSHAKE_DATA, ENDED (UTF-8 text): valid until the next call
    uint32_t length           # bytes at `data`
    int code                  # ENDED: EndCode
    bint local                # ENDED: this side found the reason


cdef class Connection:
    cdef readonly ConnectionState state  # changed by `move` alone
    cdef Channel channel                 # DATA packets in and out
    cdef Path path                       # where packets go
    cdef SetUp setup                     # how it began
    # end
    cdef int end_code                    # EndCode
    cdef uint8_t end_reason[MAX_END_REASON_BYTES]  # UTF-8
    cdef uint32_t end_reason_bytes       # its length
    cdef bint end_local                  # this side found the reason
    cdef bint close_due                  # send CLOSE
    cdef int closes                      # how often it was sent again
    # time
    cdef int64_t keepalive_at            # when to ask the peer for a sign of life
    cdef int64_t idle_at                 # when to give it up
    cdef int64_t close_at                # DRAINING: when to repeat CLOSE
    cdef int64_t drain_at                # DRAINING: when it ends
    cdef int64_t received_at             # when the peer's last packet arrived
    cdef int64_t cut_off_at              # active side: since when this host has had no route to the peer; 0: it has one
    cdef int64_t keepalive_us            # interval
    cdef int64_t idle_us                 # longest silence
    cdef uint64_t asked_limit            # credit at which the peer was last asked for more
    # events not yet polled
    cdef bint established_event          # each as in ConnectionEventKind
    cdef bint ended_event                # each as in ConnectionEventKind
    cdef bint end_told                   # ENDED was given: nothing follows
    cdef bint was_established            # the event was given

    # input
    cdef int receive(self, uint8_t *packet, uint32_t length, const PeerAddress *source, int64_t now) noexcept
    cdef void receive_run(self, uint8_t *p, uint32_t length, uint32_t each, const PeerAddress *at, int64_t now) noexcept
    cpdef void handle_timeout(self, int64_t now) noexcept
    cpdef void sent_off(self, bint left, int64_t now) noexcept
    cpdef void excuse(self, int64_t late_us, int64_t now) noexcept
    cpdef void packet_too_big(self, uint32_t packet_bytes, int64_t now) noexcept
    cdef Denial denied(self, const uint8_t *packet, uint32_t length, const PeerAddress *source) noexcept
    cdef void poll_event(self, ConnectionEvent *event) noexcept
    # commands
    cdef void connect(self, const PeerAddress *to, int64_t now) noexcept
    cdef void accept(self, const Accepted *accepted, int64_t now) noexcept
    cdef int send_handshake(self, const uint8_t *data, uint32_t length) noexcept
    cdef void secure(self, const Seal *sending, const Seal *receiving) noexcept
    cdef int write_space(self, uint32_t most, iovec *out) noexcept
    cdef void wrote(self, uint32_t length) noexcept
    cpdef void finish(self) noexcept
    cdef int read_view(self, uint32_t most, iovec *out) noexcept
    cdef void consume(self, uint32_t length, int64_t now) noexcept
    cpdef void probe(self, int64_t now) noexcept
    cpdef void ask(self, int64_t now) noexcept
    cdef void expect(self, int64_t keepalive_us, int64_t idle_us, int64_t now) noexcept
    cpdef void abort(self, int code, bytes reason, int64_t now) noexcept
    # output
    cdef int poll_transmit(self, Transmit *out, int64_t now) noexcept
    cpdef int64_t deadline(self) noexcept

    # inner
    cdef void move(self, ConnectionCause cause) noexcept
    cdef void take_setup(self, const uint8_t *packet, uint32_t length, int64_t now) noexcept
    cdef void agree(self, int64_t now) noexcept
    cdef void open_timeouts(self, int64_t now) noexcept
    cdef void heard_now(self, int64_t now) noexcept
    cdef void heard_from(self, const PeerAddress *source, uint32_t length, int64_t now) noexcept
    cdef void take_close(self, const uint8_t *message) noexcept
    cdef void end(self, int code, const char *reason, int64_t now) noexcept
    cdef void check_done(self, int64_t now) noexcept
    cdef void start_draining(self, int64_t now) noexcept
    cdef void fall_silent(self, int code, const char *reason, int64_t now) noexcept
    cdef int close_packet(self, Transmit *out, int64_t now) noexcept
