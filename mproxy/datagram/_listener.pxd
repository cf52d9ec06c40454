"""The passive side before there is a connection: SYN answered without keeping anything, ACK checked by its cookie.

A program with a socket does this with a packet: when `packet_id` is a connection's, `Connection.receive`; otherwise
`Listener.receive`, and on ACCEPT `Connection.accept`.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from mproxy.datagram._packet cimport Address


cdef enum:
    ANSWER_BYTES = 256   # largest answer of a listener; never longer than the packet it answers


cdef enum ListenResult:
    DROP     # not for a listener, not authentic, cookie too old, or used already
    ANSWER   # send `answer`
    ACCEPT   # a connection: give `Accepted` to a new Connection, and its own first packet follows from that


cdef struct Options:
    uint8_t flags             # OptionFlag
    uint32_t packet_bytes     # largest packet this side takes
    uint32_t ack_delay_us     # longest it waits with an ack
    uint64_t credit           # bytes of stream it takes before its first ack


cdef struct Accepted:
    Address address           # of the client, shown by the cookie to be its own
    uint64_t client_id        # destination id of packets to it
    uint64_t server_id        # destination id of its packets
    uint64_t client_number    # its first packet number
    uint64_t server_number    # ours
    Options options           # the client's
    const uint8_t *handshake  # first handshake message, inside the packet given
    uint32_t handshake_bytes  # its length, 0: none
    const uint8_t *prologue   # what SYN and SYN-ACK agreed on, for the handshake to authenticate
    uint32_t prologue_bytes   # its length


cdef class Listener:
    cdef readonly uint64_t syns        # SYNs answered
    cdef readonly uint64_t accepted    # connections begun
    cdef readonly uint64_t refused     # ACKs whose cookie was wrong, too old, or used already

    cdef ListenResult receive(self, const uint8_t *packet, uint32_t length, const Address *from_address, int64_t now,
                              uint8_t *answer, uint32_t *answer_bytes, Accepted *accepted) noexcept
