"""One connection over datagrams: a reliable byte stream each way, without I/O and without a clock.

Kinds of method and their order:

* input:    `receive` for a packet (`receive_run` for the equal-sized ones of one GRO read), `handle_timeout` when
            `deadline` is reached, `path_broken` and `packet_too_big` for what a socket reports.
            Then `poll_event` until it says NOTHING.
* commands: `connect` or `accept`, once, first; `send_handshake`, `secure`; `write_space` and `wrote`, `finish`;
            `read_view` and `consume`; `probe`, `abort`.
* output:   `poll_transmit` until it returns 0: after every input and command, at every deadline.
* getters:  everything else.

Times are microseconds of a monotonic clock; sizes are bytes. Packet memory belongs to the caller; `receive` opens
packets in place, so it changes it.

Sealed connections (config.sealed): after ACK (active side: `send_handshake` before `connect`, with the first message)
each HANDSHAKE event is answered by `send_handshake` (or not, when the pattern has no more messages) and, as soon as
the keys are known, `secure`. The engine repeats what is lost. ESTABLISHED comes when keys are known and the peer
has shown that it has them too. `prologue` is what both sides must feed to their handshake before its first message.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from mproxy._ring cimport Ring, iovec
from mproxy.datagram._listener cimport Accepted
from mproxy.datagram._packet cimport Address, Seal


cpdef enum ConnectionState:
    NEW       # neither `connect` nor `accept` yet
    SYN_SENT  # waiting for SYN-ACK
    SECURING  # handshake messages go to and fro
    OPEN      # streams flow
    DRAINING  # everything is done here; answers the peer's repetitions for 3 timeouts
    CLOSED    # nothing goes in or out


cpdef enum DatagramEvent:
    NOTHING          # no more
    HANDSHAKE_DATA   # `data`: a handshake message of the peer
    ESTABLISHED      # `read_view` and `write_space` make sense from now on (writing was possible before)
    ADDRESS_CHANGED  # the peer is at `peer` from now on, checked by a challenge
    ENDED            # over: `code` is an EndCode, 0 when both streams arrived; `data` says why; CLOSED or DRAINING


cdef struct Event:
    DatagramEvent kind    # what happened
    const uint8_t *data   # HANDSHAKE_DATA, ENDED (UTF-8 text): valid until the next call
    uint32_t length       # bytes at `data`
    int code              # ENDED: EndCode
    bint local            # ENDED: this side found the reason


cdef struct Transmit:
    uint8_t *data           # in: where packets go
    uint32_t room           # in: bytes there; at least packet_bytes, up to 64 KiB are used at once
    uint32_t most           # in: packets in one run at most (UDP_SEGMENT takes 64; 1 where GSO does not work)
    uint32_t length         # out: bytes written
    uint32_t segment_bytes  # out: size of each packet but the last, which may be shorter
    uint32_t count          # out: packets
    const Address *to       # out: where to, valid until the next call
    bint is_probe           # out: asks whether so large a packet gets through: never fragment, and losing it is fine


cdef class Connection:
    # input
    cdef int receive(self, uint8_t *packet, uint32_t length, const Address *source, int64_t now) noexcept
    cdef void receive_run(self, uint8_t *packets, uint32_t length, uint32_t segment_bytes, const Address *source,
                          int64_t now) noexcept
    cpdef void handle_timeout(self, int64_t now) noexcept
    cpdef void packet_too_big(self, uint32_t packet_bytes, int64_t now) noexcept
    cpdef void path_broken(self, int64_t now) noexcept
    cdef void poll_event(self, Event *event) noexcept
    # commands
    cdef void connect(self, const Address *to, int64_t now) noexcept
    cdef void accept(self, const Accepted *accepted, int64_t now) noexcept
    cdef int send_handshake(self, const uint8_t *data, uint32_t length) noexcept
    cdef void secure(self, const Seal *sending, const Seal *receiving) noexcept
    cdef int write_space(self, uint32_t most, iovec *out) noexcept
    cdef void wrote(self, uint32_t length, int64_t now) noexcept
    cpdef void finish(self) noexcept
    cdef int read_view(self, uint32_t most, iovec *out) noexcept
    cdef void consume(self, uint32_t length) noexcept
    cpdef void probe(self, int64_t now) noexcept
    cpdef void abort(self, int code, bytes reason) noexcept
    # output
    cdef int poll_transmit(self, Transmit *out, int64_t now) noexcept
    cpdef int64_t deadline(self) noexcept
