"""The set-up of a connection: three packets, then the handshake for keys if there are to be any. What a Connection has
as `setup`.

    active                                         passive
    1  SYN: options, padded                   ->   nothing is kept (_listener)
    2                                         <-   SYN-ACK: options, cookie
    3  ACK: cookie, handshake message 1       ->   address and options checked: a connection
    4                                         <-   HANDSHAKE 2; without keys a DATA packet
    5  HANDSHAKE 3 if the pattern has it, DATA ->

It does not know the connection's state but as an argument, and changes it by what it returns.

Whoever waits for an answer repeats its last packet, and waits twice as long each time. Without keys, bytes of the
stream follow packet 3 at once.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from mproxy.transport._channel cimport Channel, Transmit
from mproxy.transport._listener cimport OPTIONS_BYTES, PROLOGUE_BYTES, Accepted, Options
from mproxy.transport._packet cimport Seal
from mproxy.transport._states cimport ConnectionState


cdef enum:
    FIRST_SETUP_US = 250000     # to each of the first two repetitions of SYN; they are small and few


cdef enum SetUpNews:
    NO_NEWS      # nothing that the connection must know
    AGREED       # active side: the SYN-ACK came: `agree`
    HEARD        # a handshake message came: a sign of life
    REFUSED      # the peer refuses our handshake: its code and reason are the packet's control part, as in CLOSE
    IMPOSSIBLE   # the two do not go together: `mismatch` says why


cdef class SetUp:
    cdef Channel channel                 # what is set up
    cdef bint active                     # this side dialled
    cdef bint sealed                     # packets need keys
    cdef bint secured                    # packets have keys
    cdef bint veiled                     # ids change with the path, and numbers are veiled
    cdef int routing_bits                # of ids for the passive side: its first bits never change
    cdef uint64_t tag                    # active side: shown with the SYN, to reach the worker that has it; 0: none
    cdef int retries                     # most tries without an answer; 0: no limit
    cdef Options options                 # ours
    cdef uint64_t first_out              # our first packet number, taken by the set-up
    cdef uint64_t first_in               # the peer's
    cdef uint8_t cookie[12]              # active side: time and cookie, to be returned
    cdef uint8_t peer_options[OPTIONS_BYTES]  # as they arrived
    cdef uint32_t prologue_length        # 0 before the SYN-ACK
    cdef uint8_t prologue_bytes[PROLOGUE_BYTES]  # what both sides have agreed on
    cdef uint8_t *handshake              # our last message, until it is confirmed; NULL: none
    cdef uint32_t handshake_bytes        # its length
    cdef int handshake_index             # its number; 0: none yet; odd: the active side's
    cdef uint8_t *heard                  # the peer's last message, until ours is confirmed; NULL: none
    cdef uint32_t heard_bytes            # its length
    cdef bint handshake_event            # `heard` is to be told
    cdef const char *mismatch            # of IMPOSSIBLE
    cdef bint due                        # send (again) the packet that the set-up waits on
    cdef bint confirmed                  # the peer's answer shows that it has our last set-up packet
    cdef int tries                       # how often it was sent
    cdef int64_t sent_at                 # when it was last sent
    cdef int64_t repeat_at               # when to repeat it

    cdef void dial(self) noexcept
    cdef void accept(self, const Accepted *accepted) noexcept
    cdef int agree(self, int64_t now) noexcept
    cdef int send_handshake(self, const uint8_t *data, uint32_t length) noexcept
    cdef void secure(self, const Seal *sending, const Seal *receiving) noexcept
    cdef SetUpNews take(self, ConnectionState state, const uint8_t *packet, uint32_t length, int64_t now) noexcept
    cdef void confirm(self) noexcept
    cdef bint repeat(self) noexcept
    cdef int packet(self, ConnectionState state, Transmit *out, int64_t now) noexcept

    # inner
    cdef SetUpNews take_syn_ack(self, const uint8_t *packet, uint32_t control_bytes, int64_t now) noexcept
    cdef SetUpNews take_handshake(self, ConnectionState state, const uint8_t *packet, uint32_t control_bytes) noexcept
    cdef bint is_intact(self, const uint8_t *packet, uint32_t length) noexcept
