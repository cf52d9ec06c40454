"""The set-up of a connection: three packets, then the handshake for keys if there are to be any.

    active                                         passive
    1  SYN: options, padded                   ->   nothing is kept (_listener)
    2                                         <-   SYN-ACK: options, cookie
    3  ACK: cookie, handshake message 1       ->   address and options checked: a connection
    4                                         <-   HANDSHAKE 2; without keys a DATA packet
    5  HANDSHAKE 3 if the pattern has it, DATA ->

Whoever waits for an answer repeats its last packet, and waits twice as long each time. Without keys, bytes of the
stream follow packet 3 at once.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from mproxy.transport._channel cimport Transmit
from mproxy.transport._listener cimport OPTIONS_BYTES, PROLOGUE_BYTES, Accepted, Options
from mproxy.transport._packet cimport MAX_HANDSHAKE_BYTES, PeerAddress, Seal
from mproxy.transport._path cimport Path
from mproxy.transport._states cimport ConnectionCause, ConnectionState


cdef enum:
    FIRST_SETUP_US = 250000     # to each of the first two repetitions of SYN; they are small and few


cdef class SetUp(Path):
    cdef readonly ConnectionState state  # changed by `move` alone
    cdef readonly bint active            # this side dialled
    cdef bint sealed                     # packets need keys
    cdef bint secured                    # packets have keys
    cdef readonly int retries            # most tries without an answer; 0: no limit
    cdef Options options                 # ours
    cdef uint64_t first_out              # our first packet number, taken by the set-up
    cdef uint64_t first_in               # the peer's
    cdef uint8_t cookie[12]              # active side: time and cookie, to be returned
    cdef uint8_t peer_options[OPTIONS_BYTES]  # as they arrived
    cdef uint32_t prologue_length        # 0 before the SYN-ACK
    cdef uint8_t prologue_bytes[PROLOGUE_BYTES]  # what both sides have agreed on
    cdef uint8_t handshake[MAX_HANDSHAKE_BYTES]  # our last message
    cdef uint32_t handshake_bytes        # its length
    cdef int handshake_index             # its number; 0: none yet; odd: the active side's
    cdef uint8_t heard[MAX_HANDSHAKE_BYTES]  # the peer's last message
    cdef uint32_t heard_bytes            # its length
    cdef bint handshake_event            # `heard` is to be told
    cdef bint setup_due                  # send (again) the packet that the set-up waits on
    cdef bint confirmed                  # the peer's answer shows that it has our last set-up packet
    cdef int setup_tries                 # how often it was sent
    cdef int64_t setup_sent_at           # when it was last sent
    cdef int64_t setup_at                # when to repeat it

    cdef void connect(self, const PeerAddress *to, int64_t now) noexcept
    cdef void accept(self, const Accepted *accepted, int64_t now) noexcept
    cdef int send_handshake(self, const uint8_t *data, uint32_t length) noexcept
    cdef void secure(self, const Seal *sending, const Seal *receiving, int64_t now) noexcept

    # inner
    cdef void take_setup(self, const uint8_t *packet, uint32_t length, int64_t now) noexcept
    cdef void take_syn_ack(self, const uint8_t *packet, uint32_t control_bytes, int64_t now) noexcept
    cdef void take_handshake(self, const uint8_t *packet, uint32_t control_bytes, int64_t now) noexcept
    cdef bint is_intact(self, const uint8_t *packet, uint32_t length) noexcept
    cdef void answered_setup(self, int64_t now) noexcept
    cdef void repeat_setup(self, int64_t now) noexcept
    cdef void confirm(self) noexcept
    cdef int setup_packet(self, Transmit *out, int64_t now) noexcept
    cdef int seal_clear(self, Transmit *out, int kind, uint64_t number, uint32_t control_bytes) noexcept
    # overridden by Connection
    cdef void move(self, ConnectionCause cause) noexcept
    cdef void heard_now(self, int64_t now) noexcept
    cdef void take_close(self, int code, const uint8_t *reason, uint32_t length) noexcept
    cdef void end(self, int code, const char *reason, bint local, int64_t now) noexcept
