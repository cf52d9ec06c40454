"""The passive side before there is a connection: SYN answered without keeping anything, ACK checked by its cookie.

A program with a socket does this with a packet: when `packet_id` is a connection's, `Connection.receive`; otherwise
`Listener.receive`, and on ACCEPT `Connection.accept`.

    SYN        number: the client's first; offset: its id; control: options 18, routing tag 8 (0: none); padded to
               BASE_PACKET_BYTES
    SYN_ACK    number: the server's first; offset: its id; control: options 18, time 4, cookie 8
    ACK        number, offset as SYN; control: options 18, server's options 18, time 4, cookie 8, handshake
    options    version 1, flags 1 (of a server: routing bits in bits 4 to 6), packet bytes 4, ack delay 4, credit 8

The cookie is SipHash-2-4 under the listener's secret over address, client id, number, both options and time. The
server's id and first number are made the same way, so the ACK is enough to make them again. A cookie is valid for
COOKIE_US and for one use: ids accepted are remembered that long.

Of several workers of a server each has a Listener, all with one secret. The first bits of a server's id are the number
of the worker that is to have the connection (`Routing`): so the ACK, and all packets after it, lead there. The cookie
is of that number, too. Whoever dials with the tag of a session gets the worker that has it.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from mproxy.transport._packet cimport PeerAddress


cdef enum:
    ANSWER_BYTES = 256        # room for the answer of a listener, which is never longer than what it answers
    COOKIE_US = 60000000      # longer than a client keeps trying
    REMEMBERED = 8192         # ids accepted: 128 a second for as long as a cookie is valid
    REMEMBERED_WAYS = 8       # places where an id may be
    SHARES = 1024             # sources told apart; two may share one
    SHARE_EVERY_US = 5000     # connections of one source: 200 a second; each costs us some hundred microseconds
    SHARE_BURST = 256         # after a pause
    OPTIONS_BYTES = 18
    SYN_ACK_CONTROL_BYTES = 30
    ACK_CONTROL_BYTES = 48    # without the handshake message
    PROLOGUE_BYTES = 68       # ids 16, numbers 16, options 36


cpdef enum OptionFlag:
    SEALED = 0x01    # packets after the set-up are sealed
    GO_BACK = 0x02   # recovery gbn in both directions; the client chooses
    VEILED = 0x04    # of sealed packets: ids change with the path, numbers are veiled; if both sides say so
    ROUTED = 0x08    # the client's: its ids for the server begin with the routing bits, however they change


cdef enum:
    ROUTING_SHIFT = 4    # of the number of routing bits in a server's flags
    MOST_ROUTING_BITS = 6
    ROUTED_EVERY_US = 500  # SYNs for which it is asked who is to have them: 2,000 a second; for others it is guessed
    ROUTED_BURST = 1024  # after a pause
    DENIED_EVERY_US = 1000  # packets of no connection that are answered: 1,000 a second, less bytes than they have
    DENIED_BURST = 256   # after a pause: all clients of a process that has died
    DENIED_LEAST = 44    # bytes of a sealed packet, at least


cdef enum ListenResult:
    DROP     # not for a listener, not authentic, or the cookie is too old or used already
    ANSWER   # send `answer`
    ACCEPT   # a connection: give `Accepted` to a new Connection, which then has a packet to send


cdef struct Options:
    uint8_t version           # DATAGRAM_VERSION
    uint8_t flags             # OptionFlag
    uint32_t packet_bytes     # largest packet this side takes
    uint32_t ack_delay_us     # longest time it holds an ack back
    uint64_t credit           # bytes of stream it takes before its first ack


cdef struct Accepted:
    PeerAddress address       # the client's, proven by the cookie
    uint64_t client_id        # destination id of packets to it
    uint64_t server_id        # destination id of its packets
    uint64_t client_number    # its first packet number
    uint64_t server_number    # ours
    Options options           # the client's
    uint8_t flags             # ours, as they were offered to it
    const uint8_t *handshake  # first handshake message, inside the packet given
    uint32_t handshake_bytes  # its length, 0: none
    uint8_t prologue[PROLOGUE_BYTES]  # what SYN and SYN-ACK agreed on, for the handshake to authenticate


cdef struct Reply:
    uint8_t answer[ANSWER_BYTES]  # ANSWER: send this back
    uint32_t answer_bytes     # its length
    Accepted accepted         # ACCEPT: what the connection begins with


cdef struct Used:
    uint64_t id       # accepted
    int64_t until     # its cookie is valid until then


cdef void put_unknown(uint8_t *out, uint64_t id) noexcept nogil
cdef void put_options(uint8_t *p, const Options *options) noexcept nogil
cdef void get_options(const uint8_t *p, Options *options) noexcept nogil
cdef void make_prologue(uint8_t *out, uint64_t client_id, uint64_t server_id, uint64_t client_number,
                        uint64_t server_number, const uint8_t *client, const uint8_t *server) noexcept nogil


# Of a server with several workers: whose connections come here.
cdef class Routing:
    cdef readonly int bits             # the first bits of an id, which name the worker; 0: there is one alone
    cdef readonly int workers          # how many there are
    cdef public int own                # this one
    cdef readonly bytes secret         # of all their listeners, 16 bytes
    cdef public object choose          # (tag, client's PeerAddress.bytes) -> who is to have a new connection; None: own
    cdef public object guess           # (tag) -> the same, at once: who is most likely to have it

    cdef int worker_of(self, uint64_t id) noexcept
    cdef uint64_t lead(self, uint64_t id, int worker) noexcept


cdef class Listener:
    cdef uint8_t secret[16]            # of this listener; nobody else knows it
    cdef Options options               # offered to every client
    cdef Routing routing               # None: there is one worker alone
    cdef int64_t routed_at             # when the next SYN may ask `routing.choose`, if not in advance
    cdef int64_t denied_at             # when the next packet of no connection may be answered, if not in advance
    cdef Used *used                    # REMEMBERED ids
    cdef int64_t *shares               # SHARES, by source: when its next connection is due
    cdef readonly uint64_t syns        # SYNs answered
    cdef readonly uint64_t accepted    # connections begun
    cdef readonly uint64_t refused     # ACKs refused: cookie wrong, too old or used; or too many at once

    cdef int receive(self, const uint8_t *p, uint32_t length, const PeerAddress *at, int64_t now, Reply *out) noexcept
    cdef bint deny(self, const uint8_t *packet, uint32_t length, int64_t now, Reply *out) noexcept
    cdef uint32_t answer_syn(self, const uint8_t *packet, const PeerAddress *source, int64_t now, uint8_t *out) noexcept
    cdef bint check_ack(self, const uint8_t *packet, const PeerAddress *source, int64_t now, Accepted *out) noexcept
    cdef uint64_t derive(self, int purpose, const uint8_t *packet, const PeerAddress *source, uint32_t time,
                         int worker) noexcept
    cdef uint64_t server_id(self, const uint8_t *packet, const PeerAddress *source, uint32_t time, int worker) noexcept
    cdef int choose_worker(self, const uint8_t *packet, const PeerAddress *source, int64_t now) noexcept
    cdef uint8_t flags_for(self, const uint8_t *packet) noexcept
    cdef bint use(self, uint64_t id, int64_t now) noexcept
    cdef bint has_share(self, const PeerAddress *source, int64_t now) noexcept
